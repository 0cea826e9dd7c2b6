package interop_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// testPageLooks tests the marks in the code, several runs and the history, and
// what axe-core says of the page in light, dark and on a phone. Pictures are
// left in .tmp.
func testPageLooks(t *testing.T, chromium context.Context) {
	h := startHub(t)
	p := openTab(t, chromium, h.url)
	p.choose("provider", "local")
	p.do(chromedp.Click("#example", chromedp.NodeVisible))
	for _, analysis := range []string{"bugs", "security"} {
		p.choose("analysis", analysis)
		p.do(chromedp.Click("#run", chromedp.NodeEnabled))
		p.until(`$("state").textContent === "Ended" && !$("summary").hidden`)
	}
	p.until(`document.querySelectorAll("#runs > li").length === 2 && document.querySelectorAll(".cm-lintRange").length >= 3`)
	for _, l := range looks {
		p.look(l, l.name)
	}
	p.do(chromedp.EmulateViewport(1280, 900), chromedp.Reload())
	p.do(chromedp.Click("#history-open", chromedp.NodeVisible))
	p.until(`document.querySelectorAll("#history-list > li").length === 2`)
	p.do(chromedp.Click("#history-list .past", chromedp.NodeVisible))
	p.until(`!$("history").open && document.querySelectorAll("#findings > li").length >= 3 && !$("summary").hidden`)
}

// A look is one of the ways in which the page is seen.
type look struct {
	name, theme   string
	width, height int64
}

var looks = []look{{"light", "light", 1280, 900}, {"dark", "dark", 1280, 900}, {"phone", "light", 390, 844}}

// look has axe-core judge the page as it is, and takes a picture.
func (p *tab) look(l look, name string) {
	p.t.Helper()
	if err := npmPackages(); err != nil {
		p.t.Fatal(err)
	}
	axe, err := os.ReadFile(filepath.Join("node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		p.t.Fatal(err)
	}
	if !get[bool](p, `"axe" in window`) {
		p.do(chromedp.Evaluate[chromedp.Void](string(axe)))
	}
	p.do(chromedp.EmulateViewport(l.width, l.height))
	get[bool](p, `(document.documentElement.dataset.theme = "`+l.theme+`", true)`)
	for _, v := range get[[]string](p, `axe.run().then((r) => r.violations.map((v) => v.id + ": " + v.nodes.map((n) => n.html.slice(0, 120) + " " + n.failureSummary).join(" | ")))`) {
		p.t.Errorf("%s: %s", name, v)
	}
	shot, err := chromedp.Call(p.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{})
	if err != nil {
		p.t.Fatal(err)
	}
	picture(p.t, name, shot.Data)
}

// picture leaves a picture of the page in .tmp.
func picture(t *testing.T, name string, png []byte) {
	t.Helper()
	dir := filepath.Join("..", "..", ".tmp")
	err := os.MkdirAll(dir, 0o750)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "page-"+name+".png"), png, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
