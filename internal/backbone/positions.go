package backbone

import (
	"cmp"
	"container/list"
	"slices"
	"sync"
)

// A mark says where one batch is.
type mark struct{ first, last, pos uint64 }

const (
	maxMarks         = 64   // for one stream, 1.5 KiB
	maxMarkedStreams = 2048 // so 3 MiB in all
	recentMarks      = 4
)

// positions remembers where some batches of the streams used last are: some
// that this process has appended, spread over the stream, and the ends of the
// pages that it has read last, where those readers go on. It saves searches
// and nothing else: what it says may be forgotten at any time.
type positions struct {
	mu  sync.Mutex
	by  map[string]*list.Element // of *marked, guarded by mu
	lru list.List                // most recently used first, guarded by mu
}

type marked struct {
	id string
	// Every stride-th appended batch, by position.
	marks   []mark
	stride  int
	skipped int // since the last of marks
	// The ends of the last pages read, in a ring.
	recent [recentMarks]mark
	next   int
}

// stream returns what is known of id, as the most recently used one. p.mu is
// held.
func (p *positions) stream(id string) *marked {
	if el := p.by[id]; el != nil {
		p.lru.MoveToFront(el)
		return el.Value.(*marked)
	}
	if p.by == nil {
		p.by = make(map[string]*list.Element)
	}
	if p.lru.Len() >= maxMarkedStreams {
		oldest := p.lru.Back()
		delete(p.by, oldest.Value.(*marked).id)
		p.lru.Remove(oldest)
	}
	s := &marked{id: id, stride: 1}
	p.by[id] = p.lru.PushFront(s)
	return s
}

// appended is told of each batch that this process appends.
func (p *positions) appended(id string, m mark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stream(id)
	if n := len(s.marks); n > 0 {
		if m.pos <= s.marks[n-1].pos {
			return // a retry
		}
		if s.skipped++; s.skipped < s.stride {
			return
		}
	}
	s.skipped = 0
	if s.marks = append(s.marks, m); len(s.marks) < maxMarks {
		return
	}
	for i := range maxMarks / 2 {
		s.marks[i] = s.marks[2*i]
	}
	s.marks = s.marks[:maxMarks/2]
	s.stride *= 2
	s.skipped = s.stride / 2 // the last one went, the one before stays
}

// read is told of the last batch of each page that this process reads.
func (p *positions) read(id string, m mark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stream(id)
	if slices.Contains(s.recent[:], m) {
		return
	}
	s.recent[s.next] = m
	s.next = (s.next + 1) % recentMarks
}

// find returns the last known batch that begins at or before after+1.
func (p *positions) find(id string, after uint64) (mark, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by[id] == nil {
		return mark{}, false
	}
	s := p.stream(id)
	var best mark
	i, _ := slices.BinarySearchFunc(s.marks, after+2, func(m mark, seq uint64) int { return cmp.Compare(m.first, seq) })
	if i > 0 {
		best = s.marks[i-1]
	}
	for _, m := range s.recent {
		if m.first <= after+1 && m.pos > best.pos {
			best = m
		}
	}
	return best, best.pos != 0
}

func (p *positions) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if el := p.by[id]; el != nil {
		delete(p.by, id)
		p.lru.Remove(el)
	}
}
