package cluster

import "time"

// SetClocks replaces the clocks before Start.
func (c *Cluster) SetClocks(f func() (monotonic, wall time.Time)) { c.clocks = f }

// Rank is what decides who acts first.
func Rank(id, node string, others []string) int { return rank(id, node, others) }

// Recode reads a message as from another node, and makes it again.
func Recode(data []byte) ([]byte, error) {
	m, err := decodeMessage(data)
	if err != nil {
		return nil, err
	}
	return m.encode()
}
