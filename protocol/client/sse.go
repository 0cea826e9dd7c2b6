package client

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
	"sync"
	"time"

	"github.com/r3labs/sse/v2"

	"github.com/athena-hub/athena/protocol"
)

// sse reads an event stream.
func (a *attempt) sse(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel(nil)
	silence := time.AfterFunc(firstSilence, func() { cancel(errSilent) })
	defer silence.Stop()
	var probe *time.Timer
	if a.probe > 0 {
		probe = time.AfterFunc(a.probe, func() { cancel(errUnproven) })
		defer probe.Stop()
	}

	header := make(http.Header)
	if c := a.seen.Cursor(); c > 0 {
		header.Set("Last-Event-ID", strconv.FormatUint(c, 10))
	}
	res, err := a.client.do(ctx, http.MethodGet, nil, "text/event-stream", header, a.client.url("v1", "streams", a.id, "events"))
	if err != nil {
		return because(ctx, refused(gone(err)))
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode == http.StatusNoContent {
		return endedEarly(a.seen)
	}
	if t := mediaType(res); t != "text/event-stream" {
		return &unprovenError{err: fmt.Errorf("the answer is %.60q, not an event stream", t)}
	}
	body := &watched{r: res.Body, silence: silence, allowed: firstSilence}
	blocks := sse.NewEventStreamReader(body, maxBlockBytes)
	var taken int64
	for proven := false; ; {
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
				return fmt.Errorf("the server sent an event of more than %d bytes", maxBlockBytes)
			case errors.Is(err, io.EOF):
				err = errors.New("the server closed the connection")
			}
			return because(ctx, &lostError{err: err})
		}
		if !proven {
			if probe != nil && !probe.Stop() {
				return because(ctx, &unprovenError{err: &lostError{err: errUnproven}})
			}
			proven = true
			a.proven()
			tasks.Go(func() { a.client.moveToSocket(ctx, cancel) })
		}
		if err := a.block(block, body); err != nil || a.seen.Terminal() != nil {
			return err
		}
	}
}

// block takes one block of the event stream.
func (a *attempt) block(block []byte, body *watched) error {
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
				a.retry.hear(time.Duration(ms) * time.Millisecond)
			}
		}
	}
	switch {
	case string(name) == "welcome":
		var w protocol.Welcome
		if json.Unmarshal(data, &w) == nil {
			body.allowed = silenceFor(w.HeartbeatMS)
		}
		return nil
	case len(name) > 0 || len(data) == 0:
		return nil // an event of a newer server's, or a comment
	}
	return a.accept(nil, bytes.Clone(data))
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
