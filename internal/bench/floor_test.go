//go:build linux

package bench

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/athena-hub/athena/protocol"
)

// A floor is the least that a server of streams does: encode once, hand the
// bytes to each client's goroutine through a channel, write.
type floor struct {
	mux *http.ServeMux

	mu     sync.Mutex
	topics map[string]*topic // guarded by mu, the map only
}

// A topic is a stream of the floor.
type topic struct {
	seq atomic.Uint64
	// The clients, in a slice that is replaced and not changed, so that the
	// loop over it needs no lock.
	webSockets, sse atomic.Pointer[[]*listener]
}

// A listener is one client's place at the end of its channel.
type listener struct {
	messages chan []byte
	gone     <-chan struct{}
}

// queueLength is how many messages a client of the floor may be behind before
// everybody waits for it.
const queueLength = 256

func newFloor() *floor {
	f := &floor{mux: http.NewServeMux(), topics: make(map[string]*topic)}
	f.mux.HandleFunc("GET /v1/ws", f.serveWebSocket)
	f.mux.HandleFunc("GET /v1/streams/{id}/events", f.serveSSE)
	return f
}

func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.mux.ServeHTTP(w, r) }
func (f *floor) close() error                                     { return nil }
func (f *floor) end(string) error                                 { return nil }

func (f *floor) create(context.Context) (string, error) {
	id, t := protocol.NewStreamID(), new(topic)
	t.webSockets.Store(new([]*listener))
	t.sse.Store(new([]*listener))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.topics[id] = t
	return id, nil
}

func (f *floor) topic(id string) *topic {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.topics[id]
}

func (f *floor) publish(id, text string) error {
	t := f.topic(id)
	if t == nil {
		return fmt.Errorf("no such stream: %s", id)
	}
	seq := t.seq.Add(1)
	e := protocol.EncodeChunk(id, seq, seq, time.Now(), protocol.KindText, 1, text)
	send(*t.webSockets.Load(), e.JSON)
	if clients := *t.sse.Load(); len(clients) > 0 {
		send(clients, protocol.AppendSSE(nil, fmt.Append(nil, seq), "", e.JSON))
	}
	return nil
}

func send(clients []*listener, message []byte) {
	for _, l := range clients {
		select {
		case l.messages <- message:
		case <-l.gone:
		}
	}
}

// listen adds a client to one of a topic's lists. leave takes it out.
func (f *floor) listen(list *atomic.Pointer[[]*listener], gone <-chan struct{}) (l *listener, leave func()) {
	l = &listener{messages: make(chan []byte, queueLength), gone: gone}
	f.mu.Lock()
	defer f.mu.Unlock()
	next := append(slices.Clone(*list.Load()), l)
	list.Store(&next)
	return l, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		next := slices.DeleteFunc(slices.Clone(*list.Load()), func(o *listener) bool { return o == l })
		list.Store(&next)
	}
}

func (f *floor) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	t := f.topic(r.URL.Query().Get("stream"))
	if t == nil {
		http.NotFound(w, r)
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{protocol.Version}, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	ctx := conn.CloseRead(context.Background())
	l, leave := f.listen(&t.webSockets, ctx.Done())
	defer leave()
	next := []byte(`{"type":"subscribed"}`)
	for {
		// A context that can end would cost a timer for each message.
		if err := conn.Write(context.Background(), websocket.MessageText, next); err != nil {
			return
		}
		select {
		case next = <-l.messages:
		case <-ctx.Done():
			return
		}
	}
}

func (f *floor) serveSSE(w http.ResponseWriter, r *http.Request) {
	t := f.topic(r.PathValue("id"))
	if t == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	l, leave := f.listen(&t.sse, r.Context().Done())
	defer leave()
	control := http.NewResponseController(w)
	next := protocol.AppendSSE(nil, []byte("0"), "welcome", []byte("{}"))
	for {
		if _, err := w.Write(next); err != nil {
			return
		}
		if err := control.Flush(); err != nil {
			return
		}
		select {
		case next = <-l.messages:
		case <-r.Context().Done():
			return
		}
	}
}
