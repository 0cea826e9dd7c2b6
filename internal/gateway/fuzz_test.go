package gateway

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/athena-hub/athena/protocol"
)

const idA, idB = "01JD0000000000000000000000AAAAAAAAAA", "01JD0000000000000000000000BBBBBBBBBB"

func FuzzCursorsOfAQueryAreOfTheStreamsNamed(f *testing.F) {
	f.Add("stream="+idA+"&stream="+idB+"&after="+idA+":17,"+idB+":3", idB+":4")
	f.Add("stream="+idA, "")
	f.Add("stream="+idA+"&after=", ":")
	f.Fuzz(func(t *testing.T, query, last string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		cursors, err := cursorParams(q["stream"], q.Get("after"), last, 64)
		if err != nil {
			if _, ok := errors.AsType[*protocol.Error](err); !ok {
				t.Fatalf("not for clients: %v", err)
			}
			return
		}
		if len(cursors) != len(q["stream"]) {
			t.Fatalf("%d cursors for %d streams", len(cursors), len(q["stream"]))
		}
		for i, c := range cursors {
			if c.Stream != q["stream"][i] || c.After > protocol.MaxSeq || !protocol.ValidStreamID(c.Stream) {
				t.Fatalf("cursor %+v for %q", c, q["stream"][i])
			}
		}
		// What was understood is understood again, and says the same.
		again, err := cursorParams(q["stream"], string(protocol.AppendCursors(nil, cursors)), "", 64)
		if err != nil {
			t.Fatal(err)
		}
		for i := range cursors {
			if again[i] != cursors[i] {
				t.Fatalf("%+v became %+v", cursors[i], again[i])
			}
		}
	})
}

func FuzzAnOriginIsAllowedOnlyIfItIsListed(f *testing.F) {
	o, err := NewOrigins([]string{"https://app.example.com", "https://*.example.org"})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"https://app.example.com", "https://a.example.org", "https://evil.example/.example.org", "null", "https://.example.org"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, origin string) {
		if !o.listed(origin) {
			return
		}
		u, err := url.Parse(origin)
		if err != nil {
			return // a browser's origin can be parsed
		}
		if host := strings.ToLower(u.Host); u.Path != "" || !strings.EqualFold(u.Scheme, "https") || (host != "app.example.com" && !strings.HasSuffix(host, ".example.org")) {
			t.Fatalf("%q is allowed", origin)
		}
	})
}

func FuzzAcceptIsReadWithoutHarm(f *testing.F) {
	f.Add("text/event-stream;q=0")
	f.Add("text/html, text/event-stream; q=0.9")
	f.Fuzz(func(t *testing.T, accept string) {
		r := &http.Request{Header: http.Header{"Accept": {accept}}}
		if wantsSSE(r) && !strings.Contains(strings.ToLower(accept), "text/event-stream") {
			t.Fatalf("%q", accept)
		}
	})
}
