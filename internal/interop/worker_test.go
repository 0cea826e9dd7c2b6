package interop_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"testing"
)

// workerPage and workerScript are an application of somebody's, with a worker
// that has the client.
const (
	workerPage   = `<!doctype html><html lang="en"><title>app</title><link rel="icon" href="data:,"><p>app</p></html>`
	workerScript = `
import { Athena } from "/client.js";
onmessage = async ({ data: { stream, transport } }) => {
	try {
		const run = new Athena({ url: location.origin, forceTransport: transport, backoff: { baseMs: 20, maxMs: 100 } }).watch(stream);
		let cut = false;
		run.onStatus((s) => {
			if (!cut && s.cursor > 0) {
				cut = true;
				run.disconnect();
			}
			if (s.reconnects === 1 && s.state === "live") postMessage({ back: true });
		});
		await run.finished();
		postMessage({ text: run.text(), end: run.terminal().type, transport: run.status.transport });
	} catch (e) {
		postMessage({ end: String(e) });
	}
};`
)

// testWorker has the client watch in a web worker, over each transport and
// through a cut. The policy of the application lets workers of its own be.
func testWorker(t *testing.T, chromium context.Context) {
	h := startHub(t)
	a := h.upstream.answerWith(hostileText())
	app := startWorkerApp(t, h.url)
	id := h.startModel(t.Context(), t)
	p := openTab(t, chromium, app)
	// Each is cut once it has the first part, and is back before the others come.
	get[bool](p, fmt.Sprintf(`(() => {
		const { promise: back, resolve: allBack } = Promise.withResolvers();
		let n = 0;
		window.back = back;
		window.ends = Promise.all(["websocket", "sse", "long-poll"].map((transport) => new Promise((resolve) => {
			const worker = new Worker("/worker.js", { type: "module" });
			const end = (what) => { worker.terminate(); allBack(true); resolve(what); };
			worker.onerror = (e) => { end({ end: "the worker: " + e.message }); };
			worker.onmessage = (e) => {
				if (!e.data.back) end(e.data);
				else if (++n === 3) allBack(true);
			};
			worker.postMessage({ stream: %q, transport });
		})));
		return true;
	})()`, id))
	get[bool](p, `back`)
	a.goOn(stages)
	type outcome struct{ Text, End, Transport string }
	got := get[[]outcome](p, `ends`)
	if want := []outcome{{a.text, "completed", "websocket"}, {a.text, "completed", "sse"}, {a.text, "completed", "long-poll"}}; !slices.Equal(got, want) {
		t.Errorf("the workers have\n%+v", got)
	}
}

// startWorkerApp serves the application, and on the same host the hub at base.
func startWorkerApp(t *testing.T, base string) string {
	t.Helper()
	target, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	transport := new(http.Transport)
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		Transport: transport, FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }, // of requests that are cut
	}
	serve := func(contentType, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Security-Policy", "default-src 'none'; img-src data:; worker-src 'self'; script-src 'self'; connect-src 'self'")
			_, _ = io.WriteString(w, text) // the browser may have gone
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", serve("text/html", workerPage))
	mux.HandleFunc("GET /worker.js", serve("text/javascript", workerScript))
	mux.Handle("/", proxy)
	server := httptest.NewServer(mux)
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}
