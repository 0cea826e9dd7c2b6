package backbone_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/athena-hub/athena/internal/backbone"
)

// batch returns a batch of n events from first on.
func batch(first uint64, n int) backbone.Batch {
	b := backbone.Batch{First: first, Last: first + uint64(n) - 1}
	for i := range n {
		b.Events = append(b.Events, fmt.Appendf(nil, `{"seq":%d}`, first+uint64(i)))
	}
	return b
}

// fill appends batches to a new stream and returns them.
func fill(t testing.TB, b *backbone.Backbone, id string, batches, events int) []backbone.Batch {
	t.Helper()
	var all []backbone.Batch
	var pos uint64
	for i := range batches {
		next := batch(uint64(i*events+1), events)
		next.End = i == batches-1
		if err := steadily(t, func() error {
			stored, err := b.AppendLog(context.Background(), id, pos, next)
			if err == nil {
				pos = stored
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		all = append(all, next)
	}
	return all
}

func wantLog(t *testing.T, b *backbone.Backbone, id string, after uint64, want []backbone.Batch) {
	t.Helper()
	got, err := b.ReadLog(t.Context(), id, after, 1<<20)
	if err != nil {
		t.Errorf("read %s after %d: %v", id, after, err)
	} else if !reflect.DeepEqual(got, want) {
		t.Errorf("read %s after %d:\n got %v\nwant %v", id, after, got, want)
	}
}

func TestTheLogIsReadFromAnyPlaceInPagesOfAnySize(t *testing.T) {
	dir := t.TempDir()
	b := open(t, backbone.Options{DataDir: dir})
	const batches, events = 60, 3
	// Interleaved, one of them seldom.
	ids := []string{"a", "b", "c"}
	all, pos := make(map[string][]backbone.Batch), make(map[string]uint64)
	for i := range batches {
		for k, id := range ids {
			if k == 2 && i%7 != 0 {
				continue
			}
			next := batch(uint64(len(all[id])*events+1), events)
			var err error
			if pos[id], err = b.AppendLog(t.Context(), id, pos[id], next); err != nil {
				t.Fatal(err)
			}
			all[id] = append(all[id], next)
		}
	}
	check := func(b *backbone.Backbone) {
		for _, id := range ids {
			end := uint64(len(all[id]) * events)
			for after := range end + 2 {
				if after >= end {
					wantLog(t, b, id, after, nil)
					continue
				}
				wantLog(t, b, id, after, all[id][after/events:])
			}
			for _, budget := range []int{1, 40, 100, 1000, 1 << 20} {
				var got []backbone.Batch
				for after := uint64(0); ; {
					page, err := b.ReadLog(t.Context(), id, after, budget)
					if err != nil {
						t.Fatal(err)
					}
					if len(page) == 0 {
						break
					}
					size := 0
					for _, p := range page[:len(page)-1] {
						for _, e := range p.Events {
							size += len(e)
						}
					}
					if size > budget {
						t.Errorf("%s: a page went on after %d bytes with a budget of %d", id, size, budget)
					}
					got = append(got, page...)
					after = page[len(page)-1].Last
				}
				if !reflect.DeepEqual(got, all[id]) {
					t.Errorf("%s in pages of %d: got %d batches, want %d", id, budget, len(got), len(all[id]))
				}
			}
		}
	}
	check(b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	check(open(t, backbone.Options{DataDir: dir})) // remembering nothing
}

func TestNoSuchStreamAndNothingAfterAreToldApart(t *testing.T) {
	b := open(t, backbone.Options{})
	want := fill(t, b, "s1", 2, 3)
	if got, err := b.ReadLog(t.Context(), "s1", 6, 0); len(got) != 0 || err != nil {
		t.Errorf("at the end: %v, %v", got, err)
	}
	if got, err := b.ReadLog(t.Context(), "s2", 0, 0); len(got) != 0 || !errors.Is(err, backbone.ErrNotFound) {
		t.Errorf("no such stream: %v, %v", got, err)
	}
	last, pos, end, err := b.LogTail(t.Context(), "s1")
	if last != want[1].Last || pos == 0 || !end || err != nil {
		t.Errorf("tail: %d at %d, end %v, %v", last, pos, end, err)
	}
	if _, _, _, err := b.LogTail(t.Context(), "s2"); !errors.Is(err, backbone.ErrNotFound) {
		t.Errorf("tail of no such stream: %v", err)
	}
}

func TestOfTwoWritersOneGetsAConflict(t *testing.T) {
	b := open(t, backbone.Options{})
	pos, err := b.AppendLog(t.Context(), "s1", 0, batch(1, 2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.AppendLog(t.Context(), "s1", 0, batch(1, 3)); !errors.Is(err, backbone.ErrConflict) {
		t.Errorf("a second first batch: %v", err)
	}
	mine, theirs := batch(3, 2), batch(3, 2)
	theirs.Events[0] = []byte(`{"seq":3,"other":true}`)
	if _, err := b.AppendLog(t.Context(), "s1", pos, theirs); err != nil {
		t.Fatal(err)
	}
	// Even with the same numbers: what is stored is not what was to be.
	if _, err := b.AppendLog(t.Context(), "s1", pos, mine); !errors.Is(err, backbone.ErrConflict) {
		t.Errorf("a batch in the place of another: %v", err)
	}
	wantLog(t, b, "s1", 0, []backbone.Batch{batch(1, 2), theirs})
}

func TestARetryOfAStoredBatchIsRecognised(t *testing.T) {
	b := open(t, backbone.Options{})
	var prev uint64
	for i := range 3 {
		next := batch(uint64(i*2+1), 2)
		pos, err := b.AppendLog(t.Context(), "s1", prev, next)
		if err != nil {
			t.Fatal(err)
		}
		again, err := b.AppendLog(t.Context(), "s1", prev, next)
		if again != pos || err != nil {
			t.Errorf("batch %d again: at %d, %v; it is at %d", i, again, err, pos)
		}
		prev = pos
	}
	wantLog(t, b, "s1", 0, []backbone.Batch{batch(1, 2), batch(3, 2), batch(5, 2)})
}

func TestWhatTheLimitsDropIsAGap(t *testing.T) {
	// 4 KiB count as one batch, so this keeps three.
	b := open(t, backbone.Options{LogMaxBytesPerStream: 12 << 10})
	all := fill(t, b, "s1", 10, 2)
	for after := range uint64(14) {
		if got, err := b.ReadLog(t.Context(), "s1", after, 0); len(got) != 0 || !errors.Is(err, backbone.ErrGap) {
			t.Errorf("after %d: %v, %v", after, got, err)
		}
	}
	wantLog(t, b, "s1", 14, all[7:])
	wantLog(t, b, "s1", 17, all[8:])
	wantLog(t, b, "s1", 20, nil)
}

func TestAStreamThatTheLimitsDroppedWhollyIsNotFoundAndCanGoOn(t *testing.T) {
	b := open(t, backbone.Options{LogMaxBytes: 64 << 10})
	pos, err := b.AppendLog(t.Context(), "old", 0, batch(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	big := backbone.Batch{First: 1, Last: 1, Events: [][]byte{[]byte(`"` + strings.Repeat("x", 8<<10) + `"`)}}
	for i := range 12 {
		if _, err := b.AppendLog(t.Context(), fmt.Sprint("new", i), 0, big); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.ReadLog(t.Context(), "old", 0, 0); !errors.Is(err, backbone.ErrNotFound) {
		t.Fatalf("read: %v", err)
	}
	if _, err := b.AppendLog(t.Context(), "old", pos, batch(2, 1)); err != nil {
		t.Fatalf("append: %v", err)
	}
	if _, err := b.ReadLog(t.Context(), "old", 0, 0); !errors.Is(err, backbone.ErrGap) {
		t.Errorf("read after 0: %v", err)
	}
	wantLog(t, b, "old", 1, []backbone.Batch{batch(2, 1)})
}

func TestBatchesThatCannotBeAreRefused(t *testing.T) {
	b := open(t, backbone.Options{})
	for name, bad := range map[string]backbone.Batch{
		"no events":   {First: 1, Last: 1},
		"no numbers":  {Events: [][]byte{[]byte(`{}`)}},
		"backwards":   {First: 2, Last: 1, Events: [][]byte{[]byte(`{}`)}},
		"a newline":   {First: 1, Last: 1, Events: [][]byte{[]byte("{\n}")}},
		"empty event": {First: 1, Last: 1, Events: [][]byte{nil}},
	} {
		if _, err := b.AppendLog(t.Context(), "s1", 0, bad); !errors.Is(err, backbone.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	huge := backbone.Batch{First: 1, Last: 1, Events: [][]byte{make([]byte, backbone.MaxMessageBytes)}}
	if _, err := b.AppendLog(t.Context(), "s1", 0, huge); !errors.Is(err, backbone.ErrTooLarge) {
		t.Errorf("a huge batch: %v", err)
	}
	for _, id := range []string{"", "a.b", "*", ">", "a b", "é", strings.Repeat("x", 200)} {
		if _, err := b.AppendLog(t.Context(), id, 0, batch(1, 1)); !errors.Is(err, backbone.ErrInvalid) {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

func TestReadingEndsWithItsContext(t *testing.T) {
	b := open(t, backbone.Options{})
	fill(t, b, "s1", 5, 3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := b.ReadLog(ctx, "s1", 0, 0); got != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", got, err)
	}
}
