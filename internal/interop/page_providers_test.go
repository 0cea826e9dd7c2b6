package interop_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// testPageProviders tests what the page shows of providers, with a model whose
// answers all break off in the middle.
func testPageProviders(t *testing.T, chromium context.Context) {
	h := startHub(t, "--degrade", "--breaker-base", "30s", "--breaker-max", "40s") // longer than the page takes to look again
	pieces, _ := pageAnswer()
	h.upstream.answerWith(pieces).goOn(stages)
	h.upstream.script.SetScript(providertest.Script{Pieces: pieces, Fault: providertest.Fault{Kind: providertest.FaultCut, After: len(pieces) / 2}})

	p := openTab(t, chromium, h.url)
	p.do(chromedp.Click("#providers-box > summary", chromedp.NodeVisible))
	p.until(`document.querySelectorAll("#providers > tr").length === 2`)
	if got := p.provider("openai"); got.state != "OK" || got.dot != "ok" || got.errors != "–" || got.usage != "–" || !strings.HasPrefix(got.use, "0 of ") {
		t.Errorf("before any call the panel shows %+v", got)
	}

	p.choose("analysis", "security")
	p.do(chromedp.Click("#code", chromedp.NodeVisible))
	p.paste(vulnerable)
	p.do(chromedp.Click("#run", chromedp.NodeEnabled))
	p.until(`$("state").textContent === "Ended" && !$("summary").hidden`)
	steps := get[[]string](p, `[...document.querySelectorAll("#attempts > li")].map((e) => e.textContent)`)
	const dropped = "openai → local: stream_interrupted; what was said is dropped"
	if i := slices.Index(steps, dropped); get[bool](p, `document.getElementById("attempts-box").hidden`) || i < 1 ||
		!strings.HasPrefix(steps[0], "openai (") || !slices.Equal(steps[i+1:], []string{"local is asked", "Answered by the offline analyser, since no provider did"}) {
		t.Errorf("the attempts are %q", steps)
	}
	if answer := get[string](p, `document.getElementById("results").innerText`); strings.Contains(answer, "Paragraph") || strings.Contains(answer, "first-rule") {
		t.Errorf("what was to be dropped is still there: %s", answer)
	}
	if findings := get[int](p, `document.querySelectorAll("#findings > li").length`); findings == 0 {
		t.Error("the offline analyser's findings are not shown")
	}
	if summary := get[string](p, `document.getElementById("summary").textContent`); !strings.Contains(summary, "local") || !strings.Contains(summary, "degraded") {
		t.Errorf("the summary is %q", summary)
	}
	p.until(`/^\d+ %$/.test(` + providerCell("openai", 4) + `)`)
	if got := p.provider("openai"); !strings.Contains(got.usage, "estimated") {
		t.Errorf("after a broken answer the panel shows %+v", got)
	}

	p.do(chromedp.Click("#providers-box > summary", chromedp.NodeVisible))
	// Failures before any content open the breaker of the model; the provider has
	// others.
	h.upstream.script.SetScript(providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: 503}})
	ctx := within(t)
	for range 10 {
		h.start(ctx, t, protocol.Request{Code: "package main\n", Provider: "openai", Cache: protocol.CacheBypass})
	}
	// The status line hears of it while the panel is closed.
	p.until(`$("s-breakers").textContent === "open: openai"`)
	p.do(chromedp.Click("#providers-box > summary", chromedp.NodeVisible))
	p.until(`/breaker open · .+ · next probe in \d+ s$/.test(` + providerCell("openai", 1) + `)`)
	if got := p.provider("openai"); !strings.HasPrefix(got.state, "Degraded") || got.dot != "degraded" {
		t.Errorf("with its breaker open the panel shows %+v", got)
	}
	if got := p.provider("local"); got.state != "OK" || got.dot != "ok" {
		t.Errorf("the panel shows the other one as %+v", got)
	}
	if get[bool](p, `document.getElementById("providers-note").textContent !== ""`) {
		t.Error("the panel is not up to date")
	}
}

// providerCell is the expression for the n-th cell of the panel behind the name.
func providerCell(provider string, n int) string {
	return fmt.Sprintf(`document.querySelectorAll('tr[data-provider="%s"] > td')[%d]?.textContent`, provider, n-1)
}

// A providerRow is what the panel says of a provider.
type providerRow struct{ dot, state, use, firstContent, errors, usage string }

func (p *tab) provider(name string) providerRow {
	p.t.Helper()
	cells := get[[]string](p, fmt.Sprintf(`(() => {
		const row = document.querySelector('tr[data-provider="%s"]');
		return [row.querySelector(".dot").dataset.state, ...[...row.querySelectorAll("td")].map((e) => e.textContent)];
	})()`, name))
	if len(cells) != 6 {
		p.t.Fatalf("the row of %s is %q", name, cells)
	}
	return providerRow{cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]}
}
