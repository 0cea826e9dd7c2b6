package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"

	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// A Call is one question to a model.
type Call struct {
	// Method is POST where it is empty.
	Method string
	// Path is below the base URL.
	Path string
	// Header is sent beside what every call has.
	Header http.Header
	Body   []byte
	// Model is what was asked for, for errors that name it.
	Model   string
	Decoder Decoder
	// Whole says that the answer is one JSON object and no event stream. The
	// decoder gets it as one event, and must mark it Whole or Last.
	Whole bool
	// WholeHas is what a JSON object has that is a whole answer (a path of
	// gjson's), for servers that give one though a stream was asked for. The
	// decoder then gets it as where Whole is set. "" for none.
	WholeHas string
	// InOnePiece, where it is not nil, is called when such an answer is waited
	// for (see providers.Request).
	InOnePiece func()
	// Held, where it is not nil, ties calls to one key: the first that is made
	// with it keeps its key there, and the others use that, whatever becomes of
	// it. What a vendor stores is there only for the account that asked.
	Held *Held
	// Limit bounds an event in bytes; MaxEventBytes where it is 0. A whole
	// answer is bounded by MaxWholeBytes.
	Limit int
}

func (c *Call) limit() int {
	switch {
	case c.Whole:
		return MaxWholeBytes
	case c.Limit > 0:
		return c.Limit
	}
	return MaxEventBytes
}

func (c *Call) inOnePiece() {
	if c.InOnePiece != nil {
		c.InOnePiece()
	}
}

// Stream sends call and returns the answer once its headers have come.
func (c *Client) Stream(ctx context.Context, call Call) (providers.Stream, error) {
	s, _, err := c.TryStream(ctx, call)
	return s, err
}

// TryStream is Stream, and reports whether an error means no more than that the
// server can't answer in this way (see Failure.RefusesWay).
func (c *Client) TryStream(ctx context.Context, call Call) (s providers.Stream, refused bool, err error) {
	ctx2, cancel := context.WithCancel(ctx)
	a, refused, err := c.open(ctx, ctx2, cancel, call)
	if err != nil {
		cancel()
		return nil, refused, err
	}
	return c.Answer(ctx, cancel, a.requestID, a, call.Decoder, a.held), false, nil
}

// Answer returns the answer that events and d make: a Stream whose errors tell
// no secret, h's key included, and which h's key is judged by. Ending ctx or
// calling cancel must make events end.
func (c *Client) Answer(ctx context.Context, cancel context.CancelFunc, requestID string, events Source, d Decoder, h Held) *Stream {
	return NewSourceStream(ctx, cancel, c.name, requestID, events, &scrubbing{d, c.hidden(h.text), h})
}

// Open sends call and returns the events of its answer once its headers have
// come, and the name the provider gave the call. Ending ctx ends them.
func (c *Client) Open(ctx context.Context, call Call) (events Source, requestID string, refused bool, err error) {
	ctx2, cancel := context.WithCancel(ctx)
	a, refused, err := c.open(ctx, ctx2, cancel, call)
	if err != nil {
		cancel()
		return nil, "", refused, err
	}
	return a, a.requestID, false, nil
}

// an answer is the Source of a call over HTTP.
type answer struct {
	Source
	requestID string
	cancel    context.CancelFunc
	held      Held
}

// Close breaks off what is still to come; a body that was read to its end
// leaves its connection to others.
func (a *answer) Close() error {
	a.cancel()
	return a.Source.Close()
}

// open makes the call in ctx2, which cancel ends, for the caller's ctx: with one
// key after the other, as long as they are refused. No answer has begun then.
func (c *Client) open(ctx, ctx2 context.Context, cancel context.CancelFunc, call Call) (a *answer, refused bool, err error) {
	h, err := c.try(call.Held, func(h Held) error {
		a, refused, err = c.openWith(ctx, ctx2, cancel, call, h)
		if err != nil && ctx2.Err() != nil {
			return final{err}
		}
		return err
	})
	if err != nil {
		return nil, refused, err
	}
	a.held = h
	return a, false, nil
}

