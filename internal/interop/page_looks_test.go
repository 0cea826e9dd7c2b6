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
	if err := npmPackages(); err != nil {
		t.Fatal(err)
	}
	axe, err := os.ReadFile(filepath.Join("node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
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
	p.do(chromedp.Evaluate[chromedp.Void](string(axe)))
	for _, look := range []struct {
		name, theme   string
		width, height int64
	}{{"light", "light", 1280, 900}, {"dark", "dark", 1280, 900}, {"phone", "light", 390, 844}} {
		p.do(chromedp.EmulateViewport(look.width, look.height))
		get[bool](p, `(document.documentElement.dataset.theme = "`+look.theme+`", true)`)
		for _, v := range get[[]string](p, `axe.run().then((r) => r.violations.map((v) => v.id + ": " + v.nodes.map((n) => n.html.slice(0, 120) + " " + n.failureSummary).join(" | ")))`) {
			t.Errorf("%s: %s", look.name, v)
		}
		shot, err := chromedp.Call(p.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{})
		if err != nil {
			t.Fatal(err)
		}
		picture(t, look.name, shot.Data)
	}
	p.do(chromedp.EmulateViewport(1280, 900), chromedp.Reload())
	p.do(chromedp.Click("#history-open", chromedp.NodeVisible))
	p.until(`document.querySelectorAll("#history-list > li").length === 2`)
	p.do(chromedp.Click("#history-list .past", chromedp.NodeVisible))
	p.until(`!$("history").open && document.querySelectorAll("#findings > li").length >= 3 && !$("summary").hidden`)
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
