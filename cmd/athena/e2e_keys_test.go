package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

func TestARetriedPOSTReturnsTheFirstOnesStreamAfterACrash(t *testing.T) {
	const key = `odd / * > key "with" spaces`
	texts := []string{"said ", "once"}
	for name, running := range map[string]bool{"after the answer": false, "while it runs": true} {
		t.Run(name, func(t *testing.T) {
			script := answer(time.Millisecond, texts...)
			if running {
				script = held(texts...)
			}
			up := upstream(t, script)
			s := serve(t, openAIAt(up))
			id := s.begin("Idempotency-Key", key)
			s.until(id, func(w *watch) bool { return w.transcript.Text() == "said once" && (running || w.ended) })
			s.kill()
			s.start()

			r := s.do("POST", "/v1/analyses", aRequest, "Idempotency-Key", key)
			if m := decode[protocol.Metadata](t, r); r.status != http.StatusOK || m.ID != id {
				t.Errorf("after the restart: %d %s, want 200 and %s", r.status, r.body, id)
			}
			tr := s.read(protocol.TransportSSE, id)
			if running {
				wantEnd(t, tr, protocol.TypeFailed, `"code":"owner_lost"`)
			} else {
				wantEnd(t, tr, protocol.TypeCompleted, `"finish_reason":"stop"`)
			}
			wantProblem(t, s.do("POST", "/v1/analyses", `{"code":"other"}`, "Idempotency-Key", key), http.StatusBadRequest, protocol.CodeInvalidRequest)
			if n := up.Count(); n != 1 {
				t.Errorf("the upstream was asked %d times, want once", n)
			}
			if other := s.begin("Idempotency-Key", "another"); other == id {
				t.Error("another key returned the same stream")
			}
		})
	}
}
