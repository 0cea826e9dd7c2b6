package interop_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/athena-hub/athena/protocol"
)

// testClient tests the TypeScript client in a browser, as pages have it.
func testClient(t *testing.T, chromium context.Context) {
	t.Run("moves in mid-stream to each transport", func(t *testing.T) {
		h := startHub(t)
		a := h.upstream.answerWith(hostileText())
		c := watchByClient(t, openTab(t, chromium, h.url), h.startModel(t.Context(), t), `{}`)
		c.reaches("websocket", 1)
		c.move("sse")
		a.goOn(2)
		c.reaches("sse", a.upTo(1)+1)
		c.move("long-poll")
		a.goOn(3)
		c.ends(a)
	})
	t.Run("falls to SSE behind an nginx that knows no upgrades", func(t *testing.T) {
		h := startHub(t)
		a := h.upstream.answerWith(hostileText())
		proxy := startNginx(t, h.url, "proxy_buffering off;")
		c := watchByClient(t, openTab(t, chromium, proxy, brokenWebSocket), h.startModel(t.Context(), t), `{}`)
		c.reaches("sse", 1)
		a.goOn(2)
		c.reaches("sse", a.upTo(1)+1)
		c.move("long-poll")
		a.goOn(3)
		c.ends(a)
	})
	t.Run("falls to long-poll behind an nginx that compresses, and so holds responses back", func(t *testing.T) {
		h := startHub(t)
		a := h.upstream.answerWith(hostileText())
		proxy := startNginx(t, h.url, "proxy_ignore_headers X-Accel-Buffering; gzip on; gzip_proxied any; gzip_min_length 0; gzip_types text/event-stream application/json;")
		c := watchByClient(t, openTab(t, chromium, proxy, brokenWebSocket), h.startModel(t.Context(), t), `{}`)
		c.reaches("long-poll", 1)
		a.goOn(2)
		c.reaches("long-poll", a.upTo(1)+1)
		a.goOn(3)
		c.ends(a)
	})
	t.Run("of seven tabs over HTTP/1.1 one connects, and when it is closed another", func(t *testing.T) { testSevenTabs(t, chromium) })
	t.Run("goes on as soon as the browser is online again", func(t *testing.T) {
		h := startHub(t)
		a := h.upstream.answerWith(hostileText())
		net := newCutter(t, h.url)
		id := h.startModel(t.Context(), t)
		// By itself it would come back in two minutes.
		c := watchByClient(t, openTab(t, chromium, net.url, brokenRequest, brokenWebSocket), id, `{ backoff: { baseMs: 12_000, maxMs: 12_000, random: () => 0.99 } }`)
		c.reaches("websocket", 1)
		c.online(false)
		net.aim("")
		net.cut(nil)
		c.until(`document.documentElement.dataset.state === "waiting"`)
		a.goOn(2)
		net.aim(h.url)
		c.online(true)
		c.reaches("websocket", a.upTo(1)+1)
		a.goOn(3)
		c.ends(a)
	})
	t.Run("goes on when the server has been started anew", func(t *testing.T) {
		data := t.TempDir()
		h := startHub(t, "--data-dir", data)
		a := h.upstream.answerWith(hostileText())
		net := newCutter(t, h.url)
		id := h.startModel(t.Context(), t)
		c := watchByClient(t, openTab(t, chromium, net.url, brokenRequest, brokenWebSocket), id, `{ backoff: { baseMs: 50, maxMs: 200 } }`)
		c.reaches("websocket", 1)
		net.aim("")
		net.cut(nil)
		a.goOn(3)
		for h.metadata(t, id).State == protocol.StateRunning {
			if !pause(c.ctx, 20*time.Millisecond) {
				t.Fatal("the answer did not end")
			}
		}
		if err := h.process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		<-h.log.done
		net.aim(startHub(t, "--data-dir", data).url)
		c.ends(a)
	})
	t.Run("lets its page into the back-forward cache, and goes on when it is back", func(t *testing.T) {
		h := startHub(t)
		a := h.upstream.answerWith(hostileText())
		id := h.startModel(t.Context(), t)
		c := watchByClient(t, openTab(t, chromium, h.url, `/favicon\.ico\)$`), id, `{ share: new client.Tabs() }`)
		c.reaches("websocket", 1)
		c.do(chromedp.Navigate(h.url + "/favicon.svg"))
		for h.metadata(t, id).Viewers > 0 {
			if !pause(c.ctx, 20*time.Millisecond) {
				t.Fatal("the page that was left still watches")
			}
		}
		a.goOn(3)
		// There is no load to wait for: the page is as it was.
		c.do(chromedp.Evaluate[chromedp.Void]("history.back()"))
		for {
			path, err := chromedp.Run(c.ctx, chromedp.Evaluate[string]("location.pathname"))
			if err == nil && path == "/" {
				break
			}
			if !pause(c.ctx, 20*time.Millisecond) {
				t.Fatalf("the page is not back: %q, %v", path, err)
			}
		}
		if !get[bool](c.tab, `"run" in window`) {
			t.Fatal(get[string](c.tab, `JSON.stringify(performance.getEntriesByType("navigation")[0].notRestoredReasons)`))
		}
		c.ends(a)
	})
	t.Run("keeps answers in IndexedDB", func(t *testing.T) {
		h := startHub(t)
		a := h.upstream.answerWith(hostileText())
		a.goOn(stages)
		p := openTab(t, chromium, h.url)
		analyze := `(async () => {
			const { Athena, AnswerCache } = await import("/client.js");
			const cache = new AnswerCache(%[1]s), kept = [];
			const watched = { // tells when the answer that has come has been kept, or could not be
				find: (asked) => cache.find(asked), drop: (...args) => cache.drop(...args),
				keep: (...args) => { const done = cache.keep(...args); kept.push(done); return done; },
			};
			const run = new Athena({ cache: watched }).analyze({ code: "package main", provider: "openai", cache: %[2]q });
			await run.finished();
			await new Promise((resolve) => { setTimeout(resolve); });
			await Promise.all(kept);
			return { text: run.text(), cached: run.terminal().data.cached, findings: run.findings() };
		})()`
		type outcome struct {
			Text   string
			Cached bool
		}
		asked := 0
		check := func(what, options, mode string, cached bool) {
			t.Helper()
			if got := get[outcome](p, fmt.Sprintf(analyze, options, mode)); got != (outcome{a.text, cached}) {
				t.Errorf("%s: %+v, want cached %v", what, got, cached)
			}
			if !cached {
				asked++
			}
			if got := h.upstream.script.Count(); got != asked {
				t.Errorf("%s: the model was asked %d times, want %d", what, got, asked)
			}
			p.do(chromedp.Navigate(h.url + "/"))
		}
		check("the first time", `{}`, "use", false)
		check("the second time", `{}`, "use", true)
		check("too old", `{ maxAgeMs: 0 }`, "use", false)

		check("too old, once more", `{}`, "use", true)
		h.clearCache(t)
		check("after that", `{}`, "use", false)
		check("after that, again", `{}`, "use", true)

		// A storage bucket is what the browser holds to a quota; that of an origin is
		// as large as the disk.
		const small = `{ indexedDB: (await navigator.storageBuckets.open("small", { quota: 2_000 })).indexedDB, name: "n" }`
		full := get[string](p, `(async () => {
			const { AnswerCache } = await import("/client.js");
			const { indexedDB } = `+small+`;
			await new AnswerCache(`+small+`).clear(); // makes the stores
			const db = await new Promise((resolve, reject) => {
				const r = indexedDB.open("n");
				r.onsuccess = () => { resolve(r.result); };
				r.onerror = () => { reject(r.error); };
			});
			const error = await new Promise((resolve) => {
				const tx = db.transaction("answers", "readwrite");
				tx.objectStore("answers").put("x".repeat(1 << 20), "large");
				tx.oncomplete = () => { resolve("none"); };
				tx.onabort = () => { resolve(tx.error.name); };
			});
			db.close();
			return error;
		})()`)
		if full != "QuotaExceededError" {
			t.Errorf("what is too large for the bucket is refused with %q", full)
		}
		check("without room", small, "use", false)
		check("without room, again", small, "use", false)
		roomy := strings.NewReplacer("small", "roomy", "2_000", "100_000_000").Replace(small)
		check("with room", roomy, "use", false)
		check("with room, again", roomy, "use", true)
	})
}

