package interop_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// controls has the page list what Tab leads to.
const controls = `(window.controls = [...document.querySelectorAll("a[href], button, select, input, summary, [tabindex='0']")]
	.filter((e) => !e.disabled && e.tabIndex >= 0 && e.checkVisibility()), window.controls[0].focus(), window.controls.length)`

// atControl tells what is wrong where the control of a number should have the
// focus. It looks again, since the editor shows that when it next draws.
const atControl = `((i) => new Promise((resolve) => {
	const name = (e) => e ? e.tagName + "#" + e.id + " " + e.textContent.slice(0, 30) : "nothing";
	const wrong = () => {
		const e = document.activeElement;
		if (e !== window.controls[i]) return "is " + name(e) + ", not " + name(window.controls[i]);
		const ring = getComputedStyle(e.closest(".cm-editor") ?? e);
		if (ring.outlineStyle === "none" || parseFloat(ring.outlineWidth) < 1) return name(e) + " does not show that it has the focus";
		const b = e.getBoundingClientRect();
		const at = document.elementFromPoint(b.left + b.width / 2, Math.min(Math.max(b.top + b.height / 2, 0), innerHeight - 1));
		return e.contains(at) ? "" : name(e) + " is behind " + name(at);
	};
	const began = performance.now();
	const look = () => {
		const w = wrong();
		if (w === "" || performance.now() - began > 5000) resolve(w); else setTimeout(look, 5);
	};
	look();
}))(%d)`

// testPageKeyboard goes through the page by Tab: each control has its turn, in
// the order in which they are read, and is seen to have it.
func testPageKeyboard(t *testing.T, chromium context.Context) {
	p := openTabWithChanges(t, chromium)
	p.until(`!$("summary").hidden`)
	p.do(chromedp.KeyEvent(kb.Tab)) // by keyboard from here on
	for _, l := range looks[1:] {
		p.do(chromedp.EmulateViewport(l.width, l.height))
		n := get[int](p, controls)
		if n < 20 {
			t.Fatalf("%s: the page has %d controls", l.name, n)
		}
		for i := range n {
			if i > 0 {
				p.do(chromedp.KeyEvent(kb.Tab))
			}
			if wrong := get[string](p, fmt.Sprintf(atControl, i)); wrong != "" {
				t.Fatalf("%s: control %d of %d %s", l.name, i+1, n, wrong)
			}
		}
	}
	p.checkNoProblem()
}
