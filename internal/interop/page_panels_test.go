package interop_test

import (
	"context"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// testPagePanels opens all that can be opened, has axe-core look at it, and
// closes it by the keyboard.
func testPagePanels(t *testing.T, chromium context.Context) {
	h := startHub(t)
	p := openTab(t, chromium, h.url)
	p.choose("provider", "local")
	p.do(chromedp.Click("#example", chromedp.NodeVisible), chromedp.Click("#run", chromedp.NodeEnabled))
	p.until(`$("state").textContent === "Ended" && !$("summary").hidden`)
	for _, panel := range []struct{ name, open, opened, close, closed string }{
		{"history", "#history-open", `$("history").open && document.querySelectorAll("#history-list > li").length === 1`, kb.Escape, `!$("history").open`},
		{"shortcuts", "#shortcuts-open", `$("shortcuts").open`, kb.Escape, `!$("shortcuts").open`},
		{"providers", "#providers-box > summary", `document.querySelectorAll("#providers > tr").length === 2`, kb.Escape, `!$("providers-box").open && document.activeElement.parentElement === $("providers-box")`},
		// A rate needs two looks at the server.
		{"operations", "#operations-box > summary", `document.querySelectorAll("#charts > figure").length === 6 && /\/s$/.test(document.querySelector("[data-chart=chunks] strong").textContent)`,
			kb.Escape, `!$("operations-box").open && document.activeElement.parentElement === $("operations-box")`},
	} {
		p.do(chromedp.Click(panel.open, chromedp.NodeVisible))
		p.until(panel.opened)
		for _, l := range looks[:2] {
			p.look(l, panel.name+"-"+l.name)
		}
		p.do(chromedp.KeyEvent(panel.close))
		p.until(panel.closed)
	}
	if got := get[string](p, `document.querySelector("[data-chart=connections] strong").textContent`); got == "–" || got == "" {
		t.Errorf("the chart of connections says %q", got)
	}
	if got := get[bool](p, `[...document.querySelectorAll("#charts .line")].some((l) => /^M.*L/.test(l.getAttribute("d")))`); !got {
		t.Error("no chart has a line")
	}
	p.do(chromedp.Focus("#run"), chromedp.KeyEvent("?"))
	p.until(`$("shortcuts").open`)
	p.do(chromedp.KeyEvent(kb.Escape))
	p.until(`!$("shortcuts").open`)
	p.do(chromedp.Focus("#code"), chromedp.KeyEvent("?"))
	if get[bool](p, `document.getElementById("shortcuts").open`) {
		t.Error("a question mark in the code opens the list of keys")
	}
}
