package backbone_test

import (
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/backbone"
)

func TestDebugQuorum(t *testing.T) {
	c := newCluster(t, 3)
	nodes := c.start(0, 1)
	c.start(2)
	begin := time.Now()
	settled(t, nodes[0])
	t.Logf("settled after %v", time.Since(begin))
	w := &logWriter{id: "s1"}
	w.add(t, nodes[0], 20)
	c.stop(1)
	c.stop(2)
	begin = time.Now()
	_, err := nodes[0].AppendLog(t.Context(), "s1", w.pos, batch(41, 2))
	t.Logf("an append failed after %v %v", time.Since(begin), err)
	back := c.start(1)[0]
	for range 12 {
		time.Sleep(2 * time.Second)
		t.Logf("up %v", nodes[0].StoreUp())
		_, err := nodes[0].AppendLog(t.Context(), "s1", w.pos, batch(41, 2))
		t.Logf("err %v", err)
		if err == nil { return }
	}
	t.Log(backbone.Raft(nodes[0]))
	t.Log(backbone.Raft(back))
	t.Fail()
}
