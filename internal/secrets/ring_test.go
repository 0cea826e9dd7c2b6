package secrets_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/internal/secrets"
	"github.com/athena-hub/athena/protocol"
)

func key(t testing.TB, text string) *secrets.Key {
	t.Helper()
	k, err := secrets.NewKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// ring has keys named a, b, c… with these weights.
func ring(t testing.TB, onChange func(secrets.Change), weights ...int) *secrets.Ring {
	t.Helper()
	r := secrets.NewRing("claude", onChange)
	var entries []secrets.Entry
	for i, w := range weights {
		id := string(rune('a' + i))
		entries = append(entries, secrets.Entry{ID: id, Weight: w, Key: key(t, "sk-test-0123456789-"+id)})
	}
	if err := r.Set("config", entries); err != nil {
		t.Fatal(err)
	}
	return r
}

func pick(r *secrets.Ring) secrets.Use {
	var t secrets.Tried
	u, _ := r.Pick(&t)
	return u
}

func fail(code protocol.Code) *protocol.Error { return protocol.Errorf(code, "no") }

func TestAKeyIsPrintedNowhere(t *testing.T) {
	const canary = "sk-canary-0123456789abcdef"
	k := key(t, canary)
	var out strings.Builder
	holder := struct {
		Key  *secrets.Key
		Keys []*secrets.Key
	}{k, []*secrets.Key{k}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%T"} {
		fmt.Fprintf(&out, verb, k)
		fmt.Fprintf(&out, verb, holder)
	}
	b, err := json.Marshal(map[string]any{"a": k, "b": holder})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	log := zerolog.New(&out)
	log.Info().Interface("key", k).Any("holder", holder).Stringer("s", k).Msgf("%v", k)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", k, "holder", holder)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", k, "holder", holder)
	func() {
		defer func() { fmt.Fprint(&out, recover()) }()
		panic(k)
	}()
	for _, secret := range []string{canary, canary[4:], fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary)} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("printing tells %q:\n%s", secret, out.String())
		}
	}
	if k.Reveal() != canary || k.Tail() != "cdef" {
		t.Error("the key is not what it was made of")
	}
}

func TestAWipedKeyIsGone(t *testing.T) {
	text := []byte("sk-test-0123456789abcdef")
	k, err := secrets.NewKey(text)
	if err != nil {
		t.Fatal(err)
	}
	k.Wipe()
	k.Wipe()
	if k.Reveal() != "" || k.Tail() != "" {
		t.Error("a wiped key still tells its text")
	}
	if string(text) != "sk-test-0123456789abcdef" {
		t.Error("wiping cleared the caller's bytes")
	}
}

func TestAKeyThatNoHeaderCanHoldIsRefusedWithoutRepeatingIt(t *testing.T) {
	for _, text := range []string{"", " \n", "two words", "line\nfeed", "crlf\r\nX-Evil: 1", "nul\x00", "dél", strings.Repeat("x", secrets.MaxKeyBytes+1)} {
		if _, err := secrets.NewKey([]byte(text)); err == nil || len(text) > 2 && strings.Contains(err.Error(), text) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	if k := key(t, "  sk-padded\n"); k.Reveal() != "sk-padded" {
		t.Error("white space around a key is part of it")
	}
}

func TestKeysTakeTurnsByWeightWithoutClumps(t *testing.T) {
	r := ring(t, nil, 5, 1, 1)
	var turns strings.Builder
	for range 14 {
		turns.WriteString(pick(r).ID())
	}
	if got := turns.String(); got != "aabacaaaabacaa" {
		t.Errorf("turns are %s", got)
	}
}

func TestPickingAllocatesNothing(t *testing.T) {
	r := ring(t, nil, 3, 2, 1)
	if n := testing.AllocsPerRun(1000, func() { pick(r).Worked() }); n != 0 {
		t.Errorf("%v allocations per pick", n)
	}
}

func TestARefusedKeyRestsUntilACheckFindsItGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes []secrets.Change
		r := ring(t, func(c secrets.Change) { changes = append(changes, c) }, 1, 1)
		a := pick(r)
		if !a.Failed(fail(protocol.CodeUnauthorized)) {
			t.Fatal("401 is about the key")
		}
		for range 5 {
			if id := pick(r).ID(); id != "b" {
				t.Fatalf("%s is picked though it was refused", id)
			}
		}
		a.Worked() // of a call that had begun before
		if s := r.Status()[0]; s.State != secrets.StateRefused {
			t.Errorf("an older call's success ended the rest: %+v", s)
		}
		a.Checked(fail(protocol.CodeConnectionFailed), false)
		if s := r.Status()[0]; s.State != secrets.StateRefused || s.Err == nil || s.Checked.IsZero() {
			t.Errorf("a check that found nothing out: %+v", s)
		}
		a.Checked(nil, false)
		if s := r.Status()[0]; s.State != secrets.StateOK || s.Err != nil {
			t.Errorf("after a good check: %+v", s)
		}
		if len(changes) != 2 || changes[0].State != secrets.StateRefused || changes[0].ID != "a" || changes[0].Code != protocol.CodeUnauthorized || changes[1].State != secrets.StateOK {
			t.Errorf("told were %+v", changes)
		}
	})
}

