package providertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/providers"
)

const (
	// maxBodyBytes bounds a call's body.
	maxBodyBytes = 64 << 20
	// KeptCalls is how many calls an Upstream remembers; beyond it the oldest
	// are forgotten, so that a long run doesn't fill the memory.
	KeptCalls = 4096
)

// An Upstream is a provider's server on the loopback. Calls to …/chat/completions
// and …/responses are answered in OpenAI's dialects, calls to …/messages in
// Anthropic's, and …/models lists Models. Its methods may be called concurrently.
type Upstream struct {
	// URL is the server's address, without a path.
	URL string

	server *http.Server
	served sync.WaitGroup
	// closing ends all that waits.
	closing context.Context
	close   context.CancelFunc

	mu      sync.Mutex
	script  Script             // guarded by mu
	queue   []Script           // guarded by mu: for the next calls, before script
	reply   func(*Call) Script // guarded by mu: makes scripts in the place of script, unless nil
	models  []string           // guarded by mu
	key     string             // guarded by mu
	calls   []*Call            // guarded by mu
	total   int                // guarded by mu: of all calls
	arrived chan struct{}      // guarded by mu: closed and replaced with each call
	refuses refusals           // guarded by mu
	reads   []*Call            // guarded by mu: of background answers
}

// NewUpstream starts an Upstream that follows s, and closes it with the test.
func NewUpstream(tb testing.TB, s Script) *Upstream {
	tb.Helper()
	u, err := StartUpstream(s)
	if err != nil {
		tb.Fatalf("start the upstream: %v", err)
	}
	tb.Cleanup(u.Close)
	return u
}

// StartUpstream is NewUpstream for programs. The caller closes it.
func StartUpstream(s Script) (*Upstream, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on the loopback: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	u := &Upstream{URL: "http://" + l.Addr().String(), closing: ctx, close: cancel, script: s,
		models: []string{"model-a", "model-b"}, arrived: make(chan struct{})}
	u.server = &http.Server{Handler: u, ReadHeaderTimeout: 10 * time.Second}
	u.served.Go(func() {
		if err := u.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(fmt.Sprintf("providertest: serve: %v", err)) // the listener is ours alone
		}
	})
	return u, nil
}

// Close breaks all calls off and waits until the server has ended.
func (u *Upstream) Close() {
	u.close()
	_ = u.server.Close() // its connections are gone either way
	u.served.Wait()
	u.mu.Lock()
	calls := append(append([]*Call(nil), u.calls...), u.reads...)
	u.mu.Unlock()
	for _, c := range calls {
		<-c.done
	}
}

// SetScript makes calls from now on follow s. Running ones go on with theirs.
func (u *Upstream) SetScript(s Script) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.script = s
}

// Enqueue makes the next calls follow scripts, one each, and those after them
// the script that was set.
func (u *Upstream) Enqueue(scripts ...Script) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.queue = append(u.queue, scripts...)
}

// SetReply makes f say how calls from now on are answered for which no script
// is queued: it sees what is asked. It runs in the calls' goroutines, several
// at once. What strikes a WebSocket's handshake it can't say, since nothing is
// asked yet there.
func (u *Upstream) SetReply(f func(*Call) Script) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reply = f
}

// SetModels sets what the list of models has.
func (u *Upstream) SetModels(models ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.models = models
}

// RequireKey refuses calls without this key with 401.
func (u *Upstream) RequireKey(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.key = key
}

// Calls returns the calls for answers, oldest first, KeptCalls of them at most.
func (u *Upstream) Calls() []*Call {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]*Call(nil), u.calls...)
}

// Count returns how many calls for answers there were.
func (u *Upstream) Count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.total
}

// WaitCall returns the n-th call, counted from 1, as soon as it has arrived.
func (u *Upstream) WaitCall(ctx context.Context, n int) (*Call, error) {
	for {
		u.mu.Lock()
		arrived, forgotten := u.arrived, u.total-len(u.calls)
		if n <= forgotten {
			u.mu.Unlock()
			return nil, fmt.Errorf("call %d is no longer remembered", n)
		}
		if i := n - forgotten - 1; i < len(u.calls) {
			c := u.calls[i]
			u.mu.Unlock()
			return c, nil
		}
		u.mu.Unlock()
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for call %d: %w", n, ctx.Err())
		}
	}
}

