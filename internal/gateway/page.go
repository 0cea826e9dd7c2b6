package gateway

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	// pagePolicy lets the page load what is its own, and nothing else.
	pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
		"manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
		// Text can't become markup or script by mistake: the page makes elements, never HTML.
		"require-trusted-types-for 'script'; trusted-types 'none'"
	// apiPolicy is for answers that are no page, should a browser show one.
	apiPolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
	// permissions takes from the page, should foreign script get into it, what
	// it never asks the browser for.
	permissions = "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), hid=(), microphone=(), midi=(), payment=(), serial=(), usb=()"
)

// hashed matches the names that bundlers give to files whose content their
// name tells.
var hashed = regexp.MustCompile(`[-.][0-9A-Z]{8}\.[a-z0-9.]+$`)

// types are those of the files that a page has. The machine's own table, which
// mime reads too, may say otherwise.
var types = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
	".json": "application/json", ".map": "application/json", ".svg": "image/svg+xml", ".png": "image/png", ".ico": "image/x-icon",
	".woff2": "font/woff2", ".webmanifest": "application/manifest+json", ".txt": "text/plain; charset=utf-8",
}

// mountPage gives every file of the page a route of its own.
func (g *Gateway) mountPage(page fs.FS) error {
	return fs.WalkDir(page, ".", func(name string, d fs.DirEntry, err error) error {
		// Files that begin with a dot are for tools, not for readers.
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		if strings.ContainsAny(name, "{} ") {
			return fmt.Errorf("page: the name %q can't be a route", name)
		}
		content, err := fs.ReadFile(page, name)
		if err != nil {
			return fmt.Errorf("page: %w", err)
		}
		route := "GET /" + name
		if name == "index.html" {
			route = "GET /{$}"
		}
		g.mux.Handle(route, pageFile(name, content))
		return nil
	})
}

// pageFile serves one file, compressed for those who accept it. It is
// compressed when the first of them asks: a server that shows nobody its page
// starts without that work.
func pageFile(name string, content []byte) http.Handler {
	sum := sha256.Sum256(content)
	tag := hex.EncodeToString(sum[:16])
	typ := types[path.Ext(name)]
	if typ == "" {
		typ = mime.TypeByExtension(path.Ext(name))
	}
	if typ == "" {
		typ = "application/octet-stream"
	}
	caching := "no-cache" // asked for again each time, which costs a 304
	if hashed.MatchString(name) {
		caching = "public, max-age=31536000, immutable"
	}
	compressed := sync.OnceValue(func() []byte { return compress(content) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", typ)
		h.Set("Cache-Control", caching)
		h.Set("Content-Security-Policy", pagePolicy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Add("Vary", "Accept-Encoding")
		body := content
		// Each encoding has a tag of its own, as a strong one must (RFC 9110 section 8.8.3.3).
		h.Set("ETag", `"`+tag+`"`)
		if accepts(r.Header.Values("Accept-Encoding"), "gzip") && len(compressed()) < len(content) {
			body = compressed()
			h.Set("ETag", `"`+tag+`-gzip"`)
			h.Set("Content-Encoding", "gzip")
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	})
}

func compress(content []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err == nil {
		if _, err = w.Write(content); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		panic(err) // the level is valid, and a buffer takes everything
	}
	return out.Bytes()
}
