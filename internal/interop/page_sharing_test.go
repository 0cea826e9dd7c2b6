package interop_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/athena-hub/athena/providers/providertest"
)

const (
	userKey      = "athena-page-test-key-0123456789"
	unauthorized = `status of 401`
)

// testPageSharing tests what a user does with a run beside reading it.
func testPageSharing(t *testing.T, chromium context.Context) {
	open := startHub(t)
	t.Run("a link shows a second person the running stream", func(t *testing.T) { testShare(t, chromium, open, "") })
	t.Run("a link shows it to somebody without a key", func(t *testing.T) {
		testShare(t, chromium, startHub(t, "--api-key", "user="+userKey), userKey)
	})
	t.Run("a run can be downloaded, and its code shown again", func(t *testing.T) { testDownloads(t, chromium, open) })
	t.Run("four runs at once, and no fifth", func(t *testing.T) { testLimit(t, chromium, open) })
}

func testShare(t *testing.T, chromium context.Context, h *hub, key string) {
	pieces, paragraphs := pageAnswer()
	a := h.upstream.answerWith(pieces)
	t.Cleanup(func() { a.goOn(stages) })
	p := openTab(t, chromium, h.url, unauthorized)
	if key != "" {
		p.until(`!$("key-form").hidden`)
		p.do(chromedp.SendKeys("#key", key+kb.Enter))
	}
	p.choose("provider", "openai")
	p.do(chromedp.Click("#code", chromedp.NodeVisible))
	p.paste(vulnerable + "// " + t.Name() + "\n")
	p.do(chromedp.Click("#run", chromedp.NodeEnabled))
	p.until(`$("answer").textContent.length > 0 && !$("share").disabled`)
	p.allowClipboard()
	p.do(chromedp.Click("#share", chromedp.NodeEnabled))
	p.until(`$("announce").textContent.includes("done")`)
	link := get[string](p, `navigator.clipboard.readText()`)
	if strings.Contains(link, "&token=") != (key != "") || key != "" && strings.Contains(link, key) {
		t.Fatalf("the link is %s", link)
	}

	second := openTab(t, chromium, h.url, unauthorized) // in a session of its own, which knows no key
	second.do(chromedp.Navigate("about:blank"), chromedp.Navigate(link))
	second.until(`$("answer").textContent.includes("Paragraph 1:") && $("state").textContent === "Live"`)
	if hash := get[string](second, `location.hash`); strings.Contains(hash, "token") {
		t.Errorf("the address still has the token: %s", hash)
	}
	a.goOn(2)
	second.until(`$("answer").textContent.includes("Paragraph 15")`)
	a.goOn(stages)
	for _, p := range []*tab{p, second} {
		p.until(`$("state").textContent === "Ended" && !$("summary").hidden`)
		if got, want := get[string](p, `[...document.querySelectorAll("#answer > *")].map((e) => e.textContent).join("|")`), strings.Join(paragraphs, "|"); got != want {
			t.Errorf("a page shows\n%s\nwant\n%s", got, want)
		}
		p.checkNoProblem()
	}
}

func testDownloads(t *testing.T, chromium context.Context, h *hub) {
	p, a := writtenInPage(t, chromium, h)
	a.goOn(stages)
	p.do(chromedp.Click("#run", chromedp.NodeEnabled))
	p.until(`$("state").textContent === "Ended" && !$("summary").hidden`)
	dir := t.TempDir()
	params := browser.SetDownloadBehaviorParams{
		Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir, BrowserContextID: chromedp.FromContext(p.ctx).BrowserContextID,
	}
	if _, err := chromedp.CallBrowser(p.ctx, browser.SetDownloadBehavior, params); err != nil {
		t.Fatal(err)
	}
	download := func(button, file string) []byte {
		t.Helper()
		p.do(chromedp.Click("#download > summary", chromedp.NodeVisible), chromedp.Click("#"+button, chromedp.NodeVisible))
		return p.file(filepath.Join(dir, file))
	}
	if got := string(download("download-answer", "athena.md")); got != a.text && !strings.Contains(got, "Paragraph 29") {
		t.Errorf("the answer is %q", got)
	}
	var findings struct {
		Stream   string
		Findings []struct{ Rule string }
	}
	if err := json.Unmarshal(download("download-json", "athena.findings.json"), &findings); err != nil || findings.Stream != p.stream() ||
		len(findings.Findings) != 2 || findings.Findings[1].Rule != "last-rule" {
		t.Errorf("the findings are %+v, %v", findings, err)
	}
	var log struct {
		Version string
		Runs    []struct{ Results []struct{ RuleID string } }
	}
	if err := json.Unmarshal(download("download-sarif", "athena.sarif"), &log); err != nil || log.Version != "2.1.0" || len(log.Runs) != 1 ||
		len(log.Runs[0].Results) != 2 || log.Runs[0].Results[0].RuleID != "first-rule" {
		t.Errorf("the SARIF log is %+v, %v", log, err)
	}

	own := get[string](p, `document.querySelector(".cm-content").innerText`)
	p.do(chromedp.Click("#example", chromedp.NodeVisible), chromedp.Click("#history-open", chromedp.NodeVisible))
	p.until(`document.querySelectorAll("#history-list > li").length === 1`)
	p.do(chromedp.Click("#history-list .past", chromedp.NodeVisible))
	p.until(`!$("other-code").hidden`)
	p.do(chromedp.Click("#its-code", chromedp.NodeVisible))
	p.until(`$("other-code").hidden && document.querySelectorAll(".cm-lintRange").length > 0`)
	if got := get[string](p, `document.querySelector(".cm-content").innerText`); got != own {
		t.Errorf("its code is %q, want %q", got, own)
	}
}

// file waits for what the browser saves, which it renames when all is there.
func (p *tab) file(name string) []byte {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if b, err := os.ReadFile(name); err == nil && len(b) > 0 {
			return b
		}
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			p.t.Fatalf("%s was not saved", name)
		}
	}
}

func testLimit(t *testing.T, chromium context.Context, h *hub) {
	p, a := writtenInPage(t, chromium, h)
	h.upstream.script.SetScript(providertest.Script{Pieces: a.pieces})
	for n := range 5 {
		p.do(chromedp.Focus("#code"))
		p.paste(fmt.Sprintf("// %d\n", n)) // not the same analysis
		p.do(chromedp.Click("#run", chromedp.NodeEnabled))
		if n < 4 {
			p.until(fmt.Sprintf(`$("answer").textContent.length > 0 && (document.querySelectorAll("#runs > li").length === %d)`, n+1))
		}
	}
	p.until(`!$("problem").hidden && $("problem").textContent.startsWith("4 analyses are running")`)
	if got := get[int](p, `document.querySelectorAll("#runs > li").length`); got != 4 {
		t.Errorf("there are %d runs", got)
	}
	a.goOn(stages)
	p.until(`[...document.querySelectorAll("#runs .dot")].every((d) => d.dataset.state === "ended")`)
	p.do(chromedp.Click("#run", chromedp.NodeEnabled))
	p.until(`document.querySelectorAll("#runs > li").length === 5 && $("state").textContent === "Ended" && !$("summary").hidden`)
	p.checkNoProblem()
}