// openWith is open with one key.
func (c *Client) openWith(ctx, ctx2 context.Context, cancel context.CancelFunc, call Call, h Held) (a *answer, refused bool, err error) {
	method := call.Method
	if method == "" {
		method = http.MethodPost
	}
	req, err := c.request(ctx2, method, call.Path, h.text, call.Body)
	if err != nil {
		return nil, false, err
	}
	maps.Copy(req.Header, call.Header)
	if call.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if call.Whole {
		req.Header.Set("Accept", "application/json")
	} else {
		req.Header.Set("Accept", "text/event-stream")
	}
	// Otherwise the transport asks for gzip, and a proxy that compresses holds
	// chunks back to fill its blocks.
	req.Header.Set("Accept-Encoding", "identity")
	if call.Whole {
		call.inOnePiece()
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, false, c.callError(ctx, err, h.text)
	}
	c.noteLimits(resp.Header, h.use)
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	a = &answer{requestID: resp.Header.Get(c.dialect.RequestID), cancel: cancel}
	switch {
	case resp.StatusCode != http.StatusOK:
	case call.Whole && kind != "text/event-stream" && kind != "text/html":
		a.Source = &wholeBody{body: resp.Body}
		return a, false, nil
	case !call.Whole && kind != "application/json" && kind != "text/html":
		a.Source = &body{newEventReader(resp.Body, call.limit()), resp.Body}
		return a, false, nil
	case call.WholeHas != "" && kind == "application/json":
		call.inOnePiece()
		data, rest, err := peek(resp.Body)
		if err != nil {
			_ = resp.Body.Close() // it is broken
			return nil, false, c.callError(ctx, err, h.text)
		}
		if resp.Body = rest; protocol.ValidJSON(data) && gjson.GetBytes(data, call.WholeHas).Exists() {
			a.Source = &wholeBody{body: resp.Body}
			return a, false, nil
		}
	}
	err, failure := c.answerError(ctx, cancel, resp, call.Model, h.text)
	h.wait(failure)
	refused = failure.RefusesWay() || !call.Whole && resp.StatusCode == http.StatusOK && kind == "application/json" && !failure.Said()
	return nil, refused, err
}

// peek reads body, as far as a whole answer may go, and returns one that is as
// if nobody had.
func peek(body io.ReadCloser) (data []byte, again io.ReadCloser, err error) {
	data, err = io.ReadAll(io.LimitReader(body, MaxWholeBytes+1))
	if err != nil {
		return nil, nil, err
	}
	return data, struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(data), body), body}, nil
}

// wholeBody is the Source of an answer that is one JSON object.
type wholeBody struct {
	body io.ReadCloser
	read bool
}

func (b *wholeBody) Next() (Event, error) {
	if b.read {
		return Event{}, io.EOF
	}
	b.read = true
	data, err := io.ReadAll(io.LimitReader(b.body, MaxWholeBytes+1))
	switch {
	case err != nil:
		return Event{}, err
	case len(data) > MaxWholeBytes:
		return Event{}, ErrEventTooLong
	case len(data) == 0:
		return Event{}, io.EOF
	}
	return Event{Data: data}, nil
}

func (b *wholeBody) Close() error { return b.body.Close() }

// JSON makes a call whose answer is one JSON object, and returns that.
func (c *Client) JSON(ctx context.Context, call Call) ([]byte, error) {
	data, _, err := c.TryJSON(ctx, call)
	return data, err
}

// TryJSON is JSON, and reports what TryStream does.
func (c *Client) TryJSON(ctx context.Context, call Call) (data []byte, refused bool, err error) {
	call.Whole = true
	ctx2, cancel := context.WithCancel(ctx)
	defer cancel()
	a, refused, err := c.open(ctx, ctx2, cancel, call)
	if err != nil {
		return nil, refused, err
	}
	defer func() { _ = a.Source.Close() }() // read to its end, or of no use
	ev, err := a.Next()
	switch {
	case errors.Is(err, ErrEventTooLong), err == io.EOF: //nolint:errorlint // an empty body, and not a broken connection
		return nil, false, protocol.Errorf(protocol.CodeInvalidResponse, "the provider's answer is empty or too large").WithProvider(c.name)
	case err != nil:
		return nil, false, c.callError(ctx, err, a.held.text)
	}
	if fail := wellFormed(ev.Data); fail != nil {
		return nil, false, fail.WithProvider(c.name)
	}
	return ev.Data, false, nil
}
