package analysis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// errConcluded stops a call that was left behind and speaks again: its words
// don't belong to the stream any more.
var errConcluded = errors.New("the call is over")

// errOutrun stops a call when another one, of the same race, has answered
// first.
var errOutrun = errors.New("another provider answered first")

// A call is one call of a provider. Its goroutine pulls chunks and writes them
// to the stream, without another goroutine between, since that would cost more
// than all the rest per chunk. The race that made it waits beside it, and
// concludes it: from then on it writes nothing.
type call struct {
	// Set by newCall, then read-only.
	j       *job
	race    *race
	t       *target
	pass    *pass
	request *providers.Request
	attempt int
	hedge   bool // another one was running when it began
	began   time.Time
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silence *time.Timer // ends the call when nothing comes
	rate    *time.Timer // ends it when too little comes; nil where nothing is too little

	mu        sync.Mutex
	stage     stage             // guarded by mu
	deadline  time.Time         // guarded by mu: when silence may act
	quiet     time.Duration     // guarded by mu: how long it may be silent after content
	concluded bool              // guarded by mu
	taken     bool              // guarded by mu: the provider has accepted it
	floor     bool              // guarded by mu: it has the floor (see race)
	heard     bool              // guarded by mu: content has come
	size      int64             // guarded by mu: bytes that the provider sent of the answer
	measured  int64             // guarded by mu: size when rate was last checked
	model     string            // guarded by mu: who answers, as far as is known
	usage     *protocol.Usage   // guarded by mu: the newest
	end       providers.Outcome // guarded by mu
	err       error             // guarded by mu: why run returned; io.EOF if end tells
	left      bool              // guarded by mu: the goroutine is done
	returned  func()            // guarded by mu: to be called then, if it was abandoned
}

// A stage is what a call waits for.
type stage uint8

const (
	stageHeaders stage = iota
	stageFirst         // content
	stageMore          // further content
)

func (j *job) newCall(ctx context.Context, r *race, t *target, p *pass, a attempt) *call {
	c := &call{j: j, race: r, t: t, pass: p, request: j.request(t, a.partial), attempt: a.n, floor: a.alone, began: time.Now(), model: t.model}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.request.InOnePiece = c.inOnePiece
	c.mu.Lock()
	defer c.mu.Unlock()
	c.silence = time.AfterFunc(time.Hour, c.silent)
	d := t.entry.HeaderTimeout
	if first := t.entry.FirstContentTimeout; d <= 0 || (first > 0 && first < d) {
		d = first
	}
	c.expect(stageHeaders, d)
	return c
}

// expect sets the deadline for what comes next; none where d is not positive.
// Called with mu held.
func (c *call) expect(s stage, d time.Duration) {
	c.stage = s
	if d <= 0 {
		c.silence.Stop()
		c.deadline = time.Time{}
		return
	}
	c.deadline = time.Now().Add(d)
	c.silence.Reset(d)
}

// A silenceError ends a call at a deadline of ours.
type silenceError struct{ err *protocol.Error }

func (e silenceError) Error() string { return e.err.Error() }
func (e silenceError) Unwrap() error { return e.err }

// timeout ends the call at a deadline.
func (c *call) timeout(format string, args ...any) {
	c.cancel(silenceError{protocol.Errorf(protocol.CodeTimeout, format, args...).WithProvider(c.t.Name())})
}

// silent ends the call at the deadline for what it waits for, unless that has
// come in the meantime.
func (c *call) silent() {
	c.mu.Lock()
	stage, quiet, early := c.stage, c.quiet, c.deadline.IsZero() || time.Now().Before(c.deadline)
	c.mu.Unlock()
	e := &c.t.entry
	switch {
	case early:
	case stage == stageMore:
		c.timeout("the answer stalled: nothing more of it came for %v", quiet)
	case stage == stageHeaders && e.HeaderTimeout > 0 && (e.FirstContentTimeout <= 0 || e.HeaderTimeout < e.FirstContentTimeout):
		c.timeout("the call was not accepted within %v", e.HeaderTimeout)
	default:
		c.timeout("nothing of the answer came within %v", e.FirstContentTimeout)
	}
}

// checkRate ends the call if too little of the answer came since the last
// check.
func (c *call) checkRate() {
	c.mu.Lock()
	n := c.size - c.measured
	c.measured = c.size
	c.mu.Unlock()
	window := c.j.s.opts.RateWindow
	if float64(n) < float64(c.t.entry.MinRate)*window.Seconds() {
		c.timeout("the answer crawls: %d bytes of it came within %v, and %d a second are the least that is allowed", n, window, c.t.entry.MinRate)
		return
	}
	c.rate.Reset(window)
}

