package interop_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// testPageControls tests what a user does to a run with buttons and keys, in
// windows of several sizes.
func testPageControls(t *testing.T, chromium context.Context) {
	h := startHub(t)
	t.Run("Stop right after Run cancels the job", func(t *testing.T) {
		p, _ := writtenInPage(t, chromium, h)
		get[bool](p, `(() => { document.getElementById("run").click(); document.getElementById("stop").click(); return true; })()`)
		p.until(`$("state").textContent === "Stopped" && $("announce").textContent === "Stopped."`)
		p.checkNoProblem()
		if got := h.state(p, p.stream()); got != protocol.StateCancelled {
			t.Errorf("at the server the job is %s", got)
		}
	})
	t.Run("Esc stops what was started here, and nothing else", func(t *testing.T) {
		p, a := writtenInPage(t, chromium, h)
		p.do(chromedp.Click("#run", chromedp.NodeEnabled))
		p.until(`$("answer").textContent.length > 0 && !$("share").disabled`)
		id := p.stream()

		watcher := openTab(t, chromium, h.url)
		get[bool](watcher, fmt.Sprintf(`(location.hash = "stream=%s", true)`, id))
		watcher.until(`$("answer").textContent.length > 0`)
		watcher.do(chromedp.KeyEvent(kb.Escape))
		get[bool](p, `document.getElementById("code").dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", isComposing: true, bubbles: true }))`)
		p.do(chromedp.Focus("#analysis"), chromedp.KeyEvent(kb.Escape))
		a.goOn(2)
		for _, p := range []*tab{p, watcher} {
			p.until(`$("answer").textContent.includes("Paragraph 15") && !$("stop").disabled`)
		}
		if got := h.state(p, id); got != protocol.StateRunning {
			t.Fatalf("after an Esc that was not meant, the job is %s", got)
		}
		p.do(chromedp.Focus("#code"), chromedp.KeyEvent(kb.Escape))
		for _, p := range []*tab{p, watcher} {
			p.until(`$("state").textContent === "Stopped"`)
			p.checkNoProblem()
		}
	})
	t.Run("another text has no file's name", func(t *testing.T) {
		p := openTab(t, chromium, h.url)
		named := func(when, want string) {
			t.Helper()
			if got := get[string](p, `document.getElementById("filename").textContent`); got != want {
				t.Errorf("%s the name is %q, want %q", when, got, want)
			}
		}
		all := func() { // by the key: of what a script selects the editor hears later
			p.do(chromedp.Focus("#code"), chromedp.KeyEvent("a", chromedp.KeyModifiers(chromedp.ModifierCtrl)))
		}
		example := func() { p.do(chromedp.Click("#example", chromedp.NodeVisible)) }
		example()
		p.do(chromedp.Focus("#code"))
		p.do(chromedp.KeyEvent(kb.ArrowRight))
		p.paste("more")
		named("after a change", "server.go")
		all()
		p.paste("import os\n")
		named("after a paste over everything", "")
		example()
		named("of the example", "server.go")
		all()
		p.do(chromedp.KeyEvent(kb.Backspace))
		named("of no text", "")
	})
	t.Run("every control can be reached in a small window", func(t *testing.T) {
		p := openTab(t, chromium, h.url)
		p.do(chromedp.Click("#providers-box > summary", chromedp.NodeVisible))
		p.until(`document.querySelectorAll("#providers > tr").length === 2`)
		p.do(chromedp.Click("#example"))
		for _, size := range [][2]int64{{1280, 900}, {1280, 650}, {1280, 480}, {853, 533}, {640, 360}, {390, 844}} {
			p.do(chromedp.EmulateViewport(size[0], size[1]))
			for _, analysis := range []string{"review", "custom"} {
				p.choose("analysis", analysis)
				hidden := get[[]string](p, `(() => {
					const controls = [...document.querySelectorAll(".top button:not(#shortcuts-open), .source button, .source select, .source input:not([type=file]), .status select")].filter((e) => !e.closest("[hidden]"));
					const out = controls.length < 9 ? ["most controls"] : [];
					for (const e of controls) {
						// As a user scrolls: scrollIntoView would move what is cut off inside a panel, too.
						scrollTo({ top: e.getBoundingClientRect().top + scrollY - innerHeight / 2, behavior: "instant" });
						const b = e.getBoundingClientRect();
						const seen = document.elementFromPoint(b.left + b.width / 2, b.bottom - 3);
						if (seen !== e && !e.contains(seen)) out.push("#" + e.id);
					}
					scrollTo(0, 0);
					return out;
				})()`)
				if len(hidden) > 0 {
					t.Errorf("at %d×%d, %s: can't be reached: %q", size[0], size[1], analysis, hidden)
				}
			}
		}
	})
	t.Run("Run shows the results where they are below", func(t *testing.T) {
		p, a := writtenInPage(t, chromium, h)
		p.do(chromedp.EmulateViewport(390, 844), chromedp.Click("#run", chromedp.NodeEnabled))
		got := get[float64](p, `new Promise((resolve) => {
			const look = () => {
				const top = document.getElementById("results").getBoundingClientRect().top;
				if (Math.abs(top) < 2) resolve(top); else requestAnimationFrame(look);
			};
			look();
			setTimeout(() => resolve(document.getElementById("results").getBoundingClientRect().top), 10000);
		})`)
		if got > 2 || got < -2 {
			t.Errorf("the results are at %v of 844", got)
		}
		a.goOn(stages)
		p.until(`$("state").textContent === "Ended"`)
	})
	t.Run("a provider's refusal of its key is the provider's", func(t *testing.T) {
		p, _ := writtenInPage(t, chromium, h)
		h.upstream.script.SetScript(providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: http.StatusUnauthorized}})
		p.do(chromedp.Click("#run", chromedp.NodeEnabled))
		p.until(`!$("problem").hidden`)
		if got := get[string](p, `document.getElementById("problem").textContent`); !strings.HasPrefix(got, "openai refuses its API key") {
			t.Errorf("the page says %q", got)
		}
		if !get[bool](p, `document.getElementById("key-form").hidden`) {
			t.Error("the page asks the user for a key")
		}
	})
	t.Run("a transport that isn't offered can't be chosen", func(t *testing.T) {
		h := startHub(t, "--transports", "sse,long-poll")
		p, a := writtenInPage(t, chromium, h)
		p.until(`$("transport").querySelector("[value=websocket]").disabled`)
		if got := get[int](p, `document.querySelectorAll("#transport option:disabled").length`); got != 1 {
			t.Errorf("%d transports can't be chosen", got)
		}
		p.choose("transport", "websocket") // as a page does that has not asked yet
		p.do(chromedp.Click("#run", chromedp.NodeEnabled))
		p.until(`$("s-transport").textContent === "SSE" && $("answer").textContent.length > 0`)
		p.choose("transport", "long-poll")
		p.until(`$("s-transport").textContent === "long-poll" && $("state").textContent === "Live"`)
		p.choose("transport", "auto")
		p.until(`$("s-transport").textContent === "SSE" && $("state").textContent === "Live"`)
		a.goOn(stages)
		p.until(`$("state").textContent === "Ended" && !$("summary").hidden`)
		p.checkNoProblem()
	})
}

