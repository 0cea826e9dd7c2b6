package secrets_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/secrets"
)

// The tests' master keys, which are SHA-256 of "one" and "two".
const (
	masterOne = "dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z/0Me0="
	masterTwo = "P8TM/nRYcOLA2Z9x8w/wZWyN7dQcwdfT03aw2+aF4vM="
)

func masters(t testing.TB, text ...string) []secrets.Master {
	t.Helper()
	all, err := secrets.ParseMasters([]byte(strings.Join(text, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sealed(t testing.TB, provider, id string, m secrets.Master) []byte {
	t.Helper()
	s := &secrets.Sealed{Provider: provider, ID: id, Version: 7, Weight: 2, Set: time.Unix(1_800_000_000, 0), SetBy: "alice"}
	b, err := s.Seal(t.Context(), key(t, "sk-canary-0123456789abcdef"), m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func open(t testing.TB, b []byte, with []secrets.Master) (string, error) {
	t.Helper()
	s, err := secrets.ParseSealed(b)
	if err != nil {
		return "", err
	}
	k, err := s.Open(t.Context(), with)
	if err != nil {
		return "", err
	}
	return k.Reveal(), nil
}

func TestASealedKeyOpensOnlyWithItsMasterKeyAndTellsNothingBefore(t *testing.T) {
	one, two := masters(t, masterOne), masters(t, masterTwo)
	b := sealed(t, "claude", "team-a", one[0])
	if strings.Contains(string(b), "canary") || bytes.Contains(b, []byte(base64.StdEncoding.EncodeToString([]byte("sk-canary"))[:10])) {
		t.Errorf("the record tells the key: %s", b)
	}
	if text, err := open(t, b, masters(t, masterTwo, masterOne)); err != nil || text != "sk-canary-0123456789abcdef" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := open(t, b, two); !errors.Is(err, secrets.ErrSealed) || !strings.Contains(err.Error(), one[0].ID()) {
		t.Errorf("without its master key: %v; want one that names it", err)
	}
	if again := sealed(t, "claude", "team-a", one[0]); bytes.Equal(again, b) {
		t.Error("two records of one key are the same: nonces are used again")
	}
}

// TestARecordThatWasTamperedWithDoesNotOpen changes each field and each byte,
// cuts, and swaps the parts of two records.
func TestARecordThatWasTamperedWithDoesNotOpen(t *testing.T) {
	m := masters(t, masterOne, masterTwo)
	good := sealed(t, "claude", "team-a", m[0])
	other := sealed(t, "openai", "team-a", m[0])
	var a, b secrets.Sealed
	for _, err := range []error{json.Unmarshal(good, &a), json.Unmarshal(other, &b)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(*secrets.Sealed){
		"moved to another provider": func(s *secrets.Sealed) { s.Provider = "openai" },
		"moved to another id":       func(s *secrets.Sealed) { s.ID = "team-b" },
		"made newer":                func(s *secrets.Sealed) { s.Version++ },
		"given another weight":      func(s *secrets.Sealed) { s.Weight = 1 },
		"given another author":      func(s *secrets.Sealed) { s.SetBy = "mallory" },
		"given another time":        func(s *secrets.Sealed) { s.Set = s.Set.Add(time.Hour) },
		"given another master":      func(s *secrets.Sealed) { s.Master = m[1].ID() },
		"given another data key":    func(s *secrets.Sealed) { s.Wrapped = b.Wrapped },
		"given another text":        func(s *secrets.Sealed) { s.Text = b.Text },
		"given another's both":      func(s *secrets.Sealed) { s.Wrapped, s.Text = b.Wrapped, b.Text },
		"cut":                       func(s *secrets.Sealed) { s.Text = s.Text[:len(s.Text)-1] },
		"emptied":                   func(s *secrets.Sealed) { s.Text = nil },
		"without its data key":      func(s *secrets.Sealed) { s.Wrapped = nil },
		"of another format":         func(s *secrets.Sealed) { s.Format++ },
	} {
		changed := a
		change(&changed)
		text, err := json.Marshal(&changed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, text, m); !errors.Is(err, secrets.ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range a.Text {
		changed := a
		changed.Text = bytes.Clone(a.Text)
		changed.Text[i] ^= 1
		if _, err := changed.Open(t.Context(), m); !errors.Is(err, secrets.ErrSealed) {
			t.Fatalf("byte %d of the text: %v", i, err)
		}
	}
	for i := range a.Wrapped {
		changed := a
		changed.Wrapped = bytes.Clone(a.Wrapped)
		changed.Wrapped[i] ^= 0x80
		if _, err := changed.Open(t.Context(), m); !errors.Is(err, secrets.ErrSealed) {
			t.Fatalf("byte %d of the data key: %v", i, err)
		}
	}
	for i := range good {
		if _, err := open(t, good[:i], m); !errors.Is(err, secrets.ErrSealed) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
}

func TestMasterKeysAreReadInEachNotationAndNeverRepeated(t *testing.T) {
	raw, err := base64.StdEncoding.DecodeString(masterOne)
	if err != nil {
		t.Fatal(err)
	}
	want := masters(t, masterOne)[0].ID()
	for _, text := range []string{masterOne, strings.TrimRight(masterOne, "="), base64.URLEncoding.EncodeToString(raw), hex.EncodeToString(raw),
		strings.ToUpper(hex.EncodeToString(raw)), "# the key\n" + masterOne + "\n\n", masterOne + "," + masterTwo} {
		if got := masters(t, text)[0].ID(); got != want {
			t.Errorf("%q is another key", text)
		}
	}
	for _, text := range []string{"", "# nothing", "correct horse battery staple", masterOne[:30], masterOne + masterTwo, strings.Repeat("ab", 32),
		masterOne + "\n" + hex.EncodeToString(raw), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="} {
		if _, err := secrets.ParseMasters([]byte(text)); err == nil || len(text) > 20 && strings.Contains(err.Error(), text[:20]) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseSealed(f *testing.F) {
	m := masters(f, masterOne)
	f.Add(sealed(f, "claude", "team-a", m[0]))
	f.Add([]byte(`{"format":1,"provider":"p","id":"a","version":1,"weight":1,"set":"2026-11-27T00:00:00Z","master":"x","wrapped":"","text":""}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{}{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := secrets.ParseSealed(b)
		if err != nil {
			if !errors.Is(err, secrets.ErrSealed) {
				t.Errorf("not the family of errors: %v", err)
			}
			return
		}
		k, err := s.Open(t.Context(), m)
		if err == nil && k.Reveal() != "sk-canary-0123456789abcdef" {
			t.Error("a forged record opens")
		}
	})
}

func FuzzParseMasters(f *testing.F) {
	f.Add([]byte(masterOne))
	f.Add([]byte(masterOne + ",\n# x\n" + masterTwo))
	f.Add([]byte("zz"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := secrets.ParseMasters(b)
		if (err == nil) != (len(all) > 0) {
			t.Errorf("%d keys, %v", len(all), err)
		}
	})
}
