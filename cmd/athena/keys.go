package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/protocol/client"
)

// keysCommand is for operators: it asks a node, which tells all others.
type keysCommand struct {
	Create keysCreate `cmd:"" help:"Make an API key. It is shown once, alone on the standard output."`
	List   keysList   `cmd:"" help:"Show the API keys there are, without their secrets."`
	Revoke keysRevoke `cmd:"" help:"End a key at once, and with it the connections of those who have it."`
	Rotate keysRotate `cmd:"" help:"Give a key a new secret. The one before is good for the grace."`
}

type keysCreate struct {
	clusterServer `embed:""`
	Name          string        `arg:"" help:"What logs and people call the key."`
	Tenant        string        `group:"Key" placeholder:"TENANT" help:"Whose streams the key sees and makes. Without it: those of keys without a tenant."`
	Scopes        []string      `group:"Key" aliases:"scope" placeholder:"SCOPE,…" help:"What the key may do: analyze, read, cancel, providers, admin, metrics. Default: all but the last two."`
	ExpiresIn     time.Duration `group:"Key" placeholder:"TIME" help:"How long the key is good, such as 720h. Default: until it is revoked."`
	JSON          bool          `group:"Output" name:"json" help:"Write the answer of POST /v1/keys as it is."`
}

// Run makes a key.
func (c *keysCreate) Run(ctx context.Context, env *environment) error {
	body := gateway.KeyRequest{Name: c.Name, Tenant: c.Tenant, Scopes: c.Scopes, ExpiresIn: protocol.Duration(c.ExpiresIn)}
	return c.writeKey(ctx, env, c.JSON, body, "v1", "keys")
}

type keysRotate struct {
	clusterServer `embed:""`
	ID            string        `arg:"" help:"The key's id, or how the key begins, as athena keys list shows it."`
	Grace         time.Duration `group:"Key" default:"24h" placeholder:"TIME" help:"How long the secret before is still good; 0 for not at all."`
	JSON          bool          `group:"Output" name:"json" help:"Write the answer of POST /v1/keys/ID/rotate as it is."`
}

// Run rotates one.
func (c *keysRotate) Run(ctx context.Context, env *environment) error {
	return c.writeKey(ctx, env, c.JSON, gateway.KeyRotation{Grace: protocol.Duration(c.Grace)}, "v1", "keys", keyID(c.ID), "rotate")
}

// keyID is the id in what the user has of a key: the id, the prefix or, by
// mistake, all of it, which then goes no further.
func keyID(s string) string {
	id, _, _ := strings.Cut(strings.TrimPrefix(s, "athena_"), "_")
	return id
}

// writeKey sends body and writes the key of the answer: alone on the standard
// output, so that it can be piped, and what people want to know beside it.
func (c *clusterServer) writeKey(ctx context.Context, env *environment, asJSON bool, body any, path ...string) error {
	return c.askKeys(ctx, env, http.MethodPost, body, func(res *http.Response) error {
		if asJSON {
			return copyAnswer(env, res)
		}
		var k gateway.Key
		if err := readJSON(res, &k); err != nil {
			return err
		}
		until := "until it is revoked"
		if !k.Expires.IsZero() {
			until = "until " + k.Expires.Local().Format(time.DateTime)
		}
		note := fmt.Sprintf("Key %s (%s) for %s, good %s. It is not shown again.", k.ID, k.Name, strings.Join(k.Scopes, ", "), until)
		if !k.OldUntil.IsZero() {
			note += fmt.Sprintf(" The one before is good until %s.", k.OldUntil.Local().Format(time.DateTime))
		}
		env.complain("%s", note)
		_, err := fmt.Fprintln(env.stdout, k.Key)
		return err
	}, path...)
}

type keysRevoke struct {
	clusterServer `embed:""`
	ID            string `arg:"" help:"The key's id, or how the key begins, as athena keys list shows it."`
}

// Run revokes one.
func (c *keysRevoke) Run(ctx context.Context, env *environment) error {
	return c.askKeys(ctx, env, http.MethodDelete, nil, func(res *http.Response) error {
		var k gateway.Key
		if err := readJSON(res, &k); err != nil {
			return err
		}
		env.complain("Key %s (%s) is revoked.", k.ID, k.Name)
		return nil
	}, "v1", "keys", keyID(c.ID))
}

type keysList struct {
	clusterServer `embed:""`
	JSON          bool `group:"Output" name:"json" help:"Write the answer of GET /v1/keys as it is."`
}

// Run lists them.
func (c *keysList) Run(ctx context.Context, env *environment) error {
	return c.askKeys(ctx, env, http.MethodGet, nil, func(res *http.Response) error {
		if c.JSON {
			return copyAnswer(env, res)
		}
		var list struct {
			Keys []gateway.Key `json:"keys"`
		}
		if err := json.NewDecoder(io.LimitReader(res.Body, maxKeysBytes)).Decode(&list); err != nil {
			return fmt.Errorf("the answer is not Athena's, or broke off: %w", err)
		}
		return writeKeys(env.stdout, list.Keys)
	}, "v1", "keys")
}

// writeKeys writes what people read.
func writeKeys(w io.Writer, keys []gateway.Key) error {
	when := func(t gateway.Instant) string {
		if t.IsZero() {
			return "-"
		}
		return t.Local().Format(time.DateTime)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "ID\tNAME\tTENANT\tSCOPES\tSTATE\tCREATED\tEXPIRES")
	for _, k := range keys {
		tenant := "-"
		if k.Tenant != "" {
			tenant = k.Tenant
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Name, tenant, strings.Join(k.Scopes, ","), k.State, when(k.Created), when(k.Expires))
	}
	return t.Flush()
}

// askKeys makes one request and has f read the answer. What the node finds wrong
// with the request is an error of the command line.
func (c *clusterServer) askKeys(ctx context.Context, env *environment, method string, body any, f func(*http.Response) error, path ...string) error {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return err
		}
	}
	err := c.ask(ctx, env, func(ctx context.Context, cl *client.Client) error {
		res, err := cl.Do(ctx, method, b, path...)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		return f(res)
	})
	if e, ok := errors.AsType[*protocol.Error](err); ok && errors.Is(e, protocol.ErrValidation) {
		return &exitError{exitUsage, err}
	}
	return err
}

// copyAnswer writes an answer as it is.
func copyAnswer(env *environment, res *http.Response) error {
	_, err := io.Copy(env.stdout, io.LimitReader(res.Body, maxKeysBytes))
	return err
}

// maxKeysBytes bounds a list of keys: some 300 bytes for each.
const maxKeysBytes = 64 << 20
