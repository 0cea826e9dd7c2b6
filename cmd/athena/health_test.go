package main

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/claude"
	"github.com/athena-hub/athena/providers/local"
	"github.com/athena-hub/athena/providers/providertest"
)

// answering is a client that answers each call with the statuses in turn, the last
// one for ever.
func answering(statuses ...int) (*http.Client, *atomic.Int32) {
	asked := new(atomic.Int32)
	return &http.Client{Transport: roundTrip(func(*http.Request) *http.Response {
		status := statuses[min(int(asked.Add(1)), len(statuses))-1]
		w := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: http.NoBody}
		if status == http.StatusOK {
			w.Body = readCloser{strings.NewReader(`{"data":[{"id":"m"}]}`)}
		}
		return w
	})}, asked
}

type roundTrip func(*http.Request) *http.Response

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func TestProvidersAreCheckedAndChangesAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, asked := answering(200, 401, 401, 200)
		up, err := claude.New(providers.Config{Name: "claude", APIKey: "sk-ant-secret", Client: client})
		if err != nil {
			t.Fatal(err)
		}
		offline, err := local.New(providers.Config{Name: "local"})
		if err != nil {
			t.Fatal(err)
		}
		log := newSink()
		c := newCheckups([]analysis.Entry{{Provider: up}, {Provider: offline}}, time.Minute, zerolog.New(log))
		c.start()
		defer c.close()
		for n, want := range []struct {
			ok   bool
			says int // lines in the log so far
		}{{true, 0}, {false, 1}, {false, 1}, {true, 2}, {true, 2}} {
			synctest.Wait()
			h, checked := c.results()["claude"]
			if !checked || h.OK != want.ok || (h.Error == nil) != want.ok || time.Since(h.Checked) != 0 || int(asked.Load()) != n+1 {
				t.Errorf("check %d: %+v, %v, %d calls", n, h, checked, asked.Load())
			}
			if h.Error != nil && h.Error.Code != protocol.CodeUnauthorized {
				t.Errorf("check %d: %v", n, h.Error)
			}
			if got := strings.Count(log.String(), "\n"); got != want.says {
				t.Errorf("check %d: the log has %d lines, want %d: %s", n, got, want.says, log.String())
			}
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if _, checked := c.results()["local"]; checked {
			t.Error("local is checked, which calls nobody")
		}
		if strings.Contains(log.String(), "secret") {
			t.Errorf("the log has the key: %s", log.String())
		}
	})
}

func TestAWrongKeyIsKnownBeforeItIsNeeded(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{})
	up.RequireKey("another-key")
	s := serve(t, openAIAt(up))
	deadline := time.Now().Add(patience)
	for {
		body := s.do("GET", "/v1/providers", "").body
		if strings.Contains(body, `"health":{"ok":false,`) && strings.Contains(body, `"code":"unauthorized"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("its health is not told: %s", body)
		}
		<-time.After(10 * time.Millisecond)
	}
	if n := up.Count(); n != 0 {
		t.Errorf("%d answers were asked for", n)
	}
}
