package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// A tortureNode is the victim that is one node, which is restarted and killed.
type tortureNode struct {
	world *torture
	addr  string
	dir   string

	mu      sync.Mutex
	process *process      // guarded by mu; nil while there is none
	up      chan struct{} // guarded by mu: closed while there is one
	kills   []time.Time   // guarded by mu
}

var _ victim = (*tortureNode)(nil)

// tortureFlags make a node small and quick, so that messages are many, history
// is read from disk, and nobody waits for long.
var tortureFlags = []string{
	"--coalesce-window", "2ms", "--reconnect-delay", "20ms", "--heartbeat", "1s", "--write-timeout", "1s",
	"--message-bytes", "4KiB", "--poll-bytes", "16KiB", "--feed-bytes", "64KiB", "--feeds-bytes", "1MiB",
	"--breaker-failures", "1000", "--retry-backoff", "20ms", "--retry-budget", "1", "--drain-timeout", "1500ms"}

// start starts the node, at its address and with its data.
func (v *tortureNode) start() error {
	up := v.world.upstream
	// Claude is asked first, and openai where it fails.
	p, _, err := launch(append(openAIAt(up), anthropicAt(up)...), append([]string{"--listen", v.addr, "--data-dir", v.dir}, tortureFlags...)...)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.process = p
	close(v.up)
	return nil
}

func (v *tortureNode) address() string { return "http://" + v.addr }

func (v *tortureNode) recovered(ctx context.Context) {
	v.mu.Lock()
	up := v.up
	v.mu.Unlock()
	select {
	case <-up:
	case <-ctx.Done():
	}
}

// stop takes the process away, to end it.
func (v *tortureNode) stop() *process {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.process
	v.process = nil
	v.up = make(chan struct{})
	return p
}

// strike does one blow, and starts the node again.
func (v *tortureNode) strike(ctx context.Context, b blow) error {
	p := v.stop()
	if b.twice {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return errors.Join(err, p.kill())
		}
		if err := p.waitLog(ctx, "signal again to end now"); err != nil {
			return errors.Join(err, p.kill())
		}
	}
	if b.kill {
		if b.twice {
			rest(ctx, b.inDrain)
		}
		if err := p.kill(); err != nil {
			return err
		}
		v.mu.Lock()
		v.kills = append(v.kills, time.Now())
		v.mu.Unlock()
		v.world.count(func(c *counts) {
			c.kills++
			if b.twice {
				c.inDrain++
			}
		})
		return v.start()
	}
	if err := p.interrupt(); err != nil {
		return err
	}
	v.world.count(func(c *counts) { c.restarts++ })
	return v.start()
}

func (v *tortureNode) attack(ctx context.Context) error {
	r := decisions(v.world.seed, decidesNode, 0)
	killed := false
	for number := 0; ; number++ {
		b := nextBlow(r, number, killed)
		killed = b.kill
		v.world.restUntilOver(ctx, b.after)
		if v.world.isOver() || ctx.Err() != nil {
			return nil //nolint:nilerr // who ended ctx knows why
		}
		if err := v.strike(ctx, b); err != nil {
			return fmt.Errorf("blow %d: %w", number, err)
		}
	}
}

// lostEnd is how long before a kill an end may have been seen that the store
// never got: the node dies between telling its clients and writing it down.
const lostEnd = 2 * time.Second

// mayDiffer allows two ends only where one was told, but not stored, by a node
// that was killed then.
func (v *tortureNode) mayDiffer(_ *tortureStream, one, other *protocol.Event) bool {
	told, lasts := one, other
	if told.Type == protocol.TypeFailed {
		told, lasts = lasts, told
	}
	if lasts.Type != protocol.TypeFailed || told.Type == protocol.TypeFailed {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, k := range v.kills {
		if d := k.Sub(told.Time); d >= 0 && d <= lostEnd {
			return true
		}
	}
	return false
}

func (v *tortureNode) mayRefuse(_ *tortureStream, e *protocol.Error) bool {
	return e.Code == protocol.CodeDraining || e.Code == protocol.CodeOverloaded
}

func (v *tortureNode) mayForget(time.Time) bool { return false }
