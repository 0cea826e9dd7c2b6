package main

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
)

// athena runs a command of the program against the server and returns what it
// wrote.
func (s *server) athena(variables []string, args ...string) (stdout, stderr string, err error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd, err := command(ctx, append([]string{"ATHENA_SERVER=" + s.url}, variables...), args...)
	if err != nil {
		s.t.Fatal(err)
	}
	stdin, err := cmd.StdinPipe() // a pipe that stays open, as its end would end the program
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }() // the program has ended
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err = cmd.Run()
	return out.String(), complaints.String(), err
}

// bearer is the header of a caller with this key or token.
func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// createKey has the server make a key.
func (s *server) createKey(body string, header ...string) gateway.Key {
	s.t.Helper()
	r := s.do("POST", "/v1/keys", body, header...)
	if r.status != http.StatusCreated {
		s.t.Fatalf("make a key: %d %s", r.status, r.body)
	}
	return decode[gateway.Key](s.t, r)
}

// A door is a way to a stream: it returns how the caller was answered, with
// status 200 where it was let in.
type door struct {
	name   string
	scope  string
	status int // of those who are let in
	knock  func(s *server, stream, token string) (status int, code protocol.Code, detail string)
}

// doors are all ways to a stream.
func doors() []door {
	byHTTP := func(method, path string, header ...string) func(*server, string, string) (int, protocol.Code, string) {
		return func(s *server, stream, token string) (int, protocol.Code, string) {
			r := s.do(method, strings.ReplaceAll(path, "ID", stream), "", append(header, "Authorization", "Bearer "+token)...)
			var p protocol.Error
			if r.status >= 400 {
				p = decode[protocol.Error](s.t, r)
			}
			return r.status, p.Code, p.Detail
		}
	}
	byCommand := func(c protocol.Command) func(*server, string, string) (int, protocol.Code, string) {
		return func(s *server, stream, token string) (int, protocol.Code, string) {
			ctx, cancel := context.WithTimeout(s.t.Context(), patience)
			defer cancel()
			l, err := openWebSocket(ctx, target{url: s.url, header: bearer(token)})
			if err != nil {
				s.t.Fatal(err)
			}
			defer l.close(false)
			c.ID, c.Stream = "c1", stream
			if err := l.send(&c); err != nil {
				s.t.Fatal(err)
			}
			for {
				d, err := l.next()
				if err != nil {
					s.t.Fatal(err)
				}
				if d.message == nil || d.message.ID != "c1" {
					continue
				}
				if e := d.message.Error; e != nil {
					return e.Status, e.Code, e.Detail
				}
				return 200, "", ""
			}
		}
	}
	return []door{
		{"metadata", "read", 200, byHTTP("GET", "/v1/streams/ID")},
		{"SSE of the stream", "read", 200, byHTTP("GET", "/v1/streams/ID/events", "Accept", "text/event-stream")},
		{"long-poll of the stream", "read", 200, byHTTP("GET", "/v1/streams/ID/events")},
		{"SSE of several", "read", 200, byHTTP("GET", "/v1/events?stream=ID", "Accept", "text/event-stream")},
		{"long-poll of several", "read", 200, byHTTP("GET", "/v1/events?stream=ID")},
		{"a cursor in the middle", "read", 200, byHTTP("GET", "/v1/events?stream=ID&after=ID:2")},
		{"Last-Event-ID", "read", 200, byHTTP("GET", "/v1/streams/ID/events", "Last-Event-ID", "2")},
		{"share", "read", 201, byHTTP("POST", "/v1/streams/ID/share")},
		{"subscribe", "read", 200, byCommand(protocol.Command{Type: protocol.CommandSubscribe})},
		{"subscribe from a cursor", "read", 200, byCommand(protocol.Command{Type: protocol.CommandSubscribe, After: 2})},
		{"DELETE", "cancel", 202, byHTTP("DELETE", "/v1/streams/ID")},
		{"cancel", "cancel", 200, byCommand(protocol.Command{Type: protocol.CommandCancel})},
	}
}

// only is the body that makes a key of a tenant with these scopes.
func only(tenant string, scopes ...string) string {
	return `{"name":"` + tenant + `-` + strings.Join(scopes, "-") + `","tenant":"` + tenant + `","scopes":["` + strings.Join(scopes, `","`) + `"]}`
}

func authorization(token string) []string { return []string{"Authorization", "Bearer " + token} }

// wantDoors fails the test unless each door answers a caller with this status
// and code; status 0 stands for being let in.
func (s *server) wantDoors(t *testing.T, stream, token string, status int, code protocol.Code) {
	t.Helper()
	for _, d := range doors() {
		want := status
		if want == 0 {
			want = d.status
		}
		if got, gotCode, detail := d.knock(s, stream, token); got != want || gotCode != code {
			t.Errorf("%s: %d %s %q; want %d %s", d.name, got, gotCode, detail, want, code)
		}
	}
}
