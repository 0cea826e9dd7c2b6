package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/athena-hub/athena/protocol"
)

const (
	// longestPoll is how long the server may keep a poll that has no news.
	longestPoll = 25 * time.Second
	// maxPollBytes bounds one answer.
	maxPollBytes = 64 << 20
	// emptyPause is the least time from one poll without news to the next. Only
	// what is no Athena, a cache say, answers sooner.
	emptyPause = 250 * time.Millisecond
)

// poll asks again and again for what follows.
func (a *attempt) poll(ctx context.Context) error {
	for {
		asked, from := time.Now(), a.seen.Cursor()
		err := a.pollOnce(ctx)
		if err != nil || a.seen.Terminal() != nil {
			return err
		}
		if a.seen.Cursor() == from {
			sleep(ctx, emptyPause-time.Since(asked))
		}
		a.retry.reset()
		if d, ok := a.client.untilBetter(); ok && d <= 0 {
			return errMoved // between two polls nothing can be lost or late
		}
	}
}

func (a *attempt) pollOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, longestPoll+20*time.Second, errSilent)
	defer cancel()
	to := a.client.url("v1", "streams", a.id, "events")
	to.RawQuery = url.Values{"after": {strconv.FormatUint(a.seen.Cursor(), 10)}, "wait": {longestPoll.String()}}.Encode()
	res, err := a.client.do(ctx, http.MethodGet, nil, "application/json", nil, to) //nolint:bodyclose // discard closes it
	if err != nil {
		return because(ctx, refused(gone(err)))
	}
	defer discard(res.Body)
	var p protocol.Poll
	if t := mediaType(res); t != "application/json" {
		return &unprovenError{err: fmt.Errorf("the answer is %.60q, not JSON", t)}
	}
	if err := readJSON(res, &p, maxPollBytes); err != nil {
		return because(ctx, err)
	}
	a.proven()
	for _, event := range p.Events {
		if err := a.accept(nil, event); err != nil || a.seen.Terminal() != nil {
			return err
		}
	}
	switch {
	case p.Done:
		return endedEarly(a.seen)
	case p.RetryAfterMS > 0:
		return &lostError{errors.New("the server shuts down"), time.Duration(p.RetryAfterMS) * time.Millisecond}
	}
	return nil
}

// endedEarly is the error for a stream that is said to have ended without its
// terminal event.
func endedEarly(seen *protocol.Transcript) error {
	return fmt.Errorf("the server says that the stream has ended at event %d, but that is not its end", seen.Cursor())
}
