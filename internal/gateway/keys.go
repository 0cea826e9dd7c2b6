package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/protocol"
)

// Keys makes and ends API keys. *auth.Keyring is one. Errors that clients should
// see have an *protocol.Error in their tree.
type Keys interface {
	List() []auth.KeyInfo
	Create(ctx context.Context, k auth.NewKey) (text string, info auth.KeyInfo, err error)
	Rotate(ctx context.Context, id string, grace time.Duration) (text string, info auth.KeyInfo, err error)
	Revoke(ctx context.Context, id string) (auth.KeyInfo, error)
	// Share makes a token that reads one stream.
	Share(ctx context.Context, by auth.Identity, stream string, expiresIn time.Duration) (text string, info auth.KeyInfo, err error)
}

// A Key is what is told of an API key.
type Key struct {
	ID string `json:"id"`
	// Key is the key itself, which is told once: in the answer to what made it.
	Key string `json:"key,omitempty"`
	// Prefix is how it begins.
	Prefix string   `json:"prefix"`
	Name   string   `json:"name"`
	Tenant string   `json:"tenant,omitempty"`
	Scopes []string `json:"scopes"`
	// State is active, rotating (the secret before is still good), expired or
	// revoked.
	State   string  `json:"state"`
	Created Instant `json:"created"`
	Expires Instant `json:"expires,omitzero"`
	Rotated Instant `json:"rotated,omitzero"`
	// OldUntil is how long the secret before is good.
	OldUntil Instant `json:"old_until,omitzero"`
	Revoked  Instant `json:"revoked,omitzero"`
}

func keyOf(text string, k *auth.KeyInfo) Key {
	return Key{ID: k.ID, Key: text, Prefix: k.Prefix, Name: k.Name, Tenant: k.Tenant, Scopes: k.Scopes.Names(), State: k.State(time.Now()),
		Created: Instant{Time: k.Created}, Expires: Instant{Time: k.Expires}, Rotated: Instant{Time: k.Rotated}, OldUntil: Instant{Time: k.OldUntil}, Revoked: Instant{Time: k.Revoked}}
}

// A KeyRequest asks for an API key: the body of POST /v1/keys.
type KeyRequest struct {
	Name   string `json:"name"`
	Tenant string `json:"tenant,omitempty"`
	// Scopes are all but admin and metrics where it is left out.
	Scopes []string `json:"scopes,omitempty"`
	// ExpiresIn is how long the key is good; 0 for no end.
	ExpiresIn protocol.Duration `json:"expires_in,omitzero"`
}

// A KeyRotation is the body of POST /v1/keys/{id}/rotate.
type KeyRotation struct {
	// Grace is how long the secret before is still good.
	Grace protocol.Duration `json:"grace,omitzero"`
}

// A ShareRequest is the body of POST /v1/streams/{id}/share.
type ShareRequest struct {
	// ExpiresIn is an hour where it is 0, and a week at most.
	ExpiresIn protocol.Duration `json:"expires_in,omitzero"`
}

// A Share is the answer: a token that reads this stream, by all transports, and
// nothing else.
type Share struct {
	ID      string  `json:"id"`
	Token   string  `json:"token"`
	Stream  string  `json:"stream"`
	Expires Instant `json:"expires"`
}

// mountKeys gives keys their routes.
func (g *Gateway) mountKeys(private func(pattern string, tickets bool, h http.HandlerFunc)) {
	private("GET /v1/keys", false, needs(auth.ScopeAdmin, g.listKeys))
	private("POST /v1/keys", false, needs(auth.ScopeAdmin, g.createKey))
	private("DELETE /v1/keys/{id}", false, needs(auth.ScopeAdmin, g.revokeKey))
	private("POST /v1/keys/{id}/rotate", false, needs(auth.ScopeAdmin, g.rotateKey))
	private("POST /v1/streams/{id}/share", false, needs(auth.ScopeRead, g.share))
}

func (g *Gateway) listKeys(w http.ResponseWriter, _ *http.Request) {
	answer := struct {
		Keys []Key `json:"keys"`
	}{[]Key{}}
	for _, k := range g.opts.Keys.List() {
		answer.Keys = append(answer.Keys, keyOf("", &k))
	}
	slices.SortFunc(answer.Keys, func(a, b Key) int { return cmp.Or(a.Created.Compare(b.Created.Time), cmp.Compare(a.ID, b.ID)) })
	writeJSON(w, http.StatusOK, answer)
}

