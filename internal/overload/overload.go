// Package overload refuses work before a node has more than it can do, what is
// cheapest to lose first, so that what is dear, streams that run and clients that
// come back to them, goes on.
//
// How full the node is has three measures: the analyses and the connections that
// it has, as parts of those that it may have, and how late it runs what is due,
// which is what a lack of CPU looks like from inside. From a part of what it can
// take on, the classes are refused one after the other, each by a growing chance,
// so that the node doesn't swing between all and nothing.
package overload

import (
	"cmp"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A Class is what kind of work is asked for: the lower, the cheaper to lose.
type Class uint8

// The classes.
const (
	// Explain starts an analysis that only explains: nobody is blocked by a
	// missing explanation, and it can be had later.
	Explain Class = iota
	// Greedy starts an analysis for somebody who has more than an even share of
	// those that run, or whom nobody knows.
	Greedy
	// List looks something up, which clients repeat by themselves.
	List
	// Analyze starts an analysis.
	Analyze
	// Watch begins to watch a stream.
	Watch
	// Resume goes on with what a client has a part of. It is never refused here.
	Resume
)

// String is the class's name in metrics.
func (c Class) String() string {
	return [...]string{"explain", "greedy", "list", "analyze", "watch", "resume"}[c]
}

// Options configure a Shedder.
type Options struct {
	// From is the part of what the node can take from which on it sheds; 0.8 by
	// default, 1 or more for never.
	From float64
	// Late is how late the node may be with what is due before it counts as full.
	// Default 1 s.
	Late time.Duration
	// Analyses and Connections are what the node has, as parts of what it may
	// have; nil for nothing.
	Analyses, Connections func() float64
}

// A Shedder says what to refuse. Its methods may be called concurrently.
type Shedder struct {
	// Set by New, then read-only.
	opts Options
	done chan struct{}
	wg   sync.WaitGroup

	late atomic.Int64 // nanoseconds
}

const (
	// every is how often lateness is measured.
	every = 100 * time.Millisecond
	// samples are how many measures in a row must be late: a process that was
	// stopped for a while, and goes on, has one.
	samples = 5
)

// New returns a Shedder. Close ends its goroutine.
func New(o Options) *Shedder {
	o.From = cmp.Or(o.From, 0.8)
	o.Late = cmp.Or(o.Late, time.Second)
	none := func() float64 { return 0 }
	if o.Analyses == nil {
		o.Analyses = none
	}
	if o.Connections == nil {
		o.Connections = none
	}
	s := &Shedder{opts: o, done: make(chan struct{})}
	s.wg.Go(s.measure)
	return s
}

// Close ends the measuring.
func (s *Shedder) Close() {
	close(s.done)
	s.wg.Wait()
}

// measure finds out how late a timer is.
func (s *Shedder) measure() {
	var last [samples]time.Duration
	t := time.NewTimer(every)
	defer t.Stop()
	for i := 0; ; i++ {
		began := time.Now()
		select {
		case <-t.C:
		case <-s.done:
			return
		}
		last[i%samples] = max(time.Since(began)-every, 0)
		least := last[0]
		for _, l := range last {
			least = min(least, l)
		}
		s.late.Store(int64(least))
		t.Reset(every)
	}
}

// load is how full the node is for work of a class: 1 is full.
func (s *Shedder) load(c Class) float64 {
	load := float64(s.late.Load()) / float64(s.opts.Late)
	switch c {
	case Explain, Greedy, Analyze:
		return max(load, s.opts.Analyses())
	case Watch:
		return max(load, s.opts.Connections())
	}
	return load
}

// Busy reports whether anything is shed at all: whoever has to work to find out a
// class may leave that until then.
func (s *Shedder) Busy() bool {
	return max(s.load(Analyze), s.load(Watch)) > s.opts.From
}

// Shed reports whether work of a class is to be refused, and for how long.
func (s *Shedder) Shed(c Class) (wait time.Duration, shed bool) {
	if c >= Resume || s.opts.From >= 1 {
		return 0, false
	}
	// What is left from From to full is divided among the classes: one of them is
	// refused more and more within its part, and wholly beyond.
	part := (1 - s.opts.From) / float64(Resume)
	chance := (s.load(c) - s.opts.From - part*float64(c)) / part
	if chance <= 0 || chance < rand.Float64() { //nolint:gosec // chance, not a secret
		return 0, false
	}
	// By the jitter those who were refused together don't come back together.
	return time.Duration((1 + 4*rand.Float64()) * float64(time.Second)), true //nolint:gosec // jitter, not a secret
}
