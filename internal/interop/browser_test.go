package interop_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// startChromium starts a headless browser. Its tabs are made of the context.
func startChromium(t *testing.T) context.Context {
	t.Helper()
	path := need(t, "Chromium (Debian: apt-get install chromium)", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
	allocator, stop := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		// A tab that nobody looks at must not be slowed down, and containers have little of /dev/shm.
		chromedp.Flag("disable-renderer-backgrounding", true), chromedp.Flag("disable-background-timer-throttling", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.NoInheritEnv, chromedp.Env("PATH="+os.Getenv("PATH"), "HOME="+t.TempDir()),
		chromedp.WindowSize(1280, 900))
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator, chromedp.WithErrorf(t.Logf))
	t.Cleanup(cancel)
	t.Cleanup(func() {
		timely, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		if err := chromedp.Cancel(timely); err != nil {
			t.Errorf("close the browser: %v", err)
		}
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return ctx
}

// A tab is one page of the browser, with a session of its own.
type tab struct {
	t     *testing.T
	ctx   context.Context
	base  string
	lines chan string // what scripts gave to report()

	mu       sync.Mutex
	problems []string // guarded by mu; of the console, the policy and other hosts
}

// openTab opens the page that base serves. When the test ends, nothing may have
// been written to the console that isn't expected, no policy violated and no
// other host asked for anything.
func openTab(t *testing.T, chromium context.Context, base string, expected ...string) *tab {
	t.Helper()
	return openTabFor(t, chromium, base, testTimeout, expected...)
}

// openTabFor is openTab for longer than a test usually takes.
func openTabFor(t *testing.T, chromium context.Context, base string, d time.Duration, expected ...string) *tab {
	t.Helper()
	p := &tab{t: t, base: base, lines: make(chan string, 4096)}
	ctx, cancel := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	if err := chromedp.Listen(ctx, p.hear); err != nil { // opens the tab, whose life is that of ctx
		t.Fatal(err)
	}
	p.ctx, cancel = context.WithTimeout(ctx, d)
	t.Cleanup(cancel)
	t.Cleanup(func() { p.checkProblems(expected) })
	for _, step := range []func() error{
		func() error {
			_, err := chromedp.Call(p.ctx, runtime.AddBinding, runtime.AddBindingParams{Name: "report"})
			return err
		},
		func() error {
			_, err := chromedp.Call(p.ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: `
				document.addEventListener("securitypolicyviolation", (e) => report(JSON.stringify({ violation: e.violatedDirective + " " + e.blockedURI })));`})
			return err
		},
		func() error { return chromedp.Do(p.ctx, chromedp.Navigate(base+"/")) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// hear takes the browser's events. It runs in the loop that reads them.
func (p *tab) hear(ev any) {
	switch ev := ev.(type) {
	case *runtime.EventBindingCalled:
		var v struct{ Violation string }
		if json.Unmarshal([]byte(ev.Payload), &v) == nil && v.Violation != "" {
			p.problem("the policy was violated: " + v.Violation)
			return
		}
		select {
		case p.lines <- ev.Payload:
		default:
			p.problem("more reports than there is room for")
		}
	case *runtime.EventConsoleAPICalled:
		if ev.Type == "error" || ev.Type == "warning" || ev.Type == "assert" {
			text := "console." + string(ev.Type)
			for _, arg := range ev.Args {
				text += fmt.Sprintf(" %s%s", arg.Value, arg.Description)
			}
			p.problem(text)
		}
	case *runtime.EventExceptionThrown:
		text := ev.ExceptionDetails.Text
		if e := ev.ExceptionDetails.Exception; e != nil {
			text += " " + e.Description
		}
		p.problem("exception: " + text)
	case *log.EventEntryAdded:
		if ev.Entry.Level == "error" || ev.Entry.Level == "warning" {
			p.problem(fmt.Sprintf("%s %s: %s (%s)", ev.Entry.Source, ev.Entry.Level, ev.Entry.Text, ev.Entry.URL))
		}
	case *network.EventRequestWillBeSent:
		p.asked(ev.Request.URL)
	case *network.EventWebSocketCreated:
		p.asked(ev.URL)
	}
}

// asked notes a request that goes elsewhere than to the page's own host.
func (p *tab) asked(rawURL string) {
	asked, err := url.Parse(rawURL)
	own, _ := url.Parse(p.base)
	if err != nil || asked.Host != own.Host && asked.Scheme != "data" && asked.Scheme != "blob" && rawURL != "about:blank" {
		p.problem("asked elsewhere: " + rawURL)
	}
}

func (p *tab) problem(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problems = append(p.problems, text)
}

func (p *tab) checkProblems(expected []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
problems:
	for _, problem := range p.problems {
		for _, e := range expected {
			if regexp.MustCompile(e).MatchString(problem) {
				continue problems
			}
		}
		p.t.Errorf("in the browser: %s", problem)
	}
}

// do runs steps in the tab.
func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// get returns what a JavaScript expression, or the promise it gives, is.
func get[T any](p *tab, expression string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits until a JavaScript condition holds, which is looked at whenever
// the document changes.
func (p *tab) until(condition string) {
	p.t.Helper()
	p.untilFor(condition, 20*time.Second)
}

// untilFor is until, but waits for as long as it is told.
func (p *tab) untilFor(condition string, d time.Duration) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, d)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`new Promise((resolve) => {
		const $ = (id) => document.getElementById(id);
		const look = () => {
			if (!(`+condition+`)) return;
			changes.disconnect();
			resolve(true);
		};
		const changes = new MutationObserver(look);
		changes.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
		look();
	})`, chromedp.EvalAwaitPromise))
	if err != nil {
		var state string
		if ctx.Err() != nil && p.ctx.Err() == nil {
			state = get[string](p, `document.body.innerText`)
		}
		p.t.Fatalf("until %s: %v\n%s", condition, err, state)
	}
}

// paste puts text where the focus is, as a paste does.
func (p *tab) paste(text string) {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, input.InsertText, input.InsertTextParams{Text: text}); err != nil {
		p.t.Fatal(err)
	}
}

// choose picks an option of a select as a user does, once it is there.
func (p *tab) choose(id, value string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`[...$(%q).options].some((o) => o.value === %q)`, id, value))
	get[bool](p, fmt.Sprintf(`(() => {
		const s = document.getElementById(%q);
		s.value = %q;
		s.dispatchEvent(new Event("input", { bubbles: true }));
		s.dispatchEvent(new Event("change", { bubbles: true }));
		return true;
	})()`, id, value))
}

// allowClipboard lets the page write to the clipboard, and the test read it.
func (p *tab) allowClipboard() {
	p.t.Helper()
	origin := p.base
	for _, name := range []string{"clipboard-read", "clipboard-write"} {
		params := browser.SetPermissionParams{
			Permission: &browser.PermissionDescriptor{Name: name}, Setting: browser.PermissionSettingGranted, Origin: origin,
		}
		if c := chromedp.FromContext(p.ctx); c.BrowserContextID != "" {
			params.BrowserContextID = c.BrowserContextID
		}
		if _, err := chromedp.CallBrowser(p.ctx, browser.SetPermission, params); err != nil {
			p.t.Fatal(err)
		}
	}
}
