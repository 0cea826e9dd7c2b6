package cache

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// A Mark is stored once for all nodes, and is another one after each
// invalidation. Its methods may be called concurrently.
type Mark interface {
	// Read returns the mark; nil where nobody has ever set one.
	Read(ctx context.Context) ([]byte, error)
	// Set stores another mark. It returns when the mark is stored.
	Set(ctx context.Context, mark []byte) error
	// Announce tells all nodes, this one included, that there is another mark. It may be lost.
	Announce() error
}

// GenerationOptions configure a Generation. Mark is required.
type GenerationOptions struct {
	Mark Mark
	// Made says what answers are made of: with another version or other models
	// the generation is another one, too. It may be of any form.
	Made string
	// Changed is called after each change, of which the first reading is one, from
	// one goroutine at a time.
	Changed func()
	// Every is how often the mark is read in case an announcement was lost.
	// Default 15 s.
	Every  time.Duration
	Logger zerolog.Logger
}

// A Generation names the cached answers that are good, on all nodes and at all
// clients. Its methods may be called concurrently.
type Generation struct {
	opts GenerationOptions
	news chan struct{} // has room for one: the mark is to be read

	reading sync.Mutex // held while the mark is read and taken over
	mu      sync.Mutex
	name    string // guarded by mu
}

// markTimeout bounds one reading of the mark.
const markTimeout = 5 * time.Second

// NewGeneration returns a Generation that has tried to read the mark. Where the
// store can't be read yet, its name is "" until it can.
func NewGeneration(ctx context.Context, o GenerationOptions) *Generation {
	if o.Every == 0 {
		o.Every = 15 * time.Second
	}
	g := &Generation{opts: o, news: make(chan struct{}, 1)}
	g.look(ctx)
	return g
}

// Name is the generation: 16 hexadecimal digits, or "" where it isn't known.
func (g *Generation) Name() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.name
}

// Announced is to be called when another node, or this one, has announced
// another mark. It returns at once.
func (g *Generation) Announced() {
	select {
	case g.news <- struct{}{}:
	default: // it is about to be read anyway
	}
}

// Run reads the mark at once, since announcements are heard only now, when it has
// been announced, and from time to time, until ctx ends.
func (g *Generation) Run(ctx context.Context) {
	g.Announced()
	tick := time.NewTicker(g.opts.Every)
	defer tick.Stop()
	for {
		select {
		case <-g.news:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		g.look(ctx)
	}
}

// Raise makes all answers that are cached now invalid, here before it returns,
// and on other nodes soon after. An error means that it may not have.
func (g *Generation) Raise(ctx context.Context) (name string, err error) {
	if err := g.opts.Mark.Set(ctx, []byte(rand.Text())); err != nil {
		return "", fmt.Errorf("store the generation of cached answers: %w", err)
	}
	if err := g.opts.Mark.Announce(); err != nil {
		g.opts.Logger.Warn().Err(err).Msg("the other nodes could not be told that cached answers are invalid; they find it within seconds")
	}
	if err := g.read(ctx); err != nil {
		return "", err
	}
	return g.Name(), nil
}

// look is read for those who try again.
func (g *Generation) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	if err := g.read(ctx); err != nil && ctx.Err() == nil {
		g.opts.Logger.Debug().Err(err).Msg("the generation of cached answers can't be read now; this is tried again")
	}
}

func (g *Generation) read(ctx context.Context) error {
	g.reading.Lock()
	defer g.reading.Unlock()
	mark, err := g.opts.Mark.Read(ctx)
	if err != nil {
		return fmt.Errorf("read the generation of cached answers: %w", err)
	}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%d %s %s", len(mark), mark, g.opts.Made) // a hash takes everything
	name := hex.EncodeToString(h.Sum(nil)[:8])
	g.mu.Lock()
	changed := name != g.name
	g.name = name
	g.mu.Unlock()
	if changed && g.opts.Changed != nil {
		g.opts.Changed()
	}
	return nil
}
