package backbone

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	// DefaultReadBudget is ReadLog's budget where none is given, in bytes.
	DefaultReadBudget = 256 << 10
	// readBatches bounds the batches of one request. The server stops at the
	// budget before, unless batches are tiny.
	readBatches = 512
	// seekSpan is how many positions, of all streams, a search leaves to be
	// read over rather than probe again: a probe costs a round trip.
	seekSpan = 4
)

// ReadLog returns the batches of stream id that hold events after a seq,
// oldest first, until their events exceed budget bytes or there are no more.
// The first one may begin before after: a batch is returned whole. A batch
// that is larger than the budget is returned alone.
//
// No batches and no error: nothing is stored after. ErrNotFound: nothing is
// stored at all. ErrGap: the limits have dropped what comes next after after;
// where they have dropped it further on, the batches end before it, and asking
// after those gives ErrGap. So history is never skipped silently.
func (b *Backbone) ReadLog(ctx context.Context, id string, after uint64, budget int) ([]Batch, error) {
	if err := checkToken("stream id", id); err != nil {
		return nil, err
	}
	if budget <= 0 {
		budget = DefaultReadBudget
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	var batches []Batch
	s, err := b.openedStore()
	if err == nil {
		batches, err = b.readLog(ctx, s.log, id, after, budget)
		err = s.log.failed(err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the log of %s after %d: %w", id, after, err)
	}
	return batches, nil
}

func (b *Backbone) readLog(ctx context.Context, log *part, id string, after uint64, budget int) ([]Batch, error) {
	tail, err := b.newest(ctx, log, id)
	if err == nil && tail.Last < after && b.replicated() {
		// Whoever has seen more than this replica has a cursor that the log
		// confirms, unless the log has lost it.
		tail, err = b.newestOfLeader(ctx, log, id)
	}
	if err != nil {
		if errors.Is(err, ErrNotFound) {
			b.positions.forget(id)
		}
		return nil, err
	}
	if tail.Last <= after {
		return nil, nil
	}
	if tail.First <= after+1 {
		return []Batch{tail.Batch}, nil
	}
	from, remembered := b.positions.find(id, after)
	start, err := b.seek(ctx, log, id, after, from, &tail)
	if err != nil {
		return nil, err
	}
	batches, err := b.readFrom(ctx, log, id, after, start, budget)
	if errors.Is(err, ErrGap) && remembered {
		// What this process remembered may be of a log that has been removed
		// and begun again, so only a search without it proves the gap.
		b.positions.forget(id)
		if start, err = b.seek(ctx, log, id, after, mark{}, &tail); err == nil {
			batches, err = b.readFrom(ctx, log, id, after, start, budget)
		}
	}
	return batches, err
}

// seek returns a position from which reading comes to the batch that holds
// after+1 without reading many others. The log is one sequence of positions
// for all streams, and the server finds a subject's next message from any of
// them, so a search needs no index: it halves, in turns with guessing from the
// seqs on either side, which is right at once for a stream that has grown
// evenly. from is a batch at or before the place, or zero; tail lies behind.
func (b *Backbone) seek(ctx context.Context, log *part, id string, after uint64, from mark, tail *stored) (uint64, error) {
	lo, loSeq := max(from.pos, 1), from.last
	if from.last > after || after == 0 {
		return lo, nil
	}
	hi, hiSeq := tail.pos, tail.First
	for turn := 0; hi-lo > seekSpan && hi > lo; turn++ {
		probe := lo + (hi-lo)/2
		if turn%2 == 0 && hiSeq > loSeq {
			// A little low, since the batch is found by its end.
			share := float64(after-loSeq) / float64(hiSeq-loSeq)
			probe = lo + uint64(share*float64(hi-lo))
			probe = min(max(probe, lo+1), hi-1)
		}
		m, err := log.stream.GetMsg(ctx, probe, jetstream.WithGetMsgSubject(logPrefix+id))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return lo, nil // the limits dropped it all meanwhile; reading will say so
		}
		if err != nil {
			return 0, err
		}
		at, err := parseStored(m)
		if err != nil {
			return 0, err
		}
		switch {
		case at.First > after+1:
			hi, hiSeq = probe, at.First
		case at.Last > after:
			return at.pos, nil
		default:
			lo, loSeq = at.pos+1, at.Last
		}
	}
	return lo, nil
}

// readFrom reads batches from a position on.
func (b *Backbone) readFrom(ctx context.Context, log *part, id string, after, start uint64, budget int) ([]Batch, error) {
	var out []Batch
	var at mark
	size, next := 0, after+1
	for size <= budget {
		page, err := b.readPage(ctx, id, start, budget-size+1)
		if err != nil {
			return nil, err
		}
		for i := range page {
			s := &page[i]
			start = s.pos + 1
			if s.Last <= after {
				continue
			}
			if s.First > next {
				if out == nil {
					return nil, fmt.Errorf("%w: it goes on at %d", ErrGap, s.First)
				}
				return out, nil
			}
			out = append(out, s.Batch)
			at = mark{s.First, s.Last, s.pos}
			next = s.Last + 1
			if size += len(s.payload); size > budget {
				break
			}
		}
		if len(page) == 0 || page[len(page)-1].pending == 0 {
			break
		}
	}
	if out == nil {
		// There was a newer batch when the search began.
		return b.readFromLeader(ctx, log, id, after, start)
	}
	b.positions.read(id, at) // where the reader's next page begins
	return out, nil
}

// readFromLeader reads the batch at or after a position that the replica that
// was read has not got, though the log has one: either the limits have dropped
// it meanwhile, or the replica lags behind.
func (b *Backbone) readFromLeader(ctx context.Context, log *part, id string, after, start uint64) ([]Batch, error) {
	dropped := fmt.Errorf("%w: it was dropped while being read", ErrGap)
	if !b.replicated() {
		return nil, dropped
	}
	for {
		s, err := asStored(b.fromLeader(ctx, log, logPrefix+id, max(start, 1)))
		switch {
		case errors.Is(err, ErrNotFound):
			return nil, dropped
		case err != nil:
			return nil, err
		case s.First > after+1:
			return nil, dropped
		case s.Last > after:
			return []Batch{s.Batch}, nil
		}
		start = s.pos + 1
	}
}

// readPage reads some batches from a position on, none at the end.
func (b *Backbone) readPage(ctx context.Context, id string, start uint64, maxBytes int) ([]stored, error) {
	msgs, err := jetstreamext.GetBatch(ctx, b.js, logStream, readBatches,
		jetstreamext.GetBatchSeq(start),
		jetstreamext.GetBatchSubject(logPrefix+id),
		jetstreamext.GetBatchMaxBytes(maxBytes))
	if err != nil {
		return nil, err
	}
	var page []stored
	for m, err := range msgs {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			return page, nil
		}
		if err != nil {
			return nil, err
		}
		s, err := parseStored(m)
		if err != nil {
			return nil, err
		}
		page = append(page, s)
	}
	// The iterator ends without a word when the context or the connection
	// does, and a page that was cut must not look like the end of the log.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(page) == 0 || b.conn.IsClosed() {
		return nil, errors.New("the store's answer broke off")
	}
	return page, nil
}
