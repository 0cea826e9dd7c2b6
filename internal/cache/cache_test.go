package cache_test

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/athena-hub/athena/internal/cache"
	"github.com/athena-hub/athena/protocol"
)

func key(n byte) cache.Key { return cache.Key{n} }

func answer(text string) *cache.Answer {
	return &cache.Answer{Parts: []cache.Part{{Kind: protocol.KindText, Text: text}}, At: time.Now()}
}

func TestAnAnswerIsGoodUntilItIsReplacedOrTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := cache.NewMemory(cache.Options{MaxAge: time.Hour})
		one, two := answer("one"), answer("two")
		m.Put(key(1), one)
		if got, ok := m.Get(key(1)); !ok || got != one {
			t.Errorf("got %v, %v", got, ok)
		}
		if _, ok := m.Get(key(2)); ok {
			t.Error("an answer nobody gave")
		}
		before := m.Bytes()
		m.Put(key(1), two)
		if got, _ := m.Get(key(1)); got != two || m.Bytes() != before {
			t.Errorf("got %v, %d bytes, before %d", got, m.Bytes(), before)
		}
		time.Sleep(time.Hour)
		if _, ok := m.Get(key(1)); !ok {
			t.Error("it is gone at its last moment")
		}
		time.Sleep(time.Nanosecond)
		if _, ok := m.Get(key(1)); ok || m.Bytes() != 0 {
			t.Errorf("an old answer is still there, %d bytes", m.Bytes())
		}
	})
}

func TestTheLeastRecentlyUsedGoFirst(t *testing.T) {
	m := cache.NewMemory(cache.Options{MaxBytes: 40_000})
	big := strings.Repeat("x", 9000)
	for n := range byte(4) {
		m.Put(key(n), answer(big))
	}
	m.Get(key(0))
	m.Put(key(4), answer(big))
	for n, want := range []bool{true, false, true, true, true} {
		if _, ok := m.Get(key(byte(n))); ok != want {
			t.Errorf("answer %d: %v", n, ok)
		}
	}
	m.Put(key(5), answer(big+big))
	if _, ok := m.Get(key(5)); ok {
		t.Error("an answer as large as half the cache is kept")
	}
	off := cache.NewMemory(cache.Options{MaxBytes: -1})
	off.Put(key(1), answer(""))
	if _, ok := off.Get(key(1)); ok || off.Bytes() != 0 {
		t.Error("a cache that is off keeps something")
	}
}

func TestItsBoundHoldsWithManyUsersAtOnce(t *testing.T) {
	const most = 100_000
	m := cache.NewMemory(cache.Options{MaxBytes: most})
	var users sync.WaitGroup
	for u := range uint64(8) {
		users.Go(func() {
			r := rand.New(rand.NewPCG(1, u))
			for range 2000 {
				k := key(byte(r.IntN(50)))
				text := strings.Repeat(string('a'+rune(k[0])), r.IntN(20_000))
				if r.IntN(2) == 0 {
					m.Put(k, answer(text))
				} else if a, ok := m.Get(k); ok && strings.Trim(a.Parts[0].Text, string('a'+rune(k[0]))) != "" {
					t.Error("another key's answer")
				}
				if n := m.Bytes(); n > most || n < 0 {
					t.Errorf("%d bytes", n)
				}
			}
		})
	}
	users.Wait()
}

func BenchmarkGet(b *testing.B) {
	m := cache.NewMemory(cache.Options{})
	m.Put(key(1), answer("one"))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := m.Get(key(1)); !ok {
			b.Fatal("it is gone")
		}
	}
}
