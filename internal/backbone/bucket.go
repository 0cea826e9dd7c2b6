package backbone

import (
	"context"
	"errors"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// A Record is a value of the store, and the revision that replacing it needs.
// A revision of 0 means that there is none.
type Record struct {
	Value    []byte
	Revision uint64
}

func (p *part) subject(key string) string {
	return subjectPrefix + p.name[len(bucketPrefix):] + "." + key
}

// put stores a record, whatever was there.
func (p *part) put(ctx context.Context, key string, value []byte) error {
	_, err := p.kv.Put(ctx, key, value)
	return p.wrote(err)
}

// swap replaces the record of a revision, or with revision 0 creates it; swapped
// tells whether it was still that one.
func (b *Backbone) swap(ctx context.Context, p *part, key string, value []byte, revision uint64) (next uint64, swapped bool, err error) {
	for try := 0; ; try++ {
		next, swapped, err = p.swap(ctx, key, value, revision)
		if err != nil || swapped || !b.replicated() {
			return next, swapped, err
		}
		// A leader that has just been elected refuses what it has not caught up
		// with. A marker of a removed record is as good as a record: whatever is
		// newer than the revision proves that it is not the newest.
		m, err := b.fromLeader(ctx, p, p.subject(key), 0)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
		case err != nil:
			return 0, false, p.failed(err)
		case m.Sequence > revision:
			return 0, false, nil
		}
		if try == maxRefusals {
			return 0, false, nil
		}
		if !pause(ctx, refusalPause) {
			return 0, false, p.failed(ctx.Err())
		}
	}
}

func (p *part) swap(ctx context.Context, key string, value []byte, revision uint64) (next uint64, swapped bool, err error) {
	if revision == 0 {
		next, err = p.kv.Create(ctx, key, value)
	} else {
		next, err = p.kv.Update(ctx, key, value, revision)
	}
	if errors.Is(err, jetstream.ErrKeyExists) || isWrongSequence(err) {
		return 0, false, nil
	}
	return next, err == nil, p.wrote(err)
}

// remove removes the record, with revision other than 0 only if it is still
// that one. A plain delete would leave a marker for each key for good.
func (p *part) remove(ctx context.Context, key string, revision uint64) (removed bool, err error) {
	opts := []jetstream.KVDeleteOpt{jetstream.PurgeTTL(markerTTL)}
	if revision != 0 {
		opts = append(opts, jetstream.LastRevision(revision))
	}
	err = p.kv.Purge(ctx, key, opts...)
	if isWrongSequence(err) {
		return false, nil
	}
	return err == nil, p.wrote(err)
}

// get returns the record of key as some replica has it, or as the leader does
// where that has none: so "none" is true, and a record may be a moment old.
func (b *Backbone) get(ctx context.Context, p *part, key string) (Record, error) {
	e, err := p.kv.Get(ctx, key)
	switch {
	case err == nil:
		return Record{e.Value(), e.Revision()}, nil
	case !errors.Is(err, jetstream.ErrKeyNotFound):
		return Record{}, p.failed(err)
	case !b.replicated():
		return Record{}, nil
	}
	return b.getFromLeader(ctx, p, key)
}

// getFromLeader returns the newest record of key.
func (b *Backbone) getFromLeader(ctx context.Context, p *part, key string) (Record, error) {
	m, err := b.fromLeader(ctx, p, p.subject(key), 0)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, p.failed(err)
	}
	return recordOf(m), nil
}

// recordOf returns what a message of a bucket says, none where it says that
// the record was removed.
func recordOf(m *jetstream.RawStreamMsg) Record {
	if m.Header.Get("KV-Operation") != "" || m.Header.Get(jetstream.MarkerReasonHeader) != "" {
		return Record{}
	}
	return Record{m.Data, m.Sequence}
}

// listBatch bounds the records of one request.
const listBatch = 512

// list returns the records whose keys begin with prefix, which is "" or ends
// with a dot, by what follows. It reads them in the order in which they were
// written, some hundred at a time, without a consumer: each record is as it was
// at some moment during the call, on a replica that may lag behind.
func (b *Backbone) list(ctx context.Context, p *part, prefix string) (map[string]Record, error) {
	all := make(map[string]Record)
	base := p.subject(prefix)
	for from := uint64(1); ; {
		last, more, err := b.listPage(ctx, p, base, from, all)
		if err != nil {
			return nil, p.failed(err)
		}
		if !more {
			return all, nil
		}
		from = last + 1
	}
}

// listPage adds some records from a position on to all; more says that there
// are others after last.
func (b *Backbone) listPage(ctx context.Context, p *part, base string, from uint64, all map[string]Record) (last uint64, more bool, err error) {
	msgs, err := jetstreamext.GetBatch(ctx, b.js, p.name, listBatch,
		jetstreamext.GetBatchSeq(from), jetstreamext.GetBatchSubject(base+">"))
	if err != nil {
		return 0, false, err
	}
	pending := ""
	for m, err := range msgs {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			return 0, false, nil
		}
		if err != nil {
			return 0, false, err
		}
		key := strings.TrimPrefix(m.Subject, base)
		if r := recordOf(m); r.Revision != 0 {
			all[key] = r
		} else {
			delete(all, key)
		}
		last, pending = m.Sequence, m.Header.Get("Nats-Num-Pending")
	}
	// The iterator ends without a word when the context or the connection does.
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	if last == 0 || b.conn.IsClosed() {
		return 0, false, nats.ErrTimeout
	}
	return last, pending != "0", nil
}
