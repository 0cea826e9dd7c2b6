package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/athena-hub/athena/internal/gateway"
	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/protocol/client"
)

// clusterCommand is for operators of several nodes. It asks any of them.
type clusterCommand struct {
	Status clusterStatus `cmd:"" help:"Show the nodes, the store and what is degraded. Exits with 1 if something is."`
	Forget clusterForget `cmd:"" help:"Take a node that is gone for good out of the store's majority."`
}

// A clusterServer is the node to ask.
type clusterServer struct {
	Server string `group:"Where" placeholder:"URL" help:"Node to ask. Default: one on this machine (where ATHENA_LISTEN says, else 127.0.0.1:8080). ($$ATHENA_SERVER)"`
	Token  string `group:"Where" placeholder:"KEY" help:"API key for the node. Other users of the machine can see flags: prefer the variable. ($$ATHENA_TOKEN)"`
}

// ask calls f with a client of the node.
func (c *clusterServer) ask(ctx context.Context, env *environment, f func(context.Context, *client.Client) error) error {
	base := &url.URL{Scheme: "http", Host: localServer(variable(env, "ATHENA_LISTEN"))}
	if server := cmp.Or(c.Server, variable(env, serverVariable)); server != "" {
		var err error
		if base, err = serverURL(server); err != nil {
			return err
		}
	} else if base.Host == "" {
		return usageError("ATHENA_LISTEN names no address of this machine; say which node to ask with --server")
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	b, err := remote(base, cmp.Or(c.Token, variable(env, tokenVariable)), nil)
	if err != nil {
		return err
	}
	err = f(ctx, b.Client)
	if err != nil {
		err = fmt.Errorf("%s: %w", base, err)
	}
	return errors.Join(err, b.stop(ctx))
}

const (
	// requestTimeout bounds an operator's request.
	requestTimeout = 60 * time.Second
	// maxAnswerBytes bounds the answer.
	maxAnswerBytes = 1 << 20
)

func readJSON(res *http.Response, v any) error {
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswerBytes)).Decode(v); err != nil {
		return fmt.Errorf("the answer is not Athena's, or broke off: %w", err)
	}
	return nil
}

type clusterStatus struct {
	clusterServer `embed:""`
	JSON          bool `group:"Output" name:"json" help:"Write the answer of GET /v1/cluster as it is."`
}

// Run shows the cluster as one node sees it.
func (c *clusterStatus) Run(ctx context.Context, env *environment) error {
	var status gateway.Cluster
	err := c.ask(ctx, env, func(ctx context.Context, cl *client.Client) error {
		res, err := cl.Do(ctx, http.MethodGet, nil, "v1", "cluster")
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if !c.JSON {
			return readJSON(res, &status)
		}
		_, err = io.Copy(env.stdout, io.LimitReader(res.Body, maxAnswerBytes))
		return err
	})
	if err != nil || c.JSON {
		return err
	}
	if err := writeCluster(env.stdout, &status, time.Now()); err != nil {
		return err
	}
	if len(status.Degraded) > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

// writeCluster writes what people read.
func writeCluster(w io.Writer, c *gateway.Cluster, now time.Time) error {
	var b strings.Builder
	switch c.Mode {
	case gateway.ModeEmbedded:
		fmt.Fprintf(&b, "Cluster %s, seen from %s\n\n", c.Name, c.Node)
	case gateway.ModeNATS:
		fmt.Fprintf(&b, "Nodes on servers of NATS, seen from %s\n\n", c.Node)
	default:
		fmt.Fprintf(&b, "Node %s, alone\n\n", c.Node)
	}
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "NODE\tSTATE\tHEARD\tUP FOR\tCLIENTS\tANALYSES\tSTORE\tVERSION")
	for _, n := range c.Nodes {
		heard, up := "now", "-"
		if n.HeardMS > 0 {
			heard = (time.Duration(n.HeardMS) * time.Millisecond).Round(100*time.Millisecond).String() + " ago"
		}
		if !n.Started.IsZero() && n.State != gateway.NodeGone {
			up = now.Sub(n.Started.Time).Round(time.Second).String()
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", n.Name, n.State, heard, up, n.Connections, n.Analyses, storeWord(c, n.Name), cmp.Or(n.Version, "-"))
	}
	for _, s := range c.History.Servers { // those that count for the majority although no node has their name any more
		if !slices.ContainsFunc(c.Nodes, func(n gateway.ClusterNode) bool { return n.Name == s.Name }) {
			_, _ = fmt.Fprintf(t, "%s\t-\t-\t-\t-\t-\t%s\t-\n", s.Name, storeWord(c, s.Name))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	quorum := "has its majority"
	if !c.History.Quorum {
		quorum = "has no majority: what is said now is stored when it is back"
	}
	fmt.Fprintf(&b, "\nThe store %s; %d of %d copies are up to date.\n", quorum, c.History.Current, c.History.Replicas)
	for _, d := range c.Degraded {
		fmt.Fprintf(&b, "Degraded: %s\n", d)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func storeWord(c *gateway.Cluster, name string) string {
	for _, s := range c.History.Servers {
		switch {
		case s.Name != name:
		case !s.Online:
			return "gone"
		case s.Leader:
			return "leader"
		default:
			return "member"
		}
	}
	return "-"
}

type clusterForget struct {
	clusterServer `embed:""`
	Node          string `arg:"" help:"The node's name, as athena cluster status shows it."`
}

// Help is what --help shows before the flags.
func (*clusterForget) Help() string {
	return `A node that is gone counts for the majority that the store needs until it is back, or until another loss would cost the majority, when the others forget it by themselves. A cluster that is made smaller on purpose should be told.

A node that was forgotten and comes back within five minutes by the same name waits until these are over before the store takes it in again.`
}

// Run forgets one.
func (c *clusterForget) Run(ctx context.Context, env *environment) error {
	err := c.ask(ctx, env, func(ctx context.Context, cl *client.Client) error {
		res, err := cl.Do(ctx, http.MethodDelete, nil, "v1", "cluster", "nodes", c.Node)
		if err == nil {
			_ = res.Body.Close()
		}
		return err
	})
	if e, ok := errors.AsType[*protocol.Error](err); ok && errors.Is(e, protocol.ErrValidation) {
		return &exitError{exitUsage, err}
	}
	return err
}
