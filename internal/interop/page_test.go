package interop_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/athena-hub/athena/providers/providertest"
)

// pageAnswer is an answer whose Markdown is plain paragraphs, so that what the
// page shows can be compared with it, and two findings: in the first part and
// in the last.
func pageAnswer() (pieces []providertest.Piece, paragraphs []string) {
	finding := func(rule string, line int) providertest.Piece {
		return providertest.Piece{Text: fmt.Sprintf(`@finding {"rule":%q,"severity":"high","message":"Message of %s","line":%d,"column":2}`+"\n", rule, rule, line), After: pace}
	}
	for i := range 30 {
		words := []string{fmt.Sprintf("Paragraph %d: ", i), "Grüße an die 世界, ", "with a 👩‍👩‍👧 & <b>no markup</b>."}
		paragraphs = append(paragraphs, strings.Join(words, ""))
		words[2] += "\n\n"
		for _, w := range words {
			pieces = append(pieces, providertest.Piece{Text: w, After: pace})
		}
		if i == 1 {
			pieces = append(pieces, finding("first-rule", 4))
		}
		if i == 28 {
			pieces = append(pieces, finding("last-rule", 10))
		}
	}
	return pieces, paragraphs
}

// testPage tests the page that Athena serves, as its user sees it.
func testPage(t *testing.T, chromium context.Context) {
	h := startHub(t)
	t.Run("goes on after a cut and over each transport", func(t *testing.T) {
		p, a := runInPage(t, chromium, h, h.url)
		p.until(`$("s-transport").textContent === "WebSocket" && $("answer").textContent.length > 0`)
		p.cut(1)
		a.goOn(2)
		p.until(`$("answer").textContent.includes("Paragraph 15")`)
		for _, to := range []transportChoice{{"sse", "SSE"}, {"long-poll", "long-poll"}, {"websocket", "WebSocket"}} {
			p.choose("transport", to.value)
			p.until(fmt.Sprintf(`$("s-transport").textContent === %q && $("state").textContent === "Live"`, to.label))
		}
		a.goOn(3)
		p.checkAnswer()
	})
	for _, by := range []transportChoice{{"websocket", "WebSocket"}, {"sse", "SSE"}, {"long-poll", "long-poll"}} {
		t.Run("goes on after two cuts of "+by.label, func(t *testing.T) {
			p, a := runInPage(t, chromium, h, h.url, choosing(by))
			p.until(fmt.Sprintf(`$("s-transport").textContent === %q && $("answer").textContent.length > 0`, by.label))
			p.cut(1)
			a.goOn(2)
			p.until(`$("answer").textContent.includes("Paragraph 15")`)
			p.cut(2)
			a.goOn(3)
			p.checkAnswer()
		})
	}
	for _, c := range []struct {
		name, label string
		proxy       func(*testing.T, string) string
	}{
		{"falls to SSE behind a proxy that refuses upgrades", "SSE", refusingProxy},
		{"falls to long-poll behind a proxy that holds responses back", "long-poll", bufferingProxy},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, a := runInPage(t, chromium, h, c.proxy(t, h.url), expecting(brokenWebSocket))
			p.until(fmt.Sprintf(`$("s-transport").textContent === %q && $("answer").textContent.length > 0`, c.label))
			p.cut(1)
			a.goOn(2)
			p.until(fmt.Sprintf(`$("s-transport").textContent === %q && $("answer").textContent.includes("Paragraph 15")`, c.label))
			a.goOn(3)
			p.checkAnswer()
		})
	}
	t.Run("resumes by itself when the network breaks", func(t *testing.T) {
		c := newCutter(t, h.url)
		p, a := runInPage(t, chromium, h, c.url, expecting(brokenRequest, brokenWebSocket))
		p.until(`$("answer").textContent.length > 0`)
		c.cut(func() { a.goOn(2) })
		p.until(`$("answer").textContent.includes("Paragraph 15")`)
		c.cut(func() { a.goOn(3) })
		p.checkAnswer()
		if got := c.broken(); got != 2 {
			t.Errorf("%d cuts broke a connection, want 2", got)
		}
	})
	t.Run("shows the offline analysis of the example", func(t *testing.T) {
		p := openTab(t, chromium, h.url)
		p.choose("provider", "local")
		p.choose("analysis", "security")
		p.do(chromedp.Click("#example", chromedp.NodeVisible), chromedp.Click("#run", chromedp.NodeEnabled))
		p.until(`$("state").textContent === "Ended" && !$("summary").hidden`)
		if got := get[int](p, `document.querySelectorAll("#findings > li").length`); got < 3 {
			t.Errorf("%d findings in the example", got)
		}
		// A finding leads to its line.
		p.do(chromedp.Click("#findings > li button"))
		if got := get[string](p, `getSelection().toString()`); got == "" {
			t.Error("a press on a finding selects nothing")
		}
		if shown := get[string](p, `document.getElementById("problem").hidden ? "" : document.getElementById("problem").textContent`); shown != "" {
			t.Errorf("the page reports %q", shown)
		}
	})
}