// clearCache has the hub forget the answers that anybody keeps.
func (h *hub) clearCache(t *testing.T) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, h.url+"/v1/cache", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := h.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("DELETE /v1/cache: %s, %v", res.Status, err)
	}
}

// testSevenTabs has more tabs than a browser gives a host connections, behind a
// proxy where each stream would need one.
func testSevenTabs(t *testing.T, chromium context.Context) {
	h := startHub(t)
	a := h.upstream.answerWith(hostileText())
	proxy := startNginx(t, h.url, "proxy_buffering off;")
	id := h.startModel(t.Context(), t)
	first := openTab(t, chromium, proxy, brokenWebSocket)
	tabs := []*clientTab{watchByClient(t, first, id, `{ share: new client.Tabs() }`)}
	tabs[0].reaches("sse", 1)
	for range 6 {
		p := openBeside(t, chromium, first)
		tabs = append(tabs, watchByClient(t, p, id, `{ share: new client.Tabs() }`))
	}
	for _, c := range tabs {
		c.reaches("sse", 1)
	}
	if got := h.metadata(t, id).Viewers; got != 1 {
		t.Errorf("%d connections watch the stream, want 1", got)
	}
	// Another page in the place of the first: what that held is given back.
	first.do(chromedp.Navigate("about:blank"))
	tabs = tabs[1:]
	a.goOn(2)
	for _, c := range tabs {
		c.reaches("sse", a.upTo(1)+1)
	}
	if got := h.metadata(t, id).Viewers; got != 1 {
		t.Errorf("then %d connections watch it, want 1", got)
	}
	a.goOn(3)
	for _, c := range tabs {
		c.ends(a)
	}
}

