package interop_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/athena-hub/athena/providers/providertest"
)

const changeable = `package main

func main() {
	query("SELECT 1 WHERE name = " + name)
	other()
	unused := 1
	_ = unused
}`

// changes is an answer about changeable with suggested code: two lines for one,
// none for two, and none at all.
func changes() []providertest.Piece {
	var pieces []providertest.Piece
	for _, f := range []string{
		`{"rule":"injection","severity":"critical","message":"The name gets into the query as code.","line":4,"column":2,"suggestion":"Bind it.","replacement":"\tconst named = \"SELECT 1 WHERE name = ?\"\n\tquery(named, name)"}`,
		`{"rule":"odd","severity":"low","message":"An odd call.","line":5,"column":2,"end_column":9}`,
		`{"rule":"dead","severity":"medium","message":"Nobody reads it.","line":6,"column":2,"end_line":7,"replacement":""}`,
	} {
		pieces = append(pieces, providertest.Piece{Text: "@finding " + f + "\n"})
	}
	return append(pieces, providertest.Piece{Text: "That is all."})
}

// openTabWithChanges opens a page that shows changes for changeable.
func openTabWithChanges(t *testing.T, chromium context.Context) *tab {
	t.Helper()
	h := startHub(t)
	h.upstream.answerWith(changes()).goOn(stages)
	p := openTab(t, chromium, h.url)
	p.choose("provider", "openai")
	p.do(chromedp.Click("#code", chromedp.NodeVisible))
	p.paste(changeable)
	p.do(chromedp.Click("#run", chromedp.NodeEnabled))
	p.until(`$("state").textContent === "Ended" && document.querySelectorAll("#findings .change").length === 2`)
	return p
}

// testPageChanges puts suggested code into the editor, and takes it out again.
func testPageChanges(t *testing.T, chromium context.Context) {
	p := openTabWithChanges(t, chromium)
	p.until(`document.querySelectorAll(".cm-lintRange").length > 0`)
	for _, l := range looks {
		p.do(chromedp.EmulateViewport(l.width, l.height))
		get[bool](p, `(document.querySelector("#findings-box").scrollIntoView({ behavior: "instant" }), true)`)
		p.look(l, "changes-"+l.name)
	}
	p.do(chromedp.EmulateViewport(1280, 900))

	if got, want := get[string](p, `document.querySelector("#findings .diff").textContent`),
		"−out: \tquery(\"SELECT 1 WHERE name = \" + name)"+"+in: \tconst named = \"SELECT 1 WHERE name = ?\""+"+in: \tquery(named, name)"; got != want {
		t.Errorf("the change is shown as %q, want %q", got, want)
	}
	lines := func(want ...string) {
		t.Helper()
		p.until(fmt.Sprintf(`[...document.querySelectorAll(".cm-line")].map((l) => l.textContent).join("\n") === %q`, strings.Join(want, "\n")))
	}
	marked := func(want ...string) {
		t.Helper()
		p.until(fmt.Sprintf(`[...document.querySelectorAll(".cm-line")].flatMap((l) => [...l.querySelectorAll(".cm-lintRange")].map((m) => m.textContent).join("").trim()).filter(Boolean).join("|") === %q`, strings.Join(want, "|")))
	}
	apply := func(n int) string { return fmt.Sprintf("#findings > li:nth-child(%d) .change button", n) }
	says := func(n int, why string) {
		t.Helper()
		p.until(fmt.Sprintf(`((b) => b.getAttribute("aria-disabled") === %q && document.getElementById(b.getAttribute("aria-describedby")).textContent === %q)(document.querySelector(%q))`,
			fmt.Sprint(why != ""), why, apply(n)))
	}
	first := strings.Split(changeable, "\n")
	second := slices.Replace(slices.Clone(first), 3, 4, "\tconst named = \"SELECT 1 WHERE name = ?\"", "\tquery(named, name)")
	third := slices.Delete(slices.Clone(second), 6, 8)
	const done = "It is in the editor; undo there takes it out again."

	says(1, "")
	marked(`query("SELECT 1 WHERE name = " + name)`, "other()", "unused := 1", "_ = unused")
	p.do(chromedp.Click(apply(1), chromedp.NodeVisible))
	lines(second...)
	says(1, done)
	says(3, "")
	marked("other()", "unused := 1", "_ = unused")
	if !get[bool](p, fmt.Sprintf(`document.activeElement === document.querySelector(%q) && document.getElementById("announce").textContent === %q`, apply(1), done)) {
		t.Error("who pressed it does not stay there, or hears nothing")
	}
	p.do(chromedp.Click(apply(1), chromedp.NodeVisible)) // does nothing
	p.do(chromedp.Click(apply(3), chromedp.NodeVisible))
	lines(third...)
	says(3, done)
	marked("other()")

	undo := chromedp.KeyEvent("z", chromedp.KeyModifiers(chromedp.ModifierCtrl))
	p.do(chromedp.Focus("#code"), undo)
	lines(second...)
	says(3, "")
	p.do(undo)
	lines(first...)
	says(1, "")
	marked(`query("SELECT 1 WHERE name = " + name)`, "other()", "unused := 1", "_ = unused")

	p.do(chromedp.Click("#findings > li:nth-child(3) > button", chromedp.NodeVisible), chromedp.KeyEvent(kb.Home))
	p.paste("// ")
	says(3, "These lines are no longer those of this run.")
	says(1, "")
	p.do(chromedp.Click("#example", chromedp.NodeVisible))
	says(1, "The editor has other code.")
	p.do(chromedp.Click("#its-code", chromedp.NodeVisible))
	says(1, "")
	says(3, "")

	// The mark in the code shows it, too.
	at := get[[]float64](p, `((b) => [b.left + 20, b.top + b.height / 2])(document.querySelector(".cm-lintRange").getBoundingClientRect())`)
	p.do(chromedp.MouseEvent(chromedp.MouseMoved, at[0]-10, at[1]), chromedp.MouseEvent(chromedp.MouseMoved, at[0], at[1]))
	p.until(`document.querySelector(".cm-diagnostic .diff")`)
	p.look(looks[0], "changes-mark")
	p.do(chromedp.Click(".cm-diagnosticAction", chromedp.NodeVisible))
	lines(second...)
	says(1, done)

	p.do(chromedp.Reload(), chromedp.Click("#history-open", chromedp.NodeVisible))
	p.until(`document.querySelectorAll("#history-list > li").length === 1`)
	p.do(chromedp.Click("#history-list .past", chromedp.NodeVisible))
	p.until(`document.querySelectorAll("#findings .change").length === 2`)
	says(1, "The code of this run is not at hand.")
	p.checkNoProblem()
}
