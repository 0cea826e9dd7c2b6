package providertest_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/tidwall/gjson"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/providertest"
)

// call makes a call and returns its status and whole body.
func call(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(got)
}

// events returns the types of an event stream's events, and checks that they
// are numbered from first on.
func events(t *testing.T, stream string, first int64) (types []string) {
	t.Helper()
	for line := range strings.Lines(stream) {
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		if n := gjson.Get(data, "sequence_number").Int(); !gjson.Valid(data) || n != first+int64(len(types)) {
			t.Errorf("the event with the number %d stands at %d: %s", n, len(types), data)
		}
		types = append(types, strings.TrimPrefix(gjson.Get(data, "type").Str, "response."))
	}
	return types
}

var answer = providertest.Script{Pieces: []providertest.Piece{{Kind: providertest.PieceReasoning, Text: "hm"}, {Text: "a<"}, {Text: "b"}},
	Usage: &protocol.Usage{InputTokens: 10, OutputTokens: 2, CachedTokens: 4}}

const order = "created in_progress output_item.added reasoning_summary_part.added reasoning_summary_text.delta " +
	"reasoning_summary_text.done reasoning_summary_part.done output_item.done " +
	"output_item.added content_part.added output_text.delta output_text.delta output_text.done content_part.done output_item.done completed"

func TestTheEventsOfResponsesAreTheVendorsOverBothTransports(t *testing.T) {
	up := providertest.NewUpstream(t, answer)
	_, stream := call(t, http.MethodPost, up.URL+"/v1/responses", `{"model":"m","stream":true}`)
	if got := strings.Join(events(t, stream, 0), " "); got != order {
		t.Errorf("the events are\n%s\nwant\n%s", got, order)
	}
	last := stream[strings.LastIndex(stream, "data: ")+6:]
	if gjson.Get(last, "response.output.1.content.0.text").Str != "a<b" || gjson.Get(last, "response.usage.input_tokens_details.cached_tokens").Int() != 4 {
		t.Errorf("the last event is %s", last)
	}

	conn, _, err := websocket.Dial(t.Context(), up.URL+"/v1/responses", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"type":"response.create","model":"m"}`)); err != nil {
		t.Fatal(err)
	}
	var messages strings.Builder
	for range strings.Count(order, " ") + 1 {
		_, m, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		messages.WriteString("data: " + string(m) + "\n")
	}
	if got := strings.Join(events(t, messages.String(), 0), " "); got != order {
		t.Errorf("the messages are\n%s\nwant\n%s", got, order)
	}
	if calls := up.Calls(); calls[0].Protocol != providers.ProtocolSSE || calls[1].Protocol != providers.ProtocolWebSocket ||
		gjson.GetBytes(calls[1].Body, "type").Str != "response.create" {
		t.Errorf("the calls were %+v", calls)
	}
}

func TestABackgroundAnswerIsStoredUntilItIsCancelled(t *testing.T) {
	script := answer
	script.Polls = 1
	up := providertest.NewUpstream(t, script)
	url := up.URL + "/v1/responses"
	_, begun := call(t, http.MethodPost, url, `{"model":"m","background":true}`)
	id := gjson.Get(begun, "id").Str
	if gjson.Get(begun, "status").Str != "queued" || id == "" {
		t.Fatalf("the answer is %s", begun)
	}
	for _, want := range []string{"in_progress", "completed"} {
		if _, now := call(t, http.MethodGet, url+"/"+id, ""); gjson.Get(now, "status").Str != want || gjson.Get(now, "id").Str != id {
			t.Errorf("the answer is %s, want it %s", now, want)
		}
	}
	for _, after := range []string{"-1", "4", "14"} {
		_, rest := call(t, http.MethodGet, url+"/"+id+"?stream=true&starting_after="+after, "")
		n := gjson.Parse(after).Int() + 1
		if got, want := events(t, rest, n), strings.Split(order, " ")[n:]; strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("after %s came %q, want %q", after, got, want)
		}
	}
	for range 2 { // the second says the same
		if _, end := call(t, http.MethodPost, url+"/"+id+"/cancel", ""); gjson.Get(end, "status").Str != "cancelled" {
			t.Errorf("the cancelled answer is %s", end)
		}
	}
	<-up.Calls()[0].Cancelled()
	if _, now := call(t, http.MethodGet, url+"/"+id, ""); gjson.Get(now, "status").Str != "cancelled" {
		t.Errorf("afterwards the answer is %s", now)
	}
	if n := len(up.Reads()); n != 6 || up.Count() != 1 {
		t.Errorf("it was read %d times, and %d were begun", n, up.Count())
	}
	for _, path := range []string{"/unknown", "/unknown/cancel"} {
		method := http.MethodGet
		if strings.HasSuffix(path, "cancel") {
			method = http.MethodPost
		}
		if status, _ := call(t, method, url+path, ""); status != http.StatusNotFound {
			t.Errorf("%s: the status is %d", path, status)
		}
	}
}

func TestWhatIsRefusedIsCountedAndNoCall(t *testing.T) {
	up := providertest.NewUpstream(t, answer)
	url := up.URL + "/v1/responses"
	up.RefuseStreams(true)
	up.RefuseBackground(true)
	up.RefuseUpgrades(426)
	for _, body := range []string{`{"stream":true}`, `{"background":true}`} {
		if status, said := call(t, http.MethodPost, url, body); status != 400 || gjson.Get(said, "error.param").Str == "" {
			t.Errorf("%s: %d %s", body, status, said)
		}
	}
	if _, resp, err := websocket.Dial(t.Context(), url, nil); err == nil || resp == nil || resp.StatusCode != 426 {
		t.Errorf("the WebSocket was answered with %v, %v", resp, err)
	}
	if up.Refused() != 3 || up.Count() != 0 {
		t.Errorf("%d were refused, %d calls were made", up.Refused(), up.Count())
	}
	if status, whole := call(t, http.MethodPost, url, `{"model":"m"}`); status != 200 || gjson.Get(whole, "output.1.content.0.text").Str != "a<b" {
		t.Errorf("the whole answer is %d %s", status, whole)
	}
}
