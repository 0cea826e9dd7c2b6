package main

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"

	"github.com/athena-hub/athena/internal/analysis"
	"github.com/athena-hub/athena/internal/backbone"
	"github.com/athena-hub/athena/internal/cache"
	"github.com/athena-hub/athena/internal/config"
	"github.com/athena-hub/athena/internal/gateway"
)

// cacheCommand is for operators: it asks a node, which tells all others.
type cacheCommand struct {
	Clear cacheClear `cmd:"" help:"Forget all answers that are kept: on all nodes, and at clients that keep some."`
}

type cacheClear struct {
	clusterServer `embed:""`
}

// Run clears the cache.
func (c *cacheClear) Run(ctx context.Context, env *environment) error {
	return c.askKeys(ctx, env, http.MethodDelete, nil, func(res *http.Response) error {
		var a gateway.CacheAnswer
		if err := readJSON(res, &a); err != nil {
			return err
		}
		env.complain("All answers that were kept are forgotten. The generation is now %s.", a.Cache)
		return nil
	}, "v1", "cache")
}

// cacheTopic is where nodes tell each other that cached answers are invalid.
const cacheTopic = "cache-generation"

// cacheMark is the bus as a cache.Generation knows it.
type cacheMark struct{ bus *backbone.Backbone }

var (
	_ cache.Mark              = cacheMark{}
	_ gateway.CacheGeneration = (*cache.Generation)(nil)
)

// Read implements cache.Mark.
func (m cacheMark) Read(ctx context.Context) ([]byte, error) {
	mark, err := m.bus.CacheMark(ctx)
	return mark, stored(err)
}

// Set implements cache.Mark.
func (m cacheMark) Set(ctx context.Context, mark []byte) error {
	return stored(m.bus.SetCacheMark(ctx, mark))
}

// Announce implements cache.Mark.
func (m cacheMark) Announce() error { return m.bus.Publish(cacheTopic, nil) }

// answers are the whole answers that the node keeps, and what says which are good.
type answers struct {
	memory     *cache.Memory // nil where none are to be kept
	generation *cache.Generation
	// tell tells the clients; set before run.
	tell func()

	stop context.CancelFunc
	done sync.WaitGroup
}

func openAnswers(ctx context.Context, n *node) (*answers, error) {
	a := &answers{tell: func() {}, stop: func() {}}
	if n.cfg.CacheBytes != 0 {
		a.memory = cache.NewMemory(cache.Options{MaxBytes: int64(n.cfg.CacheBytes), MaxAge: n.cfg.CacheAge})
	}
	made, err := answersAreMadeOf(n.cfg)
	if err != nil {
		return nil, err
	}
	a.generation = cache.NewGeneration(ctx, cache.GenerationOptions{Mark: cacheMark{n.bus}, Made: made, Logger: n.log.With().Str("part", "cache").Logger(),
		Changed: func() {
			if a.memory != nil {
				a.memory.Clear()
			}
			a.tell()
		}})
	return a, nil
}

// answersAreMadeOf tells the version, with which rules change, the prompts, which
// change also between builds that have no version, and the configured models. It has no credential in it, and no address: nodes may come by
// different ones to the same models.
func answersAreMadeOf(cfg *config.Serve) (string, error) {
	type provider struct {
		Name, Dialect string
		Models        []string
	}
	made := struct {
		Version, Prompts string
		Providers        []provider
	}{Version: buildVersion(), Prompts: analysis.PromptsDigest()}
	for _, p := range cfg.Providers {
		q := provider{Name: p.Name, Dialect: p.Dialect}
		for _, m := range p.Models {
			q.Models = append(q.Models, m.ID)
		}
		made.Providers = append(made.Providers, q)
	}
	b, err := json.Marshal(made)
	return string(b), err
}

// run follows what other nodes announce, until close.
func (a *answers) run(bus *backbone.Backbone) error {
	unsubscribe, err := bus.Subscribe(cacheTopic, func([]byte) { a.generation.Announced() })
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = func() { unsubscribe(); cancel() }
	a.done.Go(func() { a.generation.Run(ctx) })
	return nil
}

func (a *answers) close() {
	a.stop()
	a.done.Wait()
}