// A pageRun is the page at work on an analysis by the model.
type pageRun struct {
	*tab
	text       string
	paragraphs []string
}

// A transportChoice is an option of the page's "Use", and what its status line
// then calls the transport.
type transportChoice struct{ value, label string }

// A pageOption changes how runInPage begins.
type pageOption struct {
	transport string
	expected  []string
}

func choosing(c transportChoice) pageOption   { return pageOption{transport: c.value} }
func expecting(problems ...string) pageOption { return pageOption{expected: problems} }

// runInPage opens the page that base serves, pastes code and presses Run. The
// answer's first part comes by itself.
func runInPage(t *testing.T, chromium context.Context, h *hub, base string, options ...pageOption) (*pageRun, *answer) {
	t.Helper()
	pieces, paragraphs := pageAnswer()
	a := h.upstream.answerWith(pieces)
	t.Cleanup(func() { a.goOn(stages) })
	var expected []string
	for _, o := range options {
		expected = append(expected, o.expected...)
	}
	p := &pageRun{openTab(t, chromium, base, expected...), strings.Join(paragraphs, "\n\n") + "\n\n", paragraphs}
	p.choose("provider", "openai")
	for _, o := range options {
		if o.transport != "" {
			p.choose("transport", o.transport)
		}
	}
	p.do(chromedp.Click("#code", chromedp.NodeVisible))
	p.paste(vulnerable)
	p.do(chromedp.Click("#run", chromedp.NodeEnabled))
	return p, a
}

// cut presses "Cut connection" for the n-th time, and waits until the page is
// connected again.
func (p *pageRun) cut(n int) {
	p.t.Helper()
	before := get[int](p.tab, `Number(document.getElementById("s-reconnects").textContent)`)
	p.do(chromedp.Click("#cut", chromedp.NodeEnabled))
	p.until(fmt.Sprintf(`Number($("s-reconnects").textContent) === %d && $("state").textContent === "Live"`, before+1))
	if before != n-1 {
		p.t.Errorf("there were %d reconnects before cut %d", before, n)
	}
}

// checkAnswer waits for the end and checks all that the page then shows.
func (p *pageRun) checkAnswer() {
	t := p.t
	t.Helper()
	p.until(`$("state").textContent === "Ended" && !$("summary").hidden`)
	shown := get[[]string](p.tab, `[...document.querySelectorAll("#answer > *")].map((e) => e.textContent)`)
	if got, want := strings.Join(shown, "\n¶ "), strings.Join(p.paragraphs, "\n¶ "); got != want {
		t.Errorf("the page shows\n%s\nwant\n%s", got, want)
	}
	findings := get[[]string](p.tab, `[...document.querySelectorAll("#findings > li")].map((e) => e.textContent)`)
	if len(findings) != 2 || !strings.Contains(findings[0], "Message of first-rule") || !strings.Contains(findings[0], "line 4") ||
		!strings.Contains(findings[1], "Message of last-rule") || !strings.Contains(findings[1], "line 10") {
		t.Errorf("the findings are %q", findings)
	}
	if summary := get[string](p.tab, `document.getElementById("summary").textContent`); !strings.Contains(summary, "openai") || !strings.Contains(summary, "complete: sha256") {
		t.Errorf("the summary is %q", summary)
	}
	if problem := get[string](p.tab, `document.getElementById("problem").hidden ? "" : document.getElementById("problem").textContent`); problem != "" {
		t.Errorf("the page reports %q", problem)
	}
	p.allowClipboard()
	p.do(chromedp.Click("#copy", chromedp.NodeEnabled))
	p.until(`$("announce").textContent.includes("done")`)
	if got := get[string](p.tab, `navigator.clipboard.readText()`); got != p.text {
		t.Errorf("the copied answer is\n%q\nwant\n%q", got, p.text)
	}
}
