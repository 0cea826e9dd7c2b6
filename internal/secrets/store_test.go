package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/secrets"
)

// A bucket in memory, of several stores.
type bucket struct {
	mu       sync.Mutex
	records  map[string]secrets.Record
	revision uint64
	stores   []*secrets.Store
	deaf     bool                      // announcements are lost
	lag      map[string]secrets.Record // what the list shows in the place of what there is, unless nil
	err      error
}

var _ secrets.Bucket = (*bucket)(nil)

func (b *bucket) Records(context.Context) (map[string]secrets.Record, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lag != nil {
		return maps.Clone(b.lag), b.err
	}
	return maps.Clone(b.records), b.err
}

func (b *bucket) Record(_ context.Context, name string) (secrets.Record, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.records[name], b.err
}

func (b *bucket) Swap(_ context.Context, name string, value []byte, revision uint64) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || b.records[name].Revision != revision {
		return false, b.err
	}
	b.revision++
	b.records[name] = secrets.Record{Value: value, Revision: b.revision}
	return true, nil
}

func (b *bucket) Remove(_ context.Context, name string, revision uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.records[name].Revision == revision {
		delete(b.records, name)
	}
	return b.err
}

func (b *bucket) Announce(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.stores {
		if !b.deaf {
			s.Changed(name)
		}
	}
}

// all are the records joined.
func (b *bucket) all() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var text strings.Builder
	for name, r := range b.records {
		fmt.Fprintf(&text, "%s %s\n", name, r.Value)
	}
	return text.String()
}

// node is a store with two rings, which runs until the test ends.
func node(t *testing.T, b *bucket, log *strings.Builder, keys ...string) (*secrets.Store, map[string]*secrets.Ring) {
	t.Helper()
	rings := map[string]*secrets.Ring{"claude": secrets.NewRing("claude", nil), "openai": secrets.NewRing("openai", nil)}
	o := secrets.StoreOptions{Bucket: b, Masters: masters(t, keys...), Rings: rings, Logger: zerolog.Nop()}
	if log != nil {
		o.Logger = zerolog.New(log)
	}
	s := secrets.NewStore(o)
	b.mu.Lock()
	b.stores = append(b.stores, s)
	b.mu.Unlock()
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s, rings
}

func texts(r *secrets.Ring) string {
	var all []string
	for _, u := range r.All() {
		all = append(all, u.ID()+"="+u.Reveal())
	}
	return strings.Join(all, " ")
}

func TestAKeyThatIsSetOnOneNodeIsUsedByTheOthersAtOnceAndLiesSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket{records: make(map[string]secrets.Record)}
		one, _ := node(t, b, nil, masterOne)
		_, rings := node(t, b, nil, masterOne)
		synctest.Wait()
		begin := time.Now()
		if err := one.Set(t.Context(), "claude", "team-a", 2, key(t, "sk-canary-0123456789"), "alice"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := texts(rings["claude"]); got != "team-a=sk-canary-0123456789" || time.Since(begin) > time.Second {
			t.Errorf("the other node has %q after %s", got, time.Since(begin))
		}
		if strings.Contains(b.all(), "canary") {
			t.Error("the key lies open in the store")
		}
		if err := one.Set(t.Context(), "claude", "team-a", 1, key(t, "sk-second-0123456789"), "bob"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := texts(rings["claude"]); got != "team-a=sk-second-0123456789" {
			t.Errorf("after it was replaced: %q", got)
		}
		if info := one.Stored("claude")["team-a"]; info.SetBy != "bob" || info.Weight != 1 || info.Err != nil || info.Set.IsZero() {
			t.Errorf("known is %+v", info)
		}
		if err := one.Delete(t.Context(), "claude", "team-a"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := texts(rings["claude"]); got != "" {
			t.Errorf("after it was deleted: %q", got)
		}
		if err := one.Delete(t.Context(), "claude", "team-a"); !errors.Is(err, secrets.ErrNoKey) {
			t.Errorf("deleted twice: %v", err)
		}
	})
}

func TestALostAnnouncementIsMadeUpForByReadingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket{records: make(map[string]secrets.Record), deaf: true}
		one, _ := node(t, b, nil, masterOne)
		_, rings := node(t, b, nil, masterOne)
		synctest.Wait()
		if err := one.Set(t.Context(), "openai", "a", 1, key(t, "sk-canary-0123456789"), ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(secrets.DefaultReload + time.Second)
		synctest.Wait()
		if got := texts(rings["openai"]); got == "" {
			t.Error("the key is not there")
		}
	})
}

func TestTheMasterKeyIsReplacedWithoutAMomentWithoutKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket{records: make(map[string]secrets.Record)}
		old, _ := node(t, b, nil, masterOne, masterTwo)
		for _, id := range []string{"a", "b"} {
			if err := old.Set(t.Context(), "claude", id, 1, key(t, "sk-canary-0123456789-"+id), ""); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		_, rings := node(t, b, nil, masterTwo, masterOne) // seals anew
		synctest.Wait()
		if id := masters(t, masterOne)[0].ID(); strings.Contains(b.all(), id) {
			t.Error("records are left under the old master key")
		}
		want := texts(rings["claude"])
		_, last := node(t, b, nil, masterTwo)
		if got := texts(last["claude"]); got != want || !strings.Contains(got, "canary") {
			t.Errorf("with the new master key alone: %q, want %q", got, want)
		}
		var log strings.Builder
		lost, rings := node(t, b, &log, masterOne)
		synctest.Wait()
		if texts(rings["claude"]) != "" || !strings.Contains(log.String(), "can't be opened") || !errors.Is(lost.Stored("claude")["a"].Err, secrets.ErrSealed) {
			t.Errorf("with the old master key alone: %q, log %s", texts(rings["claude"]), log.String())
		}
	})
}

