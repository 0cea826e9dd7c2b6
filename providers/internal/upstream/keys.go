package upstream

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/athena-hub/athena/internal/secrets"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
)

// checksAtOnce bounds the keys that are checked at the same time.
const checksAtOnce = 8

// A Held is the key that a call is made with. The zero Held is no key.
type Held struct {
	use secrets.Use
	// text is a copy for the call: a header is a string, and so is what errors
	// must not tell.
	text string
	// set says that it was picked, and more that there is another to try.
	set, more bool
}

// wait tells the ring when the provider wants to be asked again. An error says it
// only where the same request can be made again: not for a quota.
func (h Held) wait(f Failure) {
	if f.RetryAfter > 0 {
		h.use.Hold(time.Now().Add(f.RetryAfter))
	}
}

// ownKeys sees to it that there is a ring: of the one key, where the
// configuration gives none.
func (c *Client) ownKeys(key string) error {
	if c.keys != nil {
		return nil
	}
	c.keys = secrets.NewRing(c.name, nil)
	if key == "" {
		return nil
	}
	k, err := secrets.NewKey([]byte(key))
	if err != nil {
		return errors.New("api_key contains a space or another character that no key has")
	}
	return c.keys.Set("config", []secrets.Entry{{ID: "config", Key: k}})
}

// HasKey implements providers.KeyHolder.
func (c *Client) HasKey() bool { return !c.needsKey || c.keys.Len() > 0 }

// final is an error after which no other key is tried. It doesn't leave try.
type final struct{ error }

// try makes a call by do: with the key that is held, or else with one key after
// the other, as long as the provider refuses them or puts them off. It keeps the
// key that was used last in held, where that is not nil, and returns it.
func (c *Client) try(held *Held, do func(Held) error) (Held, error) {
	if held != nil && held.set {
		err := do(*held)
		return *held, c.judge(held.use, err)
	}
	var tried secrets.Tried
	var last error
	for {
		use, ok := c.keys.Pick(&tried)
		switch {
		case !ok && last != nil:
			return Held{}, c.soonest(last)
		case !ok && c.needsKey:
			return Held{}, c.noKey()
		}
		h := Held{use: use, text: use.Reveal(), set: true}
		if ok && h.text == "" {
			continue // it has just been removed
		}
		h.more = ok && c.keys.More(&tried)
		err := do(h)
		f, over := errors.AsType[final](err)
		if over {
			err = f.error
		}
		err = c.judge(use, err)
		if err == nil {
			if held != nil {
				*held = h
			}
			return h, nil
		}
		if e, ok := errors.AsType[*protocol.Error](err); over || !ok || !secrets.KeyFault(e.Code) {
			return Held{}, c.soonest(err)
		}
		last = err // unless there is another key, which may have come during the call
	}
}

// judge tells the ring what came of a call with a key, and returns err.
func (c *Client) judge(u secrets.Use, err error) error {
	if err == nil {
		u.Worked()
	} else if e, ok := errors.AsType[*protocol.Error](err); ok {
		u.Failed(e)
	}
	return err
}

// soonest makes an error that says when to come back say when the first of the
// keys may be used again, which needn't be the last that was tried.
func (c *Client) soonest(err error) error {
	e, ok := errors.AsType[*protocol.Error](err)
	if !ok || e.Code != protocol.CodeRateLimited || e.RetryAfterMS == 0 || c.keys.Len() < 2 {
		return err
	}
	if wait := c.keys.Wait(); wait > 0 && wait < time.Duration(e.RetryAfterMS)*time.Millisecond {
		return e.WithRetryAfter(wait)
	}
	return err
}

func (c *Client) noKey() error {
	return protocol.Errorf(protocol.CodeUnauthorized, "no key is set for the provider").WithProvider(c.name)
}

// hidden are the secrets that errors of a call with a key must not tell.
func (c *Client) hidden(key string) []string {
	if len(key) < minSecret {
		return c.secrets
	}
	return append(slices.Clone(c.secrets), key)
}

// scrubbing is a Decoder whose errors tell no secret. What they say of the key
// is noted.
type scrubbing struct {
	Decoder
	secrets []string
	held    Held
}

func (d *scrubbing) Decode(ev Event, out []providers.Chunk) ([]providers.Chunk, Mark, *protocol.Error) {
	out, mark, err := d.Decoder.Decode(ev, out)
	if err != nil {
		d.held.use.Failed(err)
		c := *err
		c.Detail = scrub(c.Detail, d.secrets)
		err = &c
	}
	return out, mark, err
}

// ListModels implements providers.ModelLister for a list in the form that both
// dialects have.
func (c *Client) ListModels(ctx context.Context) (ids []string, err error) {
	_, err = c.try(nil, func(h Held) error {
		ids, err = c.models(ctx, h.text)
		return err
	})
	return ids, err
}

// Health implements providers.HealthChecker: the list of models costs nothing,
// and needs the key. Each key is checked, and one that is good is enough.
func (c *Client) Health(ctx context.Context) error {
	all := c.keys.All()
	switch {
	case len(all) == 0 && c.needsKey:
		return c.noKey()
	case len(all) == 0:
		_, err := c.models(ctx, "")
		return err
	}
	errs := make([]error, len(all))
	places := make(chan struct{}, checksAtOnce)
	var checks sync.WaitGroup
	for i, u := range all {
		places <- struct{}{}
		checks.Go(func() {
			errs[i] = c.check(ctx, u, false)
			<-places
		})
	}
	checks.Wait()
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	return errs[0]
}

// CheckKey implements providers.KeyChecker.
func (c *Client) CheckKey(ctx context.Context, id string) error {
	u, ok := c.keys.Find(id)
	if !ok {
		return protocol.Errorf(protocol.CodeInvalidRequest, "the provider has no key %.70q", id)
	}
	return c.check(ctx, u, true)
}

// check asks whether the provider takes a key, and tells the ring.
func (c *Client) check(ctx context.Context, u secrets.Use, lift bool) error {
	_, err := c.models(ctx, u.Reveal())
	if ctx.Err() != nil && err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return err // nobody waits for it any more, which says nothing of the key
	}
	var e *protocol.Error
	if err != nil {
		e = protocol.AsError(err)
	}
	u.Checked(e, lift)
	return err
}
