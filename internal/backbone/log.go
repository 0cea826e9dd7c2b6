package backbone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	logPrefix = "athena.log."

	headerFirst = "Athena-First"
	headerLast  = "Athena-Last"
	headerEnd   = "Athena-End" // "1" where the batch ends its stream
)

// A Batch is what one message of the log holds: neighbouring events of one
// stream, as the JSON they were made with. A batch that was read shares one
// piece of memory among its events.
type Batch struct {
	// First and Last are the first and last seq that the events cover.
	First, Last uint64
	// End says that the last event ends the stream.
	End bool
	// Events are in order. JSON as it is encoded here has no newline.
	Events [][]byte
}

func (b *Batch) size() int {
	n := 0
	for _, e := range b.Events {
		n += len(e) + 1
	}
	return n
}

func (b *Backbone) logConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        logStream,
		Description: "The events of all Athena streams, in batches.",
		Subjects:    []string{logPrefix + ">"},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxAge:      b.opts.LogMaxAge,
		MaxBytes:    b.opts.LogMaxBytes,
		MaxMsgs:     -1,
		MaxMsgSize:  -1,
		// At least two: with one, every append would drop the batch before.
		MaxMsgsPerSubject: max(2, b.opts.LogMaxBytesPerStream/nominalBatchBytes),
		MaxConsumers:      -1,
		AllowDirect:       true,
		// Appends are recognised by their place, so no ids need be remembered.
		Duplicates: min(time.Second, b.opts.LogMaxAge),
	}
}

// AppendLog appends a batch to the log of stream id and returns its position.
// prev is the position of the stream's batch before it, 0 for the first. It
// returns when the server has stored the batch.
//
// Of two writers with the same prev one succeeds and the other gets
// ErrConflict. An append that failed otherwise, after a timeout for instance,
// may have been stored: call again with the same arguments, and if the newest
// batch is this one its position is returned. If the limits have dropped all
// of the stream's batches meanwhile, the append succeeds whatever prev is.
func (b *Backbone) AppendLog(ctx context.Context, id string, prev uint64, batch Batch) (pos uint64, err error) {
	ctx, cancel := bound(ctx)
	defer cancel()
	return b.StartAppend(ctx, id, prev, batch)()
}

// StartAppend is AppendLog in two steps: the batch is on its way when it
// returns, and wait waits for the answer until ctx ends. Who has many batches
// starts them all before waiting for the first: one by one an append costs
// about 190 µs of CPU, most of it for waking goroutines on both sides, and in a
// group of a thousand 50.
func (b *Backbone) StartAppend(ctx context.Context, id string, prev uint64, batch Batch) (wait func() (pos uint64, err error)) {
	failed := func(err error) func() (uint64, error) {
		return func() (uint64, error) { return 0, fmt.Errorf("append to the log of %s: %w", id, err) }
	}
	if err := checkToken("stream id", id); err != nil {
		return func() (uint64, error) { return 0, err }
	}
	data, err := batch.encode()
	if err != nil {
		return failed(err)
	}
	s, err := b.openedStore()
	if err != nil {
		return failed(err)
	}
	ack, err := b.startAppend(id, prev, &batch, data)
	if err != nil {
		return failed(s.log.failed(err))
	}
	return func() (uint64, error) {
		pos, err := awaitAppend(ctx, ack)
		if isWrongSequence(err) {
			pos, err = b.resolve(ctx, s.log, id, prev, &batch, data)
		}
		if err = s.log.wrote(err); err != nil {
			return failed(err)()
		}
		b.positions.appended(id, mark{batch.First, batch.Last, pos})
		return pos, nil
	}
}

func (b *Backbone) startAppend(id string, prev uint64, batch *Batch, data []byte) (jetstream.PubAckFuture, error) {
	h := nats.Header{
		headerFirst:                         {strconv.FormatUint(batch.First, 10)},
		headerLast:                          {strconv.FormatUint(batch.Last, 10)},
		jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(prev, 10)},
	}
	if batch.End {
		h[headerEnd] = []string{"1"}
	}
	return b.js.PublishMsgAsync(&nats.Msg{Subject: logPrefix + id, Header: h, Data: data})
}