// note remembers c and returns its script.
func (u *Upstream) note(c *Call) Script {
	u.mu.Lock()
	reply := u.reply
	u.mu.Unlock()
	var made Script
	if reply != nil {
		made = reply(c)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.total++; len(u.calls) == KeptCalls {
		u.calls = append(u.calls[:0], u.calls[KeptCalls/2:]...)
	}
	s := u.script
	if reply != nil {
		s = made
	}
	if len(u.queue) > 0 {
		s = u.queue[0]
		u.queue = u.queue[1:]
	}
	if c.stored != nil {
		u.keep(c, &s)
	}
	u.calls = append(u.calls, c)
	close(u.arrived)
	u.arrived = make(chan struct{})
	return s
}

// ServeHTTP answers a call. It is exported so that an Upstream can stand
// behind another server, such as one with TLS.
func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	dialect := OpenAI
	if r.Header.Get("Anthropic-Version") != "" || strings.HasSuffix(r.URL.Path, "/messages") {
		dialect = Claude
	}
	u.mu.Lock()
	key, models := u.key, u.models
	u.mu.Unlock()
	if key != "" && r.Header.Get("Authorization") != "Bearer "+key && r.Header.Get("X-Api-Key") != key {
		answerStatus(w, http.StatusUnauthorized, statusBody(dialect, http.StatusUnauthorized))
		return
	}
	switch {
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/models"):
		answerStatus(w, http.StatusOK, modelsBody(dialect, models))
	case r.Method == http.MethodPost && (strings.HasSuffix(r.URL.Path, "/chat/completions") || strings.HasSuffix(r.URL.Path, "/messages")):
		u.answer(w, r, dialect)
	case u.serveResponses(w, r):
	default:
		answerStatus(w, http.StatusNotFound, statusBody(dialect, http.StatusNotFound))
	}
}

func (u *Upstream) answer(w http.ResponseWriter, r *http.Request, dialect Dialect) {
	arrived := time.Now()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		return // the client left before it had asked
	}
	c := newCall(r, dialect, body, arrived)
	if u.refuse(w, c) {
		return
	}
	s := u.note(c)
	defer close(c.done)
	p := &performance{u: u, call: c, script: &s, w: w, ctx: r.Context(), control: http.NewResponseController(w), wire: c.newWire(&s)}
	u.perform(p)
}

// perform runs p, and notes whether its client leaves meanwhile.
func (u *Upstream) perform(p *performance) {
	left := func() {
		if u.closing.Err() == nil {
			p.call.hangUp()
		}
	}
	stop := context.AfterFunc(p.ctx, left)
	defer func() {
		// What waits for the context may wake before the function is started,
		// and stop it.
		if stop() && (p.failed || p.ctx.Err() != nil) {
			left()
		}
	}()
	p.run()
}

func answerStatus(w http.ResponseWriter, status int, body string) {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // the client may have left
}

func modelsBody(d Dialect, models []string) string {
	items := make([]string, len(models))
	for i, m := range models {
		if d == Claude {
			items[i] = `{"type":"model","id":` + quote(m) + `,"display_name":` + quote(m) + `,"created_at":"2026-01-01T00:00:00Z"}`
		} else {
			items[i] = `{"id":` + quote(m) + `,"object":"model","created":1686935002,"owned_by":"system"}`
		}
	}
	data := strings.Join(items, ",")
	if d == Claude {
		return `{"data":[` + data + `],"has_more":false,"first_id":null,"last_id":null}`
	}
	return `{"object":"list","data":[` + data + `]}`
}

// A Call is one call for an answer. What happened to it may be asked at any
// time, from any goroutine.
type Call struct {
	Dialect Dialect
	Path    string
	Header  http.Header
	Body    []byte
	// Query is what it has behind the path.
	Query url.Values
	// Protocol is how the answer is wanted: polling stands for a background
	// answer, and for one that is no stream.
	Protocol providers.Protocol
	// Arrived is when its headers had come.
	Arrived time.Time

	// Set when it arrives, then read-only.
	whole     bool // no stream is wanted
	stored    *stored
	done      chan struct{}
	hungUp    chan struct{}
	cancelled chan struct{}

	mu       sync.Mutex
	pieces   int           // guarded by mu
	more     chan struct{} // guarded by mu: closed by the next piece, nil while nobody waits
	first    time.Time     // guarded by mu
	complete bool          // guarded by mu
	hungUpAt time.Time     // guarded by mu
	polls    int           // guarded by mu: of a background answer
	reads    int           // guarded by mu: of a background answer's stream
}

// Done is closed when the Upstream has finished with the call.
func (c *Call) Done() <-chan struct{} { return c.done }

// HungUp is closed when the client has left before the end of the answer.
func (c *Call) HungUp() <-chan struct{} { return c.hungUp }

// HungUpAt is when it left, zero if it did not.
func (c *Call) HungUpAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hungUpAt
}

// Pieces is how many pieces were written.
func (c *Call) Pieces() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pieces
}

// WaitPieces returns as soon as n pieces were written.
func (c *Call) WaitPieces(ctx context.Context, n int) error {
	for {
		c.mu.Lock()
		if c.pieces >= n {
			c.mu.Unlock()
			return nil
		}
		if c.more == nil {
			c.more = make(chan struct{})
		}
		more := c.more
		c.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("wait for piece %d: %w", n, ctx.Err())
		}
	}
}

// First is when the first piece was written, zero if none was.
func (c *Call) First() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first
}

// Complete reports whether the script was followed to its end.
func (c *Call) Complete() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.complete
}

// hangUp notes that the connection has gone before the answer was complete.
func (c *Call) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.complete && c.hungUpAt.IsZero() {
		c.hungUpAt = time.Now()
		close(c.hungUp)
	}
}

func (c *Call) wrote() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pieces++; c.pieces == 1 {
		c.first = time.Now()
	}
	if c.more != nil {
		close(c.more)
		c.more = nil
	}
}

func (c *Call) finished() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.complete = true
}
