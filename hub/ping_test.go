package hub_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/protocol"
)

// ping is a client's ping without a payload, masked with zeros.
const ping = "\x89\x80\x00\x00\x00\x00"

// watchRaw subscribes a connection that reads nothing yet.
func (w *world) watchRaw(p *publisher) net.Conn {
	w.t.Helper()
	raw := w.rawWebSocket(fmt.Sprintf(`{"type":"subscribe","id":"s","stream":%q}`, p.id))
	w.t.Cleanup(func() { _ = raw.Close() })
	if err := raw.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "the client watches", func() bool { n, _ := p.feed.Watchers(); return n == 1 })
	return raw
}

// readFrames reads frames until one holds the stream's end, and returns how many
// pongs came. Text must be JSON, and nothing may stand between the frames.
func readFrames(t *testing.T, raw net.Conn) (pongs int) {
	t.Helper()
	if err := raw.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReaderSize(raw, 64<<10)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close() // an upgrade has none
	for {
		first, payload, err := readFrame(br)
		if err != nil {
			t.Fatal(err)
		}
		switch first {
		case 0x8a:
			pongs++
		case 0x89:
		case 0x81:
			if !json.Valid(payload) {
				t.Fatalf("a message of %d bytes is no JSON; a pong stands in it at %d", len(payload), strings.Index(string(payload), "\x8a\x00"))
			}
			if strings.Contains(string(payload[max(0, len(payload)-2000):]), `"completed"`) {
				return pongs
			}
		default:
			t.Fatalf("a frame begins with %#x", first)
		}
	}
}

func TestPingsOfASlowClientDontBreakItsMessages(t *testing.T) {
	text := strings.Repeat("x", 900<<10)
	for range 8 {
		w := newWorld(t, hub.Options{}, hub.FeedLimits{FeedBytes: 512 << 20})
		p := w.publish().start()
		raw := w.watchRaw(p)
		ctx, stop := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			tick := time.NewTicker(50 * time.Microsecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				if _, err := raw.Write([]byte(ping)); err != nil {
					return
				}
				<-tick.C
			}
		}()
		for range 9 {
			p.chunk(text)
			pause(t)
		}
		stop()
		<-stopped
		p.complete()
		if pongs := readFrames(t, raw); pongs == 0 {
			t.Error("no ping was answered")
		}
	}
}

// pause lets other goroutines run for a moment.
func pause(t *testing.T) {
	select {
	case <-time.After(3 * time.Millisecond):
	case <-t.Context().Done():
	}
}

// The library that reads a WebSocket gives a pong of its own 5 s, and then closes.
func TestAClientThatPausesAfterAPingHasTheWholeWriteTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 6 s")
	}
	t.Parallel()
	w := newWorld(t, hub.Options{}, hub.FeedLimits{FeedBytes: 512 << 20})
	p := w.publish().start()
	raw := w.watchRaw(p)
	for range 15 {
		p.chunk(strings.Repeat("x", 900<<10))
	}
	if _, err := raw.Write([]byte(ping)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-time.After(6 * time.Second):
	case <-t.Context().Done():
	}
	p.complete()
	if pongs := readFrames(t, raw); pongs != 1 {
		t.Errorf("%d pongs came, want 1", pongs)
	}
}

// slowCommands takes its time.
type slowCommands struct {
	commands
	takes time.Duration
}

func (s slowCommands) Analyze(ctx context.Context, _ []byte) (string, error) {
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
	}
	return "", protocol.Errorf(protocol.CodeForbidden, "no")
}

func TestAClientIsNotTakenForDeadWhileItsCommandIsDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hub.Options{Heartbeat: aBeat, Commands: slowCommands{takes: 4 * aBeat}}, hub.FeedLimits{})
	c := w.dial()
	c.send(`{"type":"analyze","id":"a","request":{"code":"x"}}`)
	for {
		if m := c.next(); m.Type == protocol.MessageError {
			if m.ID != "a" || m.Error.Code != protocol.CodeForbidden {
				t.Errorf("the answer is %+v, want that it is forbidden", m)
			}
			return
		}
	}
}
