//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/athena-hub/athena/hub"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/stream"
	"github.com/athena-hub/athena/protocol"
)

// athena is the real thing below the gateway: hub, Writers, and the stored log
// in the embedded NATS server.
type athena struct {
	mux     *http.ServeMux
	bus     *backbone.Backbone
	feeds   *hub.Feeds
	streams *stream.Node
	hub     *hub.Hub

	mu      sync.Mutex
	writers map[string]*stream.Writer // guarded by mu: those that have not ended
}

func newAthena(s spec) (*athena, error) {
	a := &athena{mux: http.NewServeMux(), writers: make(map[string]*stream.Writer)}
	var err error
	a.bus, err = backbone.Open(context.Background(), backbone.Options{
		DataDir: s.Dir, Node: "bench", OnDrop: func(id string, _ int) { a.streams.Dropped(id) }})
	if err != nil {
		return nil, err
	}
	a.feeds = hub.NewFeeds(hub.FeedLimits{})
	// Without a coalescing window: each chunk is an event.
	a.streams = stream.New(a.feeds, a.bus, stream.Options{Node: "bench", Sole: true})
	if _, err := a.streams.Recover(context.Background()); err != nil {
		return nil, errors.Join(err, a.close())
	}
	a.hub = hub.New(a.feeds, a.streams, hub.Options{})
	a.mux.HandleFunc("GET /v1/ws", a.hub.ServeWebSocket)
	a.mux.HandleFunc("GET /v1/streams/{id}/events", func(w http.ResponseWriter, r *http.Request) {
		a.hub.ServeSSE(w, r, []protocol.Cursor{{Stream: r.PathValue("id")}}, true)
	})
	return a, nil
}

func (a *athena) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

func (a *athena) create(ctx context.Context) (string, error) {
	w, err := a.streams.Create(ctx, protocol.NewStreamID())
	if err != nil {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writers[w.ID()] = w
	return w.ID(), nil
}

func (a *athena) writer(id string) (*stream.Writer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.writers[id]; w != nil {
		return w, nil
	}
	return nil, fmt.Errorf("no such stream: %s", id)
}

func (a *athena) publish(id, text string) error {
	w, err := a.writer(id)
	if err != nil {
		return err
	}
	return w.Chunk(protocol.KindText, 1, text)
}

func (a *athena) end(id string) error {
	w, err := a.writer(id)
	if err != nil {
		return err
	}
	a.mu.Lock()
	delete(a.writers, id)
	a.mu.Unlock()
	return w.Append(protocol.TypeCompleted, &protocol.Completed{FinishReason: "stop", Provider: "bench", Model: "bench"})
}

func (a *athena) close() error {
	var errs []error
	for id := range a.writers { // no order runs any more
		errs = append(errs, a.end(id))
	}
	if a.hub != nil {
		a.hub.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	errs = append(errs, a.streams.Close(ctx))
	a.feeds.Close()
	return errors.Join(append(errs, a.bus.Close())...)
}
