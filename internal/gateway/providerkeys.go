package gateway

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/athena-hub/athena/internal/auth"
	"github.com/athena-hub/athena/internal/secrets"
	"github.com/athena-hub/athena/protocol"
)

// ProviderKeys keeps the keys that providers are called with. Errors that clients
// should see have an *protocol.Error in their tree; none tells a key.
type ProviderKeys interface {
	// List returns the keys of a provider, and why none can be set here; "" where
	// they can.
	List(ctx context.Context, provider string) (keys []ProviderKey, readOnly string, err error)
	// Set stores a key on all nodes and checks it, which may find it refused:
	// that is no error. The key is wiped.
	Set(ctx context.Context, provider, id string, weight int, key *secrets.Key, by string) error
	// Delete removes a key that was set.
	Delete(ctx context.Context, provider, id string) error
	// Check asks the provider whether it takes a key, which ends the key's rest
	// if it does.
	Check(ctx context.Context, provider, id string) error
}

// A ProviderKey is what may be told of a key: never the key.
type ProviderKey struct {
	ID string `json:"id"`
	// Source is "config", "env", "file", "vault" or, for one that was set here,
	// "stored".
	Source string `json:"source"`
	Weight int    `json:"weight"`
	// Last4 is the key's last characters. It is told to administrators alone.
	Last4 string `json:"last4,omitempty"`
	// State is "ok", "refused", "exhausted", "limited" or "sealed".
	State string `json:"state"`
	// Until is how long it rests; zero while it doesn't.
	Until Instant `json:"until,omitzero"`
	// Checked is when the provider was asked last whether it takes the key, and
	// Error what it said against it.
	Checked Instant         `json:"checked,omitzero"`
	Error   *protocol.Error `json:"error,omitempty"`
	// Calls counts the calls that it was taken for, Rests the failures that were
	// its own, both on the node that answers.
	Calls uint64 `json:"calls"`
	Rests uint64 `json:"rests"`
	// Set is when it was set, and SetBy who did it.
	Set   Instant `json:"set,omitzero"`
	SetBy string  `json:"set_by,omitempty"`
}

// mountProviderKeys adds the resources of providers' keys, by private.
func (g *Gateway) mountProviderKeys(private func(pattern string, tickets bool, h http.HandlerFunc)) {
	const all = "/v1/providers/{name}/keys"
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET " + all: g.listProviderKeys, "PUT " + all + "/{id}": g.setKey, "DELETE " + all + "/{id}": g.deleteKey, "POST " + all + "/{id}/check": g.checkKey,
	} {
		private(pattern, false, needs(auth.ScopeAdmin, func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				g.fail(w, r, err)
			}
		}))
	}
}

// listProviderKeys answers GET /v1/providers/{name}/keys.
func (g *Gateway) listProviderKeys(w http.ResponseWriter, r *http.Request) error {
	keys, readOnly, err := g.opts.ProviderKeys.List(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	if keys == nil {
		keys = []ProviderKey{}
	}
	writeJSON(w, http.StatusOK, struct {
		Keys     []ProviderKey `json:"keys"`
		ReadOnly string        `json:"read_only,omitempty"`
	}{keys, readOnly})
	return nil
}

// setKey answers PUT /v1/providers/{name}/keys/{id}, whose body is
// {"key": "…", "weight": 1}.
func (g *Gateway) setKey(w http.ResponseWriter, r *http.Request) error {
	body, err := g.readBody(w, r)
	if err != nil {
		return err
	}
	defer clear(body)
	key, weight, err := parseKey(body)
	if err != nil {
		return err
	}
	if err := g.opts.ProviderKeys.Set(r.Context(), r.PathValue("name"), r.PathValue("id"), weight, key, caller(r.Context()).Name); err != nil {
		return err
	}
	changedKey(r)
	return g.tellKey(w, r)
}

// maxKeyBody bounds the body that sets a key: one of the longest, escaped.
const maxKeyBody = 6*secrets.MaxKeyBytes + 1<<10

// parseKey reads a body that sets a key. Its errors repeat nothing of it.
func parseKey(body []byte) (key *secrets.Key, weight int, err error) {
	var b struct {
		Key    *keyText `json:"key"`
		Weight *int     `json:"weight"`
	}
	bad := protocol.Errorf(protocol.CodeInvalidRequest, `the body must be {"key": "…", "weight": 1}, where weight may be left out`)
	if len(body) > maxKeyBody || !protocol.ValidJSON(body) || json.Unmarshal(body, &b) != nil || b.Key == nil {
		return nil, 0, bad
	}
	defer clear(*b.Key)
	weight = 1
	if b.Weight != nil {
		weight = *b.Weight
	}
	key, err = secrets.NewKey(*b.Key)
	if err != nil {
		return nil, 0, protocol.Errorf(protocol.CodeInvalidRequest, `field "key": %w`, err)
	}
	return key, weight, nil
}

// keyText is a JSON string in bytes, which can be wiped.
type keyText []byte

// UnmarshalJSON takes the string as it stands, unless it has escapes: keys have
// no character that needs one.
func (k *keyText) UnmarshalJSON(b []byte) error {
	if len(b) >= 2 && b[0] == '"' {
		inner := b[1 : len(b)-1]
		plain := true
		for _, c := range inner {
			plain = plain && c != '\\'
		}
		if plain {
			*k = append(keyText(nil), inner...)
			return nil
		}
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*k = keyText(s)
	return nil
}

// deleteKey answers DELETE /v1/providers/{name}/keys/{id}.
func (g *Gateway) deleteKey(w http.ResponseWriter, r *http.Request) error {
	if err := g.opts.ProviderKeys.Delete(r.Context(), r.PathValue("name"), r.PathValue("id")); err != nil {
		return err
	}
	changedKey(r)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// changedKey has the audit log tell which key it was, now that there is one of
// that id: what else stood there may be a secret in the wrong place.
func changedKey(r *http.Request) { exchangeOf(r).key = r.PathValue("id") }

// checkKey answers POST /v1/providers/{name}/keys/{id}/check with what is known
// of the key then.
func (g *Gateway) checkKey(w http.ResponseWriter, r *http.Request) error {
	if err := g.opts.ProviderKeys.Check(r.Context(), r.PathValue("name"), r.PathValue("id")); err != nil {
		return err
	}
	changedKey(r)
	return g.tellKey(w, r)
}

// tellKey answers with one key.
func (g *Gateway) tellKey(w http.ResponseWriter, r *http.Request) error {
	keys, _, err := g.opts.ProviderKeys.List(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.ID == r.PathValue("id") {
			writeJSON(w, http.StatusOK, k)
			return nil
		}
	}
	return protocol.Errorf(protocol.CodeServiceUnavailable, "the key was removed again by another request")
}