func TestARecordThatIsPutInThePlaceOfAnotherOrIsOlderIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket{records: make(map[string]secrets.Record)}
		s, rings := node(t, b, nil, masterOne)
		set := func(id, text string) {
			if err := s.Set(t.Context(), "claude", id, 1, key(t, text), ""); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		set("a", "sk-first-0123456789")
		first := maps.Clone(b.records)
		set("a", "sk-second-0123456789")
		set("b", "sk-third-0123456789")
		before := texts(rings["claude"])
		names := make([]string, 0, 2)
		for name := range b.records {
			names = append(names, name)
		}
		b.mu.Lock()
		b.records[names[0]], b.records[names[1]] = b.records[names[1]], b.records[names[0]]
		b.mu.Unlock()
		time.Sleep(time.Minute)
		if got := texts(rings["claude"]); got != before {
			t.Errorf("after two records were swapped: %q, want %q", got, before)
		}
		b.mu.Lock()
		maps.Copy(b.records, first)
		b.mu.Unlock()
		time.Sleep(time.Minute)
		if got := texts(rings["claude"]); strings.Contains(got, "sk-first") {
			t.Errorf("an old record came back: %q", got)
		}
	})
}

func TestKeysGoOnWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket{records: make(map[string]secrets.Record)}
		s, rings := node(t, b, nil, masterOne)
		if err := s.Set(t.Context(), "claude", "a", 1, key(t, "sk-canary-0123456789"), ""); err != nil {
			t.Fatal(err)
		}
		b.mu.Lock()
		b.err = errors.New("no quorum")
		b.mu.Unlock()
		time.Sleep(time.Minute)
		if texts(rings["claude"]) == "" {
			t.Error("the key is gone with the store")
		}
		if err := s.Set(t.Context(), "claude", "b", 1, key(t, "sk-other-0123456789"), ""); err == nil {
			t.Error("a key was set without a store")
		}
	})
}

func TestAStoreThatIsAwayIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket{records: make(map[string]secrets.Record)}
		var log strings.Builder
		node(t, b, &log, masterOne)
		synctest.Wait()
		away := func(err error) {
			b.mu.Lock()
			b.err = err
			b.mu.Unlock()
			time.Sleep(5 * time.Minute)
			synctest.Wait()
		}
		away(errors.New("no quorum"))
		away(nil)
		if got := log.String(); strings.Count(got, "no quorum") != 1 || strings.Count(got, "again") != 2 {
			t.Errorf("the log: %s", got)
		}
	})
}

func TestAKeyThatWasRemovedDoesNotComeBackFromAReplicaThatLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket{records: make(map[string]secrets.Record)}
		s, rings := node(t, b, nil, masterOne)
		set := func() {
			if err := s.Set(t.Context(), "claude", "a", 1, key(t, "sk-canary-0123456789"), ""); err != nil {
				t.Fatal(err)
			}
		}
		set()
		b.mu.Lock()
		b.lag = maps.Clone(b.records)
		b.mu.Unlock()
		if err := s.Delete(t.Context(), "claude", "a"); err != nil {
			t.Fatal(err)
		}
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if got := texts(rings["claude"]); got != "" {
				t.Fatalf("it is there again: %q", got)
			}
		}
		set()
		if texts(rings["claude"]) == "" {
			t.Error("it can't be set again")
		}
	})
}

func TestAStoredKeyForWhichThereWasNoPlaceIsUsedOnceThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket{records: make(map[string]secrets.Record)}
		one, _ := node(t, b, nil, masterOne)
		_, rings := node(t, b, nil, masterOne)
		var full []secrets.Entry
		for i := range secrets.MaxKeys {
			full = append(full, secrets.Entry{ID: fmt.Sprintf("file:a.%d", i), Key: key(t, fmt.Sprintf("sk-canary-file-%d", i))})
		}
		if err := rings["claude"].Set("file:a", full); err != nil {
			t.Fatal(err)
		}
		if err := one.Set(t.Context(), "claude", "a", 1, key(t, "sk-canary-0123456789"), ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := rings["claude"].Set("file:a", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(secrets.DefaultReload + time.Second)
		synctest.Wait()
		if got := texts(rings["claude"]); got != "a=sk-canary-0123456789" {
			t.Errorf("the ring has %q", got)
		}
	})
}

func TestWhatIsWrongWithAKeyThatIsSetIsSaidWithoutTheKey(t *testing.T) {
	b := &bucket{records: make(map[string]secrets.Record)}
	s, _ := node(t, b, nil, masterOne)
	for _, c := range []struct {
		provider, id string
		weight       int
	}{{"nobody", "a", 1}, {"claude", "", 1}, {"claude", "a b", 1}, {"claude", "env:x", 1}, {"claude", "a", 0}, {"claude", "a", 1001}} {
		k := key(t, "sk-canary-0123456789")
		err := s.Set(t.Context(), c.provider, c.id, c.weight, k, "")
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%+v: %v", c, err)
		}
		if k.Reveal() != "" {
			t.Errorf("%+v: the key is not wiped", c)
		}
	}
}