func awaitAppend(ctx context.Context, ack jetstream.PubAckFuture) (uint64, error) {
	select {
	case a := <-ack.Ok():
		return a.Sequence, nil
	case err := <-ack.Err():
		return 0, err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// resolve finds out what an append that wasn't expected met, and returns the
// position of the batch if it is stored after all.
func (b *Backbone) resolve(ctx context.Context, log *part, id string, prev uint64, batch *Batch, data []byte) (uint64, error) {
	for try := range maxRefusals {
		tail, err := b.newestOfLeader(ctx, log, id)
		switch {
		case errors.Is(err, ErrNotFound) && prev == 0:
			// Dropped since, and nothing to build on; or refused by a new leader.
			if !b.replicated() {
				return 0, ErrConflict
			}
		case errors.Is(err, ErrNotFound):
			if pos, err := b.appendAgain(ctx, id, 0, batch, data); !isWrongSequence(err) {
				return pos, err
			}
			return 0, ErrConflict
		case err != nil:
			return 0, err
		case tail.pos > prev && tail.First == batch.First && tail.Last == batch.Last &&
			tail.End == batch.End && bytes.Equal(tail.payload, data):
			return tail.pos, nil
		case tail.pos > prev, !b.replicated(), try == maxRefusals-1:
			return 0, fmt.Errorf("%w: expected position %d, found %d (%d to %d)", ErrConflict, prev, tail.pos, tail.First, tail.Last)
		}
		// The log is as expected, or will be: a leader that has just been
		// elected refuses what it has not caught up with.
		if !pause(ctx, refusalPause) {
			return 0, ctx.Err()
		}
		if pos, err := b.appendAgain(ctx, id, prev, batch, data); !isWrongSequence(err) {
			return pos, err
		}
	}
	return 0, ErrConflict
}

const (
	// maxRefusals is how often a leader is asked whose refusal does not fit
	// what it has, and refusalPause the time between.
	maxRefusals  = 20
	refusalPause = 100 * time.Millisecond
)

func (b *Backbone) appendAgain(ctx context.Context, id string, prev uint64, batch *Batch, data []byte) (uint64, error) {
	ack, err := b.startAppend(id, prev, batch, data)
	if err != nil {
		return 0, err
	}
	return awaitAppend(ctx, ack)
}

func isWrongSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
			api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

func (b *Batch) encode() ([]byte, error) {
	if b.First == 0 || b.Last < b.First || len(b.Events) == 0 {
		return nil, fmt.Errorf("%w: batch of %d events from %d to %d", ErrInvalid, len(b.Events), b.First, b.Last)
	}
	data := make([]byte, 0, b.size())
	for i, e := range b.Events {
		if len(e) == 0 || bytes.IndexByte(e, '\n') >= 0 {
			return nil, fmt.Errorf("%w: an event is empty or has a newline", ErrInvalid)
		}
		if i > 0 {
			data = append(data, '\n')
		}
		data = append(data, e...)
	}
	return data, nil
}

// A stored batch is one as it was read.
type stored struct {
	Batch
	pos     uint64
	payload []byte
	pending uint64 // how many batches the server had behind it
}

func parseStored(m *jetstream.RawStreamMsg) (stored, error) {
	first, err1 := strconv.ParseUint(m.Header.Get(headerFirst), 10, 64)
	last, err2 := strconv.ParseUint(m.Header.Get(headerLast), 10, 64)
	if err1 != nil || err2 != nil || first == 0 || last < first || len(m.Data) == 0 {
		return stored{}, fmt.Errorf("the log's message %d is no batch", m.Sequence)
	}
	// Absent from a single get, where nothing asks for it.
	pending, _ := strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
	return stored{
		Batch:   Batch{First: first, Last: last, End: m.Header.Get(headerEnd) == "1", Events: bytes.Split(m.Data, []byte("\n"))},
		pos:     m.Sequence,
		payload: m.Data,
		pending: pending,
	}, nil
}

// LogTail returns the last seq and the position of the newest batch that the
// log holds of stream id, and whether it ends the stream. ErrNotFound: the
// log holds nothing of it.
func (b *Backbone) LogTail(ctx context.Context, id string) (last, pos uint64, end bool, err error) {
	if err := checkToken("stream id", id); err != nil {
		return 0, 0, false, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	var t stored
	s, err := b.openedStore()
	if err == nil {
		t, err = b.newest(ctx, s.log, id)
		err = s.log.failed(err)
	}
	if err != nil {
		return 0, 0, false, fmt.Errorf("find the end of the log of %s: %w", id, err)
	}
	return t.Last, t.pos, t.End, nil
}

// LogFirst returns the first seq of the oldest batch of stream id that the
// limits have left. ErrNotFound where there is none.
func (b *Backbone) LogFirst(ctx context.Context, id string) (first uint64, err error) {
	if err := checkToken("stream id", id); err != nil {
		return 0, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	var t stored
	s, err := b.openedStore()
	if err == nil {
		t, err = b.oldest(ctx, s.log, id)
		err = s.log.failed(err)
	}
	if err != nil {
		return 0, fmt.Errorf("find the beginning of the log of %s: %w", id, err)
	}
	return t.First, nil
}

// newest returns the newest batch of stream id as some replica has it, or, if
// that has none, as the leader does: so "not found" is true.
func (b *Backbone) newest(ctx context.Context, log *part, id string) (stored, error) {
	m, err := log.stream.GetLastMsgForSubject(ctx, logPrefix+id)
	if errors.Is(err, jetstream.ErrMsgNotFound) && b.replicated() {
		return b.newestOfLeader(ctx, log, id)
	}
	return asStored(m, err)
}

// newestOfLeader returns the newest batch of stream id.
func (b *Backbone) newestOfLeader(ctx context.Context, log *part, id string) (stored, error) {
	if !b.replicated() {
		return b.newest(ctx, log, id)
	}
	return asStored(b.fromLeader(ctx, log, logPrefix+id, 0))
}

func (b *Backbone) oldest(ctx context.Context, log *part, id string) (stored, error) {
	m, err := log.stream.GetMsg(ctx, 0, jetstream.WithGetMsgSubject(logPrefix+id))
	if errors.Is(err, jetstream.ErrMsgNotFound) && b.replicated() {
		m, err = b.fromLeader(ctx, log, logPrefix+id, 1)
	}
	return asStored(m, err)
}

func asStored(m *jetstream.RawStreamMsg, err error) (stored, error) {
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return stored{}, ErrNotFound
	}
	if err != nil {
		return stored{}, err
	}
	return parseStored(m)
}
