package backbone_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
)

func TestTheTailAsAMajorityHasItIsNeverAnEarlierOne(t *testing.T) {
	c := newCluster(t, 3)
	nodes := c.start(0, 1, 2)
	settled(t, nodes[0])
	// The log's first append of all comes before the first barrier: NATS 2.15 looks
	// without its lock at whether there has been one, which is harmless, but which
	// the race detector tells of.
	w := &logWriter{id: "s1"}
	(&logWriter{id: "s0"}).add(t, nodes[0], 1)
	if _, err := nodes[1].LogTailNow(t.Context(), "s1"); !errors.Is(err, backbone.ErrNotFound) {
		t.Errorf("the tail of nothing: %v", err)
	}
	begun := time.Now()
	for round := range 20 {
		w.add(t, nodes[round%3], 1)
		want := uint64(2 * (round + 1))
		var asking sync.WaitGroup
		for i := range 30 { // on all nodes at once: those of one share their barriers
			asking.Go(func() {
				if last, err := nodes[i%3].LogTailNow(t.Context(), "s1"); err != nil || last != want {
					t.Errorf("node %s: the tail is %d, %v; want %d", name(i%3), last, err, want)
				}
			})
		}
		asking.Wait()
	}
	n, err := backbone.LogMessages(t.Context(), nodes[0])
	if most := 21 + 3*(1+int(time.Since(begun)/(50*time.Millisecond))); err != nil || n <= 21 || n > most {
		t.Errorf("21 batches and 600 questions left %d messages, want at most %d (%v)", n, most, err)
	}
}
