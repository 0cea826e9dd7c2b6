package gateway_test

import (
	"compress/gzip"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/web"
)

func TestThePageIsServedWithItsPolicyAndCaching(t *testing.T) {
	n := start(t, true)
	a := n.do("GET", "/", "")
	h := a.header
	if a.status != 200 || a.body != "<!doctype html>" || h.Get("Content-Type") != "text/html; charset=utf-8" || h.Get("Cache-Control") != "no-cache" ||
		!strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self';") || h.Get("X-Content-Type-Options") != "nosniff" ||
		h.Get("Referrer-Policy") != "no-referrer" || h.Get("ETag") == "" {
		t.Errorf("%d %v %s", a.status, h, a.body)
	}
	if b := n.do("GET", "/", "", "If-None-Match", h.Get("ETag")); b.status != 304 || b.body != "" {
		t.Errorf("%d %s", b.status, b.body)
	}
	if b := n.do("GET", "/app-ABCD2345.js", ""); b.header.Get("Cache-Control") != "public, max-age=31536000, immutable" || b.header.Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("%d %v", b.status, b.header)
	}
	if b := n.do("GET", "/img/x.svg", ""); b.status != 200 || b.header.Get("Content-Type") != "image/svg+xml" {
		t.Errorf("%d %v", b.status, b.header)
	}
	for _, path := range []string{"/.keep", "/index.html", "/img/", "/../secret"} {
		if b := n.do("GET", path, ""); b.status == 200 {
			t.Errorf("%s: %d %s", path, b.status, b.body)
		}
	}
}

func TestThePageIsCompressedForThoseWhoAcceptIt(t *testing.T) {
	script := strings.Repeat("export const answer = 42;\n", 100)
	n := start(t, false, func(o *gateway.Options) {
		o.Page = fstest.MapFS{"index.html": {Data: []byte("<!doctype html>")}, "app.js": {Data: []byte(script)}}
	})
	plain := n.do("GET", "/app.js", "", "Accept-Encoding", "br")
	if plain.body != script || plain.header.Get("Content-Encoding") != "" || !slices.Contains(plain.header.Values("Vary"), "Accept-Encoding") {
		t.Errorf("%v %d bytes", plain.header, len(plain.body))
	}
	if refused := n.do("GET", "/app.js", "", "Accept-Encoding", "gzip;q=0, identity"); refused.body != script || refused.header.Get("ETag") != plain.header.Get("ETag") {
		t.Errorf("%v %d bytes", refused.header, len(refused.body))
	}
	small := n.do("GET", "/app.js", "", "Accept-Encoding", "br, GZIP;q=0.5")
	if got := gunzip(t, small.body); got != script || small.header.Get("Content-Encoding") != "gzip" || !slices.Contains(small.header.Values("Vary"), "Accept-Encoding") ||
		small.header.Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("%v %d bytes", small.header, len(got))
	}
	tag := small.header.Get("ETag")
	if tag == "" || tag == plain.header.Get("ETag") {
		t.Errorf("two encodings have the tag %s", tag)
	}
	if again := n.do("GET", "/app.js", "", "Accept-Encoding", "gzip", "If-None-Match", tag); again.status != 304 || again.body != "" {
		t.Errorf("%d %q", again.status, again.body)
	}
	if other := n.do("GET", "/app.js", "", "Accept-Encoding", "identity", "If-None-Match", tag); other.status != 200 || other.body != script {
		t.Errorf("the tag of the compressed file is as good as that of the plain one: %d", other.status)
	}
	// What would grow stays as it is.
	if tiny := n.do("GET", "/", "", "Accept-Encoding", "gzip"); tiny.body != "<!doctype html>" || tiny.header.Get("Content-Encoding") != "" {
		t.Errorf("%v %q", tiny.header, tiny.body)
	}
}

// The page may take its time over a slow line, but not more than this.
const pageBudget = 250_000

func TestThePageLoadsWithinItsBudget(t *testing.T) {
	n := start(t, false, func(o *gateway.Options) { o.Page = web.FS() })
	total := 0
	for _, path := range []string{"/", "/app.js", "/app.css", "/favicon.svg"} {
		a := n.do("GET", path, "", "Accept-Encoding", "gzip")
		if a.status != 200 {
			t.Errorf("%s: %d", path, a.status)
		}
		total += len(a.body)
	}
	t.Logf("%d bytes", total)
	if total > pageBudget {
		t.Errorf("the page is %d bytes, of which there may be %d", total, pageBudget)
	}
}

func gunzip(t *testing.T, body string) string {
	t.Helper()
	r, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
