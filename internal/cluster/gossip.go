package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The topics of messages between nodes.
const (
	topicNode = "node" // gossip
	topicLook = "look" // look for orphans
)

// What one message may say. Ours is cut to it, and another's that says more is
// ignored.
const (
	maxMessageBytes = 256 << 10
	maxTextBytes    = 1 << 10
	maxBreakers     = 256
	maxUnheard      = 256
)

// Facts are what nodes tell each other of themselves. They are hints, by which
// nothing is decided here.
type Facts struct {
	Version string `json:"version,omitempty"`
	// Address is where clients reach the node.
	Address string `json:"address,omitempty"`
	// Draining says that the node takes no new work.
	Draining bool `json:"draining,omitempty"`
	// Degraded says that something does not work there, and Detail what.
	Degraded bool   `json:"degraded,omitempty"`
	Detail   string `json:"detail,omitempty"`
	// Connections and Analyses are how many there are.
	Connections int `json:"connections,omitempty"`
	Analyses    int `json:"analyses,omitempty"`
	// Breakers are those that are not closed, at most 256.
	Breakers []Breaker `json:"breakers,omitempty"`
}

// A Breaker is what a node found out about a provider's model.
type Breaker struct {
	Provider string `json:"provider"`
	Model    string `json:"model,omitempty"`
	Why      string `json:"why,omitempty"`
	// Open says that the node does not ask it at all, and UntilMS for how many
	// milliseconds from now.
	Open    bool  `json:"open,omitempty"`
	UntilMS int64 `json:"until_ms,omitempty"`
}

// A message is one message of gossip.
type message struct {
	Node    string    `json:"node"`
	Epoch   uint64    `json:"epoch"`
	Started time.Time `json:"started"`
	State   State     `json:"state"`
	Facts   Facts     `json:"facts"`
	// Unheard are nodes that have a lease but were not heard for its length.
	Unheard []string `json:"unheard,omitempty"`
}

// texts calls f with each text of free form.
func (m *message) texts(f func(*string)) {
	f(&m.Facts.Version)
	f(&m.Facts.Address)
	f(&m.Facts.Detail)
	for i := range m.Facts.Breakers {
		b := &m.Facts.Breakers[i]
		f(&b.Provider)
		f(&b.Model)
		f(&b.Why)
	}
}

// encode cuts what is too long, which only this node's own mistake can be.
func (m message) encode() ([]byte, error) {
	m.Facts.Breakers = append([]Breaker(nil), m.Facts.Breakers[:min(len(m.Facts.Breakers), maxBreakers)]...)
	m.Unheard = m.Unheard[:min(len(m.Unheard), maxUnheard)]
	m.texts(func(s *string) { *s = cut(*s) })
	data, err := json.Marshal(m)
	if err == nil && len(data) > maxMessageBytes {
		m.Facts.Breakers = nil // hints, and what makes it so large
		data, err = json.Marshal(m)
	}
	return data, err
}

// cut returns as many whole characters of s as may be sent.
func cut(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= maxTextBytes {
		return s
	}
	s = s[:maxTextBytes]
	for len(s) > 0 {
		if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size > 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return s
}

// decodeMessage reads gossip, which may come from another version, or from
// anybody who can write to the bus.
func decodeMessage(data []byte) (m message, err error) {
	if len(data) > maxMessageBytes {
		return m, fmt.Errorf("%d bytes are too many", len(data))
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, err
	}
	switch {
	case !validName(m.Node):
		return m, fmt.Errorf("%.40q is no node's name", m.Node)
	case m.Epoch == 0:
		return m, errors.New("it has no epoch")
	case m.State != StateUp && m.State != StateLeaving:
		return m, fmt.Errorf("state %.40q is unknown", m.State)
	case m.Facts.Connections < 0 || m.Facts.Analyses < 0:
		return m, errors.New("a number is negative")
	case len(m.Unheard) > maxUnheard || slices.ContainsFunc(m.Unheard, func(s string) bool { return !validName(s) }):
		return m, errors.New("what it says of other nodes can't be")
	case len(m.Facts.Breakers) > maxBreakers:
		return m, fmt.Errorf("%d breakers are too many", len(m.Facts.Breakers))
	}
	long := false
	m.texts(func(s *string) { long = long || len(*s) > maxTextBytes })
	if long {
		return m, errors.New("a text is too long")
	}
	return m, nil
}

// validName reports whether s can be a node's name, as the backbone has it.
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' || c == '_' {
			continue
		}
		return false
	}
	return s != "" && len(s) <= 128
}

// gossipLoop tells the others that this node is there.
func (c *Cluster) gossipLoop() {
	for {
		begun := time.Now()
		if err := c.gossip(); err != nil {
			c.log.Debug().Err(err).Msg("the others could not be told how this node is")
		}
		if !pause(c.ctx, c.opts.beat(), c.gossipNow) {
			return
		}
		// Many nodes that start at once each cause a message here.
		if early := c.opts.beat()/10 - time.Since(begun); early > 0 && !pause(c.ctx, early, nil) {
			return
		}
	}
}

// gossip tells the others once.
func (c *Cluster) gossip() error {
	c.telling.Lock() // a message of before Leave must not come after
	defer c.telling.Unlock()
	facts := c.opts.Facts()
	c.mu.Lock()
	c.own = facts
	m := message{Node: c.opts.Node, Epoch: c.opts.Epoch, Started: c.started.UTC(), State: c.state(), Facts: facts,
		Unheard: c.table.unheard(time.Now())}
	c.mu.Unlock()
	data, err := m.encode()
	if err != nil {
		return err
	}
	return c.opts.Bus.Publish(topicNode, data)
}

// hear takes in gossip, this node's own included.
func (c *Cluster) hear(data []byte) {
	m, err := decodeMessage(data)
	if err != nil {
		c.log.Debug().Err(err).Msg("what a node says of itself can't be read")
		return
	}
	now := time.Now()
	if m.Node == c.opts.Node {
		if m.Epoch != c.opts.Epoch {
			c.hearTwin(m.Epoch, now)
		}
		return
	}
	c.mu.Lock()
	p, known := c.table.hear(m, now)
	c.mu.Unlock()
	if p == nil {
		return
	}
	if !known {
		kick(c.gossipNow) // it doesn't know this one either
	}
	c.opts.OnFacts(m.Node, m.Facts)
}

func (c *Cluster) hearTwin(epoch uint64, now time.Time) {
	c.mu.Lock()
	certain := c.twin.heardFrom(epoch, now, c.opts)
	c.mu.Unlock()
	if certain {
		c.log.Error().Str("node", c.opts.Node).Msg("another process uses this node's name: give one of them another --node-name")
	}
}
