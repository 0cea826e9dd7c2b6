package gateway

import (
	"testing"

	"github.com/athena-hub/athena/internal/secrets"
)

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{`{"key":"sk-0123456789","weight":2}`, `{"key":"sk-\u0061"}`, `{"key":""}`, `{"key":7}`, `{}`, `{"key":"a","key":"b"}`, "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		k, _, err := parseKey(body)
		if (err == nil) != (k != nil) {
			t.Fatalf("%v, %v", k, err)
		}
		if k == nil {
			return
		}
		if _, err := secrets.NewKey([]byte(k.Reveal())); err != nil {
			t.Errorf("what was taken is no key: %v", err)
		}
	})
}
