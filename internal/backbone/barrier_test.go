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
	if _, err := nodes[1].LogTailNow(t.Context(), "s1"); !errors.Is(err, backbone.ErrNotFound) {
		t.Errorf("the tail of nothing: %v", err)
	}
	w := &logWriter{id: "s1"}
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
	if most := 20 + 3*(1+int(time.Since(begun)/(50*time.Millisecond))); err != nil || n <= 20 || n > most {
		t.Errorf("20 batches and 600 questions left %d messages, want at most %d (%v)", n, most, err)
	}
}
