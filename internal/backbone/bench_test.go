package backbone_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/athena-hub/athena/internal/backbone"
)

var event = bytes.Repeat([]byte("x"), 256)

func BenchmarkPublishLiveWithoutInterest(b *testing.B) {
	bb := open(b, backbone.Options{})
	b.ReportAllocs()
	for b.Loop() {
		if err := bb.PublishLive("01JD8ZQ5V5X2W3Y4Z5A6B7C8D9", event); err != nil {
			b.Fatal(err)
		}
	}
}

// Publishing goes in windows, as a writer that is not faster than its reader.
func BenchmarkPublishLiveToOneSubscriber(b *testing.B) {
	const window = 256
	bb := open(b, backbone.Options{})
	got, n := make(chan struct{}, 1), 0
	stop, err := bb.SubscribeLive("01JD8ZQ5V5X2W3Y4Z5A6B7C8D9", func(data []byte) {
		if n++; n%window == 0 {
			got <- struct{}{}
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	sent := 0
	for b.Loop() {
		if err := bb.PublishLive("01JD8ZQ5V5X2W3Y4Z5A6B7C8D9", event); err != nil {
			b.Fatal(err)
		}
		if sent++; sent%window == 0 {
			await(b, got, "a window of messages")
		}
	}
	stop()
	if bb.Dropped() != 0 {
		b.Errorf("%d were dropped", bb.Dropped())
	}
}

func BenchmarkAppendLog16KiB(b *testing.B) {
	bb := open(b, backbone.Options{})
	var pos uint64
	seq := uint64(1)
	b.SetBytes(64 * 256)
	b.ReportAllocs()
	for b.Loop() {
		batch := backbone.Batch{First: seq, Last: seq + 63}
		for range 64 {
			batch.Events = append(batch.Events, event)
		}
		var err error
		if pos, err = bb.AppendLog(context.Background(), "s1", pos, batch); err != nil {
			b.Fatal(err)
		}
		seq += 64
	}
}

// filled has one stream of batches of 12 events among others.
func filled(b *testing.B, o backbone.Options, batches, others int) *backbone.Backbone {
	bb := open(b, o)
	var pos uint64
	for i := range uint64(batches) {
		next := backbone.Batch{First: i*12 + 1, Last: i*12 + 12}
		for range 12 {
			next.Events = append(next.Events, event)
		}
		var err error
		if pos, err = bb.AppendLog(context.Background(), "s1", pos, next); err != nil {
			b.Fatal(err)
		}
		for k := range others {
			if _, err := bb.AppendLog(context.Background(), fmt.Sprintf("o%d-%d", i, k), 0, next); err != nil {
				b.Fatal(err)
			}
		}
	}
	return bb
}

func BenchmarkReadLog1000Events(b *testing.B) {
	bb := filled(b, backbone.Options{}, 84, 3)
	b.ReportAllocs()
	for b.Loop() {
		got, err := bb.ReadLog(context.Background(), "s1", 0, 1<<20)
		if err != nil || len(got) != 84 {
			b.Fatal(len(got), err)
		}
	}
}

// The place is in the middle of a long stream that this process knows nothing
// of: a second node's first read.
func BenchmarkReadLogInTheMiddleOfALongStreamCold(b *testing.B) {
	dir := b.TempDir()
	bb := filled(b, backbone.Options{DataDir: dir}, 4000, 1)
	if err := bb.Close(); err != nil {
		b.Fatal(err)
	}
	bb = open(b, backbone.Options{DataDir: dir})
	after := uint64(0)
	for b.Loop() {
		after = (after + 17_389) % 47_000
		got, err := bb.ReadLog(context.Background(), "s1", after, 1)
		if err != nil || len(got) != 1 || got[0].First > after+1 || got[0].Last <= after {
			b.Fatal(got, err)
		}
		backbone.ForgetPositions(bb, "s1")
	}
}

func BenchmarkOpenAndCloseAnEmptyDirectory(b *testing.B) {
	for b.Loop() {
		bb, err := backbone.Open(context.Background(), backbone.Options{DataDir: b.TempDir(), Node: "n1"})
		if err != nil {
			b.Fatal(err)
		}
		if err := bb.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
