//go:build linux

package bench

import (
	"fmt"
	"testing"

	"github.com/athena-hub/athena/protocol"
)

// memoryPerConnection returns what each of n idle clients of one quiet stream
// holds in the server, in bytes.
func memoryPerConnection(tb testing.TB, s spec, sse bool, n int) (resident, goMemory float64) {
	tb.Helper()
	if s.Role == "athena" {
		s.Dir = tb.TempDir()
	}
	c := startChild(tb, s)
	id := c.create(1)[0]
	targets := make([]target, n)
	for i := range targets {
		targets[i] = target{addr: c.addr, stream: id, sse: sse, ask: s.Role == "athena"}
	}
	before := c.memory()
	crowd := connectAll(tb, targets)
	after := c.memory()
	// That they are all there, and were all the time.
	crowd.expect(n)
	c.do(order{Do: "publish", IDs: []string{id}, Events: 1, Bytes: eventBytes})
	crowd.wait(tb)
	crowd.close()
	c.end()
	return float64(after.Resident-before.Resident) / float64(n),
		float64(after.Heap+after.Stacks-before.Heap-before.Stacks) / float64(n)
}

func TestIdleClientsAreCountedInMemoryAndReached(t *testing.T) {
	for _, sse := range []bool{false, true} {
		for _, role := range []string{"floor", "athena"} {
			t.Run(role+"/"+transportName(sse), func(t *testing.T) {
				if resident, inGo := memoryPerConnection(t, spec{Role: role}, sse, 100); resident < 1<<10 || inGo < 1<<10 {
					t.Errorf("a connection takes %.0f bytes, %.0f of them Go's", resident, inGo)
				}
			})
		}
	}
}

func BenchmarkIdleMemory(b *testing.B) {
	const clients = 5000
	for _, sse := range []bool{false, true} {
		limit := 16.0
		if sse {
			limit = 24
		}
		b.Run(transportName(sse), func(b *testing.B) {
			for range b.N {
				floor, _ := memoryPerConnection(b, spec{Role: "floor"}, sse, clients)
				athena, inGo := memoryPerConnection(b, spec{Role: "athena"}, sse, clients)
				floor, athena = floor/1024, athena/1024
				table.add(row{
					measure: fmt.Sprintf("resident memory per idle connection of %d, %s", clients, transportName(sse)),
					floor:   fmt.Sprintf("%.1f KiB", floor), athena: fmt.Sprintf("%.1f KiB", athena), ratio: fmt.Sprintf("%.2f", athena/floor),
					target: fmt.Sprintf("≤ %.0f KiB", limit), reached: athena <= limit,
				})
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(floor, "floor-KiB")
				b.ReportMetric(athena, "athena-KiB")
				b.ReportMetric(inGo/1024, "athena-Go-KiB")
			}
		})
	}
}

// applyTo returns a function for client.onEvent that checks all that a client
// can check.
func applyTo(t *protocol.Transcript) func(raw []byte) error {
	return func(raw []byte) error {
		e, err := protocol.Parse(raw)
		if err != nil {
			return err
		}
		ev, err := e.Event()
		if err != nil {
			return err
		}
		return t.Apply(&ev)
	}
}