// run calls the provider and writes what it says, until it ends or ctx does.
func (c *call) run() {
	end, err := c.pull()
	c.heed(err)
	if end.Err != nil {
		c.heed(end.Err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end, c.err = end, err
	c.expect(stageMore, 0)
	if c.rate != nil {
		c.rate.Stop()
	}
}

// heed keeps calls away until the time that the provider has named, if it has:
// before the call's place goes to one that waits, which is to know of it.
func (c *call) heed(err error) {
	if e, ok := errors.AsType[*protocol.Error](err); ok && e.RetryAfterMS > 0 {
		c.t.pause(time.Now().Add(time.Duration(e.RetryAfterMS) * time.Millisecond))
	}
}

func (c *call) pull() (end providers.Outcome, err error) {
	defer func() {
		if v := recover(); v != nil {
			end, err = providers.Outcome{}, &panicError{v, debug.Stack()}
		}
	}()
	stream, err := c.t.Stream(c.ctx, c.request)
	if err != nil {
		return providers.Outcome{}, fromProvider(c.t.Name(), err)
	}
	c.accepted()
	// The provider promises to obey ctx; closing makes sure that a Next that
	// waits elsewhere comes back too, and that the upstream is released.
	closed := make(chan struct{})
	stop := context.AfterFunc(c.ctx, func() {
		defer close(closed)
		closeStream(stream)
	})
	defer func() {
		if !stop() {
			<-closed
		}
		closeStream(stream)
	}()
	for {
		chunk, err := stream.Next()
		if isEnd(err) {
			return stream.Outcome(), io.EOF
		}
		if err != nil {
			return stream.Outcome(), fromProvider(c.t.Name(), err)
		}
		if err := c.take(&chunk); err != nil {
			return providers.Outcome{}, err
		}
	}
}

// accepted notes that the provider has taken the call.
func (c *call) accepted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = true
	c.awaitContent()
}

// inOnePiece notes that no headers come before the answer.
func (c *call) inOnePiece() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.awaitContent()
}

// awaitContent has the call wait for content, and no longer for headers. Called
// with mu held.
func (c *call) awaitContent() {
	if c.stage != stageHeaders || c.concluded {
		return
	}
	d := c.t.entry.FirstContentTimeout
	if d > 0 {
		d = max(d-time.Since(c.began), time.Nanosecond)
	}
	c.expect(stageFirst, d)
}

// isEnd reports whether err is how a stream says that the answer ended. Only
// io.EOF itself does: the error of a connection that broke may wrap one.
func isEnd(err error) bool {
	return err == io.EOF //nolint:errorlint // see above
}

// closeStream closes a provider's stream. What goes wrong then can't change
// how the answer ended.
func closeStream(s providers.Stream) {
	defer func() { _ = recover() }()
	_ = s.Close()
}

// fromProvider is err as a provider's: one that isn't the wire's becomes
// internal when it is written, and its text goes to the log only.
func fromProvider(name string, err error) error {
	e, ok := errors.AsType[*protocol.Error](err)
	switch {
	case !ok:
		return fmt.Errorf("provider %s: %w", name, err)
	case e.Provider == "":
		return e.WithProvider(name)
	}
	return e
}

// take writes one chunk to the stream. Before the call has the floor only
// content is of interest, and the newest news is kept.
func (c *call) take(chunk *providers.Chunk) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.concluded {
		return errConcluded
	}
	if chunk.Content() {
		if err := c.takeFloor(); err != nil {
			return err
		}
		c.hear(chunk)
		return c.race.answer.add(chunk)
	}
	switch chunk.Type {
	case providers.ChunkProgress:
		if c.floor {
			return wrote(c.j.w.Append(protocol.TypeProgress, chunk.Progress))
		}
	case providers.ChunkUsage:
		return c.noteUsage(chunk.Usage)
	case providers.ChunkStarted:
		c.model = name(chunk.Text)
	}
	return nil
}

// takeFloor makes the call the one that answers. Called with mu held.
func (c *call) takeFloor() error {
	if c.floor {
		return nil
	}
	if err := c.race.win(c); err != nil {
		return err
	}
	c.floor = true
	if c.usage == nil {
		return nil
	}
	return wrote(c.j.w.Append(protocol.TypeUsage, c.usage))
}