// writtenInPage opens the page with code in it, and the model chosen whose
// answer stops after its first part.
func writtenInPage(t *testing.T, chromium context.Context, h *hub) (*tab, *answer) {
	t.Helper()
	pieces, _ := pageAnswer()
	a := h.upstream.answerWith(pieces)
	t.Cleanup(func() { a.goOn(stages) })
	p := openTab(t, chromium, h.url)
	p.choose("provider", "openai")
	p.do(chromedp.Click("#code", chromedp.NodeVisible))
	p.paste(vulnerable + "// " + t.Name() + "\n") // no two tests have the same answer in the cache
	return p, a
}

func (p *tab) checkNoProblem() {
	p.t.Helper()
	if problem := get[string](p, `document.getElementById("problem").hidden ? "" : document.getElementById("problem").textContent`); problem != "" {
		p.t.Errorf("the page reports %q", problem)
	}
}

// stream is the id of the stream that the page shows.
func (p *tab) stream() string {
	p.t.Helper()
	id := strings.TrimPrefix(get[string](p, `location.hash`), "#stream=")
	if !protocol.ValidStreamID(id) {
		p.t.Fatalf("the page's address has the stream %q", id)
	}
	return id
}

// state is what the server says of a stream.
func (h *hub) state(p *tab, id string) protocol.State {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.ctx, http.MethodGet, h.url+"/v1/streams/"+id, http.NoBody)
	if err != nil {
		p.t.Fatal(err)
	}
	res, err := h.client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	var m protocol.Metadata
	if err := json.NewDecoder(res.Body).Decode(&m); err != nil {
		p.t.Fatal(err)
	}
	return m.State
}