func (g *Gateway) createKey(w http.ResponseWriter, r *http.Request) {
	var req KeyRequest
	if err := g.readFields(w, r, &req); err != nil {
		g.fail(w, r, err)
		return
	}
	scopes := auth.DefaultScopes
	if req.Scopes != nil { // none at all is an error, and not the default
		var err error
		if scopes, err = auth.ParseScopes(req.Scopes); err != nil {
			g.fail(w, r, protocol.Errorf(protocol.CodeInvalidRequest, `field "scopes": %s`, err))
			return
		}
	}
	text, k, err := g.opts.Keys.Create(r.Context(), auth.NewKey{Name: req.Name, Tenant: req.Tenant, Scopes: scopes, ExpiresIn: time.Duration(req.ExpiresIn)})
	if err != nil {
		g.fail(w, r, err)
		return
	}
	g.logKey(r, "made an API key", &k)
	w.Header().Set("Location", "/v1/keys/"+k.ID)
	writeJSON(w, http.StatusCreated, keyOf(text, &k))
}

func (g *Gateway) rotateKey(w http.ResponseWriter, r *http.Request) {
	var req KeyRotation
	if err := g.readFields(w, r, &req); err != nil {
		g.fail(w, r, err)
		return
	}
	text, k, err := g.opts.Keys.Rotate(r.Context(), r.PathValue("id"), time.Duration(req.Grace))
	if err != nil {
		g.fail(w, r, err)
		return
	}
	g.logKey(r, "gave an API key a new secret", &k)
	writeJSON(w, http.StatusOK, keyOf(text, &k))
}

func (g *Gateway) revokeKey(w http.ResponseWriter, r *http.Request) {
	k, err := g.opts.Keys.Revoke(r.Context(), r.PathValue("id"))
	if err != nil {
		g.fail(w, r, err)
		return
	}
	g.logKey(r, "revoked an API key", &k)
	writeJSON(w, http.StatusOK, keyOf("", &k))
}

// logKey says who did what to a key.
func (g *Gateway) logKey(r *http.Request, what string, k *auth.KeyInfo) {
	exchangeOf(r).key = k.ID
	g.opts.Logger.Info().Str("request_id", RequestID(r.Context())).Str("caller", caller(r.Context()).Name).
		Str("key", k.ID).Str("name", k.Name).Str("tenant", k.Tenant).Stringer("scopes", k.Scopes).Msg(what)
}

// share answers POST /v1/streams/{id}/share, for a stream that there is.
func (g *Gateway) share(w http.ResponseWriter, r *http.Request) {
	var req ShareRequest
	err := g.readFields(w, r, &req)
	if err == nil && caller(r.Context()).Stream != "" {
		err = protocol.Errorf(protocol.CodeForbidden, "a token that shares a stream can't share it further")
	}
	if err == nil {
		_, err = g.find(r)
	}
	if err != nil {
		g.fail(w, r, err)
		return
	}
	stream := r.PathValue("id")
	text, k, err := g.opts.Keys.Share(r.Context(), caller(r.Context()), stream, cmp.Or(time.Duration(req.ExpiresIn), auth.DefaultShareAge))
	if err != nil {
		g.fail(w, r, err)
		return
	}
	exchangeOf(r).key = k.ID
	writeJSON(w, http.StatusCreated, Share{ID: k.ID, Token: text, Stream: stream, Expires: Instant{Time: k.Expires}})
}

// maxFieldsBytes bounds the bodies that readFields takes.
const maxFieldsBytes = 16 << 10

// readFields reads a small JSON object into v; no body is an empty one.
func (g *Gateway) readFields(w http.ResponseWriter, r *http.Request, v any) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxFieldsBytes)
	body, err := g.readBody(w, r)
	if err != nil || len(bytes.TrimSpace(body)) == 0 {
		return err
	}
	return decodeFields(body, v)
}

// decodeFields refuses what has no meaning: fields that v doesn't have, and what
// follows the object.
func decodeFields(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("something follows the object")
	}
	if e, ok := errors.AsType[*protocol.Error](err); ok {
		return e
	}
	return protocol.Errorf(protocol.CodeInvalidRequest, "the body can't be read: %.200s", err)
}