// hear notes that content came. Called with mu held.
func (c *call) hear(chunk *providers.Chunk) {
	if !c.heard {
		c.heard = true
		latency := time.Since(c.began)
		c.pass.permit.Success(latency)
		c.t.health.first(latency)
		c.j.s.opts.Observer.FirstContent(c.t.Name(), c.model, latency)
		if c.t.entry.MinRate > 0 {
			c.rate = time.AfterFunc(c.j.s.opts.RateWindow, c.checkRate)
		}
	}
	c.quiet = c.t.entry.IdleTimeout
	if chunk.Type == providers.ChunkReasoning && c.quiet > 0 {
		// What is told of thoughts may come long before the rest of them.
		c.quiet = max(c.quiet, c.t.entry.FirstContentTimeout)
	}
	c.expect(stageMore, c.quiet)
	c.size += int64(len(chunk.Text))
}

// name returns what a provider calls its model or the end of an answer, or as
// much of it as a name may have.
func name(s string) string { return protocol.SplitText(s, protocol.MaxNameBytes)[0] }

// noteUsage keeps u, and writes it if the call has the floor, unless it says
// what the last one said. A provider may go on changing its own, so it is
// copied. Called with mu held.
func (c *call) noteUsage(u *protocol.Usage) error {
	if u == nil || sameUsage(c.usage, u) {
		return nil
	}
	own := *u
	c.usage = &own
	if !c.floor {
		return nil
	}
	return wrote(c.j.w.Append(protocol.TypeUsage, c.usage))
}

func sameUsage(a, b *protocol.Usage) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	if (x.CostUSD == nil) != (y.CostUSD == nil) || (x.CostUSD != nil && *x.CostUSD != *y.CostUSD) {
		return false
	}
	x.CostUSD, y.CostUSD = nil, nil
	return x == y
}

// leave is the last thing the call's goroutine does.
func (c *call) leave() {
	c.mu.Lock()
	c.left = true
	returned := c.returned
	c.mu.Unlock()
	c.pass.place.Leave() // what is still calling a provider holds its place
	if returned != nil {
		returned()
	}
}

// abandon hands the goroutine over to the service, and reports whether it
// still runs.
func (c *call) abandon() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left {
		return false
	}
	c.returned = c.j.s.abandon(c.t.Name())
	return true
}

// conclude ends the call's writing, and says how it went: completed is set if
// the answer is whole.
func (c *call) conclude() (completed *protocol.Completed, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.concluded = true
	c.expect(stageMore, 0)
	if c.rate != nil {
		c.rate.Stop()
	}
	if !c.left && c.err == nil {
		c.err = errConcluded
	}
	if c.end.Model != "" {
		c.model = name(c.end.Model)
	}
	if isEnd(c.err) && c.end.State == providers.StateComplete {
		// An answer without content is one too, if it came first.
		if err := c.takeFloor(); err != nil {
			return nil, err
		}
		if !c.heard {
			c.pass.permit.Success(time.Since(c.began))
			c.t.health.first(time.Since(c.began))
		}
		if c.end.Usage != nil {
			c.usage = c.end.Usage
		}
		return &protocol.Completed{FinishReason: name(c.end.FinishReason), Provider: c.t.Name(), Model: c.model}, nil
	}
	err = c.failure()
	if werr := c.noteUsage(c.end.Usage); werr != nil {
		err = werr
	}
	return nil, err
}

// failure returns why the call's answer is not whole: what the stream's writer
// said, then the job's own reason to end it if there was one, then what the
// provider said.
func (c *call) failure() error {
	if limit, ok := errors.AsType[cancelled](c.err); ok {
		return limit
	}
	if w, ok := errors.AsType[writeError](c.err); ok {
		return w
	}
	if cause := context.Cause(c.ctx); cause != nil {
		return cause
	}
	switch {
	case !isEnd(c.err):
		return c.err
	case c.end.Err != nil:
		return fromProvider(c.t.Name(), c.end.Err)
	case c.end.State == providers.StateError:
		return protocol.Errorf(protocol.CodeInvalidResponse, "the provider ended the answer with an error that it did not name").WithProvider(c.t.Name())
	}
	return protocol.Errorf(protocol.CodeStreamInterrupted, "the answer ended before it was whole").WithProvider(c.t.Name())
}