// openBeside opens one more tab of the session that first has.
func openBeside(t *testing.T, chromium context.Context, first *tab) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(chromium, chromedp.WithExistingBrowserContext(chromedp.FromContext(first.ctx).BrowserContextID))
	t.Cleanup(cancel)
	p := &tab{t: t, base: first.base}
	if err := chromedp.Listen(ctx, p.hear); err != nil {
		t.Fatal(err)
	}
	timely, cancel := context.WithTimeout(ctx, testTimeout)
	t.Cleanup(cancel)
	p.ctx = timely
	t.Cleanup(func() { p.checkProblems([]string{brokenWebSocket, brokenRequest}) })
	p.do(chromedp.Navigate(first.base + "/"))
	return p
}

// A clientTab is a tab in which the client watches a stream.
type clientTab struct{ *tab }

// watchByClient begins to watch, by a client with these options. What it knows
// goes into attributes, since that is what until looks at.
func watchByClient(t *testing.T, p *tab, id, options string) *clientTab {
	t.Helper()
	if !get[bool](p, fmt.Sprintf(`(async () => {
		window.client = await import("/client.js");
		const { dataset } = document.documentElement;
		window.run = new client.Athena(%s).watch(%q);
		const show = () => { dataset.bytes = new TextEncoder().encode(run.text()).length; };
		run.onStatus((s) => { dataset.state = s.state; dataset.transport = s.transport ?? ""; show(); });
		(async () => { for await (const e of run) show(); })().catch((e) => { console.error(e); });
		return true;
	})()`, options, id)) {
		t.Fatal("the client did not begin")
	}
	return &clientTab{p}
}

// reaches waits until so many bytes have come, and the transport is the one.
func (c *clientTab) reaches(transport string, bytes int) {
	c.t.Helper()
	c.until(fmt.Sprintf(`document.documentElement.dataset.transport === %q && Number(document.documentElement.dataset.bytes) >= %d`, transport, bytes))
}

func (c *clientTab) move(transport string) {
	c.t.Helper()
	get[bool](c.tab, fmt.Sprintf(`(run.useTransport(%q), true)`, transport))
	c.until(fmt.Sprintf(`document.documentElement.dataset.transport === %q && document.documentElement.dataset.state === "live"`, transport))
}

// online tells the page of the network, as the system does.
func (c *clientTab) online(is bool) {
	c.t.Helper()
	_, err := chromedp.Call(c.ctx, network.OverrideNetworkState, network.OverrideNetworkStateParams{Offline: !is, DownloadThroughput: -1, UploadThroughput: -1})
	if err != nil {
		c.t.Fatal(err)
	}
}

// ends waits for the end, and compares the text with what the model said.
func (c *clientTab) ends(a *answer) {
	c.t.Helper()
	c.until(`["ended", "failed"].includes(document.documentElement.dataset.state)`)
	type outcome struct{ Text, End string }
	if got := get[outcome](c.tab, `({ text: run.text(), end: run.terminal()?.type ?? run.status.reason })`); got != (outcome{a.text, "completed"}) {
		c.t.Errorf("the client has %+v, want %q", got, a.text)
	}
}

// metadata is what the hub tells of a stream.
func (h *hub) metadata(t *testing.T, id string) (m protocol.Metadata) {
	t.Helper()
	res, err := h.client.Get(h.url + "/v1/streams/" + id)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

// startNginx is an nginx in front of the server at base which forgets upgrades,
// as one does that wasn't told of them, and buffers as directives say.
func startNginx(t *testing.T, base, directives string) (url string) {
	t.Helper()
	nginx := need(t, "nginx (Debian: apt-get install nginx)", "nginx", "/usr/sbin/nginx")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/pid; error_log stderr warn;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	server {
		listen %[2]s;
		location / {
			proxy_pass %[3]s; proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Connection "";
			proxy_read_timeout 60s; %[4]s
		}
	}
}`, dir, addr, base, directives)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nginx, "-p", dir, "-c", file)
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have failed, which the log tells
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("nginx: %v\n%s", err, log.String())
		}
	})
	for end := time.Now().Add(startTimeout); ; {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return "http://" + addr
		}
		if time.Now().After(end) || !pause(t.Context(), 20*time.Millisecond) {
			t.Fatalf("nginx does not listen: %v", err)
		}
	}
}
