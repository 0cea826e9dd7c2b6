package ratelimit

import "sync"

// A Claim is for one more of what somebody may have so many of at once.
type Claim struct {
	Key
	Max int64 // more than 0
}

// Places count what is had at once. The zero value has nothing. Its methods may be
// called concurrently.
type Places struct {
	mu     sync.Mutex
	counts map[Key]int64 // guarded by mu: those that are not 0
	// others have so many elsewhere, as far as is known.
	others map[Key]int64 // guarded by mu; replaced, not changed
}

// Enter takes a place for each of the claims, or, where one of them has all of
// its own, none, and returns that one's index. Otherwise the index is -1, and
// leave, which may be called more than once, gives the places back.
func (p *Places) Enter(claims ...Claim) (leave func(), full int) {
	if len(claims) == 0 {
		return func() {}, -1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range claims {
		if p.counts[c.Key]+p.others[c.Key] >= c.Max {
			return nil, i
		}
	}
	return p.take(claims), -1
}

// Hold is Enter for what is there already, as an analysis is that another node
// has begun: it takes the places although there may be none left.
func (p *Places) Hold(claims ...Claim) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.take(claims)
}

// take is called with mu held.
func (p *Places) take(claims []Claim) (leave func()) {
	if p.counts == nil {
		p.counts = make(map[Key]int64)
	}
	for _, c := range claims {
		p.counts[c.Key]++
	}
	return sync.OnceFunc(func() { p.leave(claims) })
}

func (p *Places) leave(claims []Claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range claims {
		if p.counts[c.Key]--; p.counts[c.Key] == 0 {
			delete(p.counts, c.Key)
		}
	}
}

// Greedy reports whether somebody has more than an even share of the places of a
// kind, among all who have any.
func (p *Places) Greedy(k Key) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var total, holders int64
	for other, n := range p.counts {
		if other.Kind == k.Kind {
			total += n
			holders++
		}
	}
	return p.counts[k]*holders > total
}

// Held is how many places are taken here.
func (p *Places) Held(k Key) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[k]
}