func TestALimitedKeyRestsAsLongAsTheProviderSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := ring(t, nil, 1, 1)
		pick(r).Failed(fail(protocol.CodeRateLimited).WithRetryAfter(20 * time.Second))
		time.Sleep(20*time.Second - time.Millisecond)
		if x, y := pick(r).ID(), pick(r).ID(); x+y != "bb" {
			t.Error("the key was used before its time")
		}
		time.Sleep(time.Millisecond)
		if x, y := pick(r).ID(), pick(r).ID(); x == y {
			t.Error("the key is not used after its time")
		}
	})
}

func TestACheckThatCostsNothingDoesNotEndTheRestOfAnExhaustedKeyUnlessToldTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := ring(t, nil, 1, 1)
		a := pick(r)
		var rests []time.Duration
		for range 6 {
			a.Failed(fail(protocol.CodeQuotaExceeded))
			rests = append(rests, time.Until(r.Status()[0].Until))
			a.Checked(nil, false)
			if r.Status()[0].State != secrets.StateExhausted {
				t.Fatal("a list of models ended the rest")
			}
			time.Sleep(time.Until(r.Status()[0].Until))
		}
		if got := fmt.Sprint(rests); got != "[1m0s 2m0s 4m0s 8m0s 15m0s 15m0s]" {
			t.Errorf("rests are %s", got)
		}
		a.Failed(fail(protocol.CodeQuotaExceeded))
		a.Checked(nil, true)
		if r.Status()[0].State != secrets.StateOK {
			t.Error("whoever asked for the check wanted the key back")
		}
	})
}

func TestWhileAllKeysRestTheOneThatComesBackFirstIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := ring(t, nil, 1, 1)
		a, b := pick(r), pick(r)
		a.Failed(fail(protocol.CodeUnauthorized))
		b.Failed(fail(protocol.CodeRateLimited).WithRetryAfter(time.Minute))
		var tried secrets.Tried
		if u, ok := r.Pick(&tried); !ok || u.ID() != "b" {
			t.Errorf("picked %q", u.ID())
		} else if _, more := r.Pick(&tried); more || r.More(&tried) {
			t.Error("a second resting key is tried")
		} else if wait := r.Wait(); wait != time.Minute {
			t.Errorf("to wait is %s", wait)
		} else if u.Worked(); r.Wait() != 0 {
			t.Error("it worked, and rests nevertheless")
		}
	})
}

func TestOneCallTriesEachKeyOnceAndNotMoreThanEight(t *testing.T) {
	r := ring(t, nil, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
	var tried secrets.Tried
	seen := make(map[string]bool)
	for {
		u, ok := r.Pick(&tried)
		if !ok {
			break
		}
		if seen[u.ID()] {
			t.Fatalf("%s is tried twice", u.ID())
		}
		seen[u.ID()] = true
	}
	if len(seen) != 8 {
		t.Errorf("%d keys were tried", len(seen))
	}
}

func TestReplacedKeysAreWipedAndOthersGoOnAsTheyWere(t *testing.T) {
	r := secrets.NewRing("openai", nil)
	old, same := key(t, "sk-old-0123456789"), key(t, "sk-same-0123456789")
	if err := r.Set("file", []secrets.Entry{{ID: "file:1", Key: old}, {ID: "file:2", Key: same}}); err != nil {
		t.Fatal(err)
	}
	u, _ := r.Find("file:2")
	u.Failed(fail(protocol.CodeUnauthorized))
	if err := r.Set("vault", []secrets.Entry{{ID: "vault:1", Key: key(t, "sk-other-0123456789")}}); err != nil {
		t.Fatal(err)
	}
	again := key(t, "sk-same-0123456789")
	if err := r.Set("file", []secrets.Entry{{ID: "file:1", Key: key(t, "sk-new-0123456789")}, {ID: "file:2", Weight: 3, Key: again}}); err != nil {
		t.Fatal(err)
	}
	if old.Reveal() != "" || again.Reveal() != "" || same.Reveal() == "" {
		t.Error("what is not needed any more is to be wiped, and only that")
	}
	if u, _ := r.Find("file:1"); u.Reveal() != "sk-new-0123456789" {
		t.Error("the new key is not there")
	}
	for _, s := range r.Status() {
		if s.ID == "file:2" && (s.State != secrets.StateRefused || s.Weight != 3) {
			t.Errorf("the same key is %+v", s)
		}
	}
	if err := r.Set("stored", []secrets.Entry{{ID: "vault:1", Key: key(t, "sk-thief-0123456789")}}); err == nil {
		t.Error("two keys have one id")
	}
	r.Wipe()
	if same.Reveal() != "" || r.Len() != 0 {
		t.Error("keys are left")
	}
}

func TestARingIsForManyAtOnce(t *testing.T) {
	r := ring(t, func(secrets.Change) {}, 3, 2, 1)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 200 {
				switch u := pick(r); (i + j) % 7 {
				case 0:
					u.Failed(fail(protocol.CodeRateLimited))
				case 1:
					u.Checked(nil, true)
				case 2:
					if err := r.Set("more", []secrets.Entry{{ID: "m", Key: key(t, fmt.Sprintf("sk-%d-%d-0123456789", i, j))}}); err != nil {
						t.Error(err)
					}
				default:
					u.Reveal()
					u.Worked()
					r.Status()
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkPick(b *testing.B) {
	r := ring(b, nil, 3, 2, 1)
	b.ReportAllocs()
	for b.Loop() {
		u := pick(r)
		if u.ID() == "" {
			b.Fatal("no key")
		}
		u.Worked()
	}
}
