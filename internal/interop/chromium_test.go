package interop_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/athena-hub/athena/protocol"
)

// What Chromium itself says when a test breaks its connections.
const (
	brokenRequest   = `^network error: Failed to load resource: net::ERR_(CONNECTION_RESET|CONNECTION_CLOSED|CONNECTION_REFUSED|SOCKET_NOT_CONNECTED|EMPTY_RESPONSE|INCOMPLETE_CHUNKED_ENCODING|ABORTED)`
	brokenWebSocket = `WebSocket connection to 'ws://[^']+' failed`
)

// TestChromium has one browser, since starting one is slow; each subtest has a
// tab with a session of its own.
func TestChromium(t *testing.T) {
	t.Parallel()
	chromium := startChromium(t)
	t.Run("its EventSource resumes and stops at 204", func(t *testing.T) {
		ctx := within(t)
		_, c, v, id := aStream(ctx, t)
		r := reported{viewer: v}
		p := openTab(t, chromium, c.url, brokenRequest)
		watchInTab(ctx, t, p, &r, fmt.Sprintf("watchEventSource(EventSource, %q, report)", "/v1/streams/"+id+"/events"))
		r.check(t, c)
		if r.end == nil || r.welcomes != 3 || r.lost != 3 {
			t.Errorf("it was welcomed %d times, lost its connection %d times, and ended with %+v", r.welcomes, r.lost, r.end)
		}
	})
	t.Run("its WebSocket resumes", func(t *testing.T) {
		ctx := within(t)
		_, c, v, id := aStream(ctx, t)
		r := reported{viewer: v}
		p := openTab(t, chromium, c.url)
		watchInTab(ctx, t, p, &r, fmt.Sprintf("watchWebSocket(WebSocket, %q, %q, report)", "ws"+strings.TrimPrefix(c.url, "http")+"/v1/ws", id))
		r.check(t, c)
		if r.end == nil || r.end.Code != protocol.CloseDone || r.welcomes != 3 || r.lost != 2 {
			t.Errorf("it was welcomed %d times, lost its connection %d times, and ended with %+v", r.welcomes, r.lost, r.end)
		}
	})
	t.Run("the TypeScript client", func(t *testing.T) { testClient(t, chromium) })
	t.Run("the TypeScript client in a worker", func(t *testing.T) { testWorker(t, chromium) })
	t.Run("the page", func(t *testing.T) { testPage(t, chromium) })
	t.Run("the page is quick", func(t *testing.T) { testPageSpeed(t, chromium) })
	t.Run("the page looks", func(t *testing.T) { testPageLooks(t, chromium) })
	t.Run("the page puts suggested code in", func(t *testing.T) { testPageChanges(t, chromium) })
	t.Run("the page by keyboard", func(t *testing.T) { testPageKeyboard(t, chromium) })
	t.Run("the page's panels", func(t *testing.T) { testPagePanels(t, chromium) })
	t.Run("the page shares, keeps and hands out", func(t *testing.T) { testPageSharing(t, chromium) })
	t.Run("the page's controls", func(t *testing.T) { testPageControls(t, chromium) })
	t.Run("the page's keys of providers", func(t *testing.T) { testPageKeys(t, chromium) })
	t.Run("the page shows providers and a failover", func(t *testing.T) { testPageProviders(t, chromium) })
}

// watchInTab runs a client of foreign/watch.mjs in the page, to its end.
func watchInTab(ctx context.Context, t *testing.T, p *tab, r *reported, call string) {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("foreign", "watch.mjs"))
	if err != nil {
		t.Fatal(err)
	}
	script := strings.ReplaceAll(string(source), "export function", "function")
	p.do(chromedp.Evaluate[chromedp.Void]("(() => {\n" + script + "\n" + call + ";\n})()"))
	for r.end == nil {
		select {
		case line := <-p.lines:
			if err := r.line(line); err != nil {
				t.Fatal(err)
			}
		case <-ctx.Done():
			t.Fatalf("after %d events: %v", r.transcript.Cursor(), ctx.Err())
		}
	}
}
