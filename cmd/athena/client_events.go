package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/r3labs/sse/v2"

	"github.com/athena-hub/athena/protocol"
)

const (
	// followPatience is how long a stream is asked for without success until
	// the client gives up.
	followPatience = 60 * time.Second
	// firstSilence is how long a connection may say nothing before it has told
	// how often it will say something; then three heartbeats are allowed.
	firstSilence = 45 * time.Second
	minSilence   = 5 * time.Second
	maxSilence   = 5 * time.Minute
	// settled is how long a connection must have stood to count as a success
	// though it brought no event.
	settled = 5 * time.Second
	// maxStreamBytes bounds what is read of one stream in all.
	maxStreamBytes = 1 << 30
	// maxBlockBytes bounds one block of SSE: an event, its id and heartbeats
	// before it.
	maxBlockBytes = protocol.MaxEventBytes + 64<<10
)

var (
	errSilent  = errors.New("the connection was silent for too long")
	errTooLong = fmt.Errorf("the answer is longer than %d bytes", maxStreamBytes)
)

// A follower reads one stream to its end, over as many connections as that
// takes. It is for one goroutine.
type follower struct {
	client *client
	id     string
	// seen is what was received so far, and where to go on.
	seen protocol.Transcript
	// event is told of each event, once and in order, with its JSON. An error
	// ends the following.
	event func(ev *protocol.Event, json []byte) error
	// lost is told when a connection was lost and is about to be replaced.
	lost func(err error)

	retry *retry
	bytes int64
}

// follow returns when the stream has ended, which f.seen tells, or can't be
// followed any more.
func (f *follower) follow(ctx context.Context) error {
	f.retry = newRetry(followPatience)
	for {
		began, from := time.Now(), f.seen.Cursor()
		connected, err := f.connect(ctx)
		lost, again := errors.AsType[*lostError](err)
		switch {
		case f.seen.Terminal() != nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !again:
			return err
		}
		if f.seen.Cursor() > from || connected && time.Since(began) >= settled {
			f.retry.reset()
		}
		f.lost(lost.err)
		if !f.retry.wait(ctx, lost.after) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("the connection was lost after event %d and could not be resumed: %w", f.seen.Cursor(), lost.err)
		}
	}
}

// connect reads over one connection, as far as that goes. connected says that
// it came to be. The error is never nil, except after the terminal event.
func (f *follower) connect(ctx context.Context) (connected bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(firstSilence, func() { cancel(errSilent) })
	defer silence.Stop()

	header := make(http.Header)
	if c := f.seen.Cursor(); c > 0 {
		header.Set("Last-Event-ID", strconv.FormatUint(c, 10))
	}
	res, err := f.client.do(ctx, http.MethodGet, nil, "text/event-stream", header, "v1", "streams", f.id, "events")
	if err != nil {
		if e, ok := errors.AsType[*protocol.Error](err); ok && e.Code == protocol.CodeStreamNotFound {
			err = fmt.Errorf("the server doesn't know this analysis any more: it was started anew, or has deleted it: %w", err)
		}
		return false, because(ctx, err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode == http.StatusNoContent {
		return true, fmt.Errorf("the server says that the stream has ended at event %d, but that is not its end", f.seen.Cursor())
	}
	if t := mediaType(res); t != "text/event-stream" {
		return true, fmt.Errorf("the answer is %.60q, not an event stream", t)
	}
	body := &watched{r: res.Body, silence: silence, allowed: firstSilence}
	blocks := sse.NewEventStreamReader(body, maxBlockBytes)
	var taken int64
	for {
		block, err := blocks.ReadEvent()
		if err == nil {
			// At the end, what is left over comes as if it were a block. It may
			// be cut anywhere; a server writes line feeds, two after a block.
			if taken += int64(len(block)) + 2; taken > body.read {
				err = io.ErrUnexpectedEOF
			}
		}
		if err != nil {
			switch {
			case errors.Is(err, bufio.ErrTooLong):
				return true, fmt.Errorf("the server sent an event of more than %d bytes", maxBlockBytes)
			case errors.Is(err, io.EOF):
				err = errors.New("the server closed the connection")
			}
			return true, because(ctx, &lostError{err: err})
		}
		if f.bytes += int64(len(block)); f.bytes > maxStreamBytes {
			return true, errTooLong
		}
		if err := f.take(block, body); err != nil || f.seen.Terminal() != nil {
			return true, err
		}
	}
}

// because returns the reason for which a connection was given up, where there
// is one, and err otherwise.
func because(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return &lostError{err: errSilent}
	}
	return err
}

// take takes one block of the stream.
func (f *follower) take(block []byte, body *watched) error {
	var name, data []byte
	for line := range bytes.Lines(block) {
		field, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch string(field) {
		case "event":
			name = value
		case "data": // one line, as all of the protocol is
			data = value
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				f.retry.hear(time.Duration(ms) * time.Millisecond)
			}
		}
	}
	switch {
	case string(name) == "welcome":
		var w protocol.Welcome
		if err := json.Unmarshal(data, &w); err == nil && w.HeartbeatMS > 0 && w.HeartbeatMS < maxSilence.Milliseconds() {
			body.allowed = min(max(3*time.Duration(w.HeartbeatMS)*time.Millisecond, minSilence), maxSilence)
		}
		return nil
	case len(name) > 0 || len(data) == 0:
		return nil // an event of a newer server's, or a comment
	}
	ev := new(protocol.Event)
	if err := ev.UnmarshalJSON(data); err != nil {
		return fmt.Errorf("the server sent what is no event: %w", err)
	}
	if ev.Stream != f.id {
		return fmt.Errorf("the server sent an event of another stream, %.60q", ev.Stream)
	}
	if err := f.seen.Apply(ev); err != nil {
		return err
	}
	return f.event(ev, bytes.Clone(data))
}

// watched is a body whose silence is noticed. It is not silence when the one
// who reads takes its time.
type watched struct {
	r       io.Reader
	silence *time.Timer
	allowed time.Duration
	read    int64
}

func (w *watched) Read(p []byte) (int, error) {
	w.silence.Reset(w.allowed)
	n, err := w.r.Read(p)
	w.silence.Stop()
	w.read += int64(n)
	return n, err
}
