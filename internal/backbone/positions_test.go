package backbone

import (
	"fmt"
	"testing"
)

func TestPositionsFindABatchAtOrBeforeAnyPlaceAndStayBounded(t *testing.T) {
	var p positions
	const batches, events = 10_000, 3
	for i := range uint64(batches) {
		p.appended("s1", mark{i*events + 1, (i + 1) * events, 2*i + 10})
		p.appended("s1", mark{i*events + 1, (i + 1) * events, 2*i + 10}) // again
	}
	if n := len(p.by["s1"].Value.(*marked).marks); n < maxMarks/2 || n >= maxMarks {
		t.Errorf("%d marks are kept of %d batches", n, batches)
	}
	worst := uint64(0)
	for after := range uint64(batches * events) {
		m, ok := p.find("s1", after)
		if !ok || m.first > after+1 || m.pos != 2*(m.first-1)/events+10 {
			t.Fatalf("after %d: %+v, %v", after, m, ok)
		}
		worst = max(worst, after+1-m.first)
	}
	if worst > batches*events/(maxMarks/4) {
		t.Errorf("a mark is %d before the place", worst)
	}
	for i := range uint64(recentMarks + 1) {
		p.read("s1", mark{20_000 + i, 20_010 + i, 500 + i + 20_000})
	}
	if m, ok := p.find("s1", 20_003); !ok || m.first != 20_004 {
		t.Errorf("after a page that ended there: %+v, %v", m, ok)
	}
	if _, ok := p.find("s2", 5); ok {
		t.Error("found a batch of an unknown stream")
	}
	p.forget("s1")
	if _, ok := p.find("s1", 500); ok {
		t.Error("found a forgotten batch")
	}
}

func TestPositionsForgetTheStreamUsedLongestAgo(t *testing.T) {
	var p positions
	p.appended("first", mark{1, 2, 3})
	p.appended("second", mark{1, 2, 4})
	for i := range maxMarkedStreams - 1 {
		p.appended(fmt.Sprint(i), mark{1, 2, 5})
		if _, ok := p.find("first", 0); !ok {
			t.Fatal("the stream in use was forgotten")
		}
	}
	if _, ok := p.find("second", 0); ok || p.lru.Len() != maxMarkedStreams || len(p.by) != maxMarkedStreams {
		t.Errorf("%d streams are kept, the unused one: %v", p.lru.Len(), ok)
	}
}
