package providertest_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// post asks up in a dialect and returns the answer with its whole body.
func post(t *testing.T, up *providertest.Upstream, d providertest.Dialect) (*http.Response, string) {
	t.Helper()
	path := "/v1/chat/completions"
	if d == providertest.Claude {
		path = "/v1/messages"
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, up.URL+path,
		strings.NewReader(`{"model":"m","stream":true,"stream_options":{"include_usage":true}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestTheWireIsTheVendors(t *testing.T) {
	script := providertest.Script{Pieces: []providertest.Piece{{Text: "a<"}}, RequestID: "req_7",
		Usage: &protocol.Usage{InputTokens: 10, OutputTokens: 2, CachedTokens: 4}}
	up := providertest.NewUpstream(t, script)

	const head = `data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1795384800,"model":"m","service_tier":"default","system_fingerprint":"fp_f33640a400",`
	want := head + `"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n" +
		head + `"choices":[{"index":0,"delta":{"content":"a<"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n" +
		head + `"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}` + "\n\n" +
		head + `"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},` +
		`"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}` + "\n\n" +
		"data: [DONE]\n\n"
	if resp, got := post(t, up, providertest.OpenAI); got != want || resp.Header.Get("X-Request-Id") != "req_7" {
		t.Errorf("OpenAI's answer is\n%s\nwant\n%s", got, want)
	}

	want = `event: message_start
data: {"type":"message_start","message":{"model":"m","id":"msg_01XFDUDYJgAACzvnptvVoYEL","type":"message","role":"assistant","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":6,"cache_creation_input_tokens":0,"cache_read_input_tokens":4,"output_tokens":1,"service_tier":"standard"}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a<"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"input_tokens":6,"cache_creation_input_tokens":0,"cache_read_input_tokens":4,"output_tokens":2,"output_tokens_details":{"thinking_tokens":0}}}

event: message_stop
data: {"type":"message_stop"}

`
	if resp, got := post(t, up, providertest.Claude); got != want || resp.Header.Get("Request-Id") != "req_7" {
		t.Errorf("Anthropic's answer is\n%s\nwant\n%s", got, want)
	}
}

func TestSteadyChunksComeAtTheirPaceWithTheirTime(t *testing.T) {
	const chunks, interval = 20, 5 * time.Millisecond
	for _, d := range []providertest.Dialect{providertest.OpenAI, providertest.Claude} {
		up := providertest.NewUpstream(t, providertest.Script{Steady: providertest.Steady{Chunks: chunks, Interval: interval, Bytes: 40, Stamp: true}})
		begin := time.Now()
		_, body := post(t, up, d)
		if took := time.Since(begin); took < (chunks-1)*interval {
			t.Errorf("%s: %d chunks took %v, want at least %v", d, chunks, took, (chunks-1)*interval)
		}
		var last time.Time
		n := 0
		for line := range strings.Lines(body) {
			at := strings.Index(line, "xxxxxxxxxxxxxxxxxxxx")
			if at < 0 {
				continue
			}
			n++
			stamp, ok := providertest.StampTime(line[at-providertest.StampBytes : at+20])
			if !ok || stamp.Before(last) || stamp.Before(begin) || time.Since(stamp) > time.Minute {
				t.Errorf("%s: chunk %d has the time %v after %v, in %s", d, n, stamp, last, line)
			}
			last = stamp
		}
		call := up.Calls()[0]
		if n != chunks || call.Pieces() != chunks || !call.Complete() {
			t.Errorf("%s: %d chunks came and %d were written, want %d", d, n, call.Pieces(), chunks)
		}
	}
}

func TestScriptsInTheQueueComeFirst(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("always")})
	up.Enqueue(providertest.Script{Pieces: providertest.Texts("first")}, providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: 503}})
	if _, body := post(t, up, providertest.OpenAI); !strings.Contains(body, `"first"`) {
		t.Errorf("the first answer is %s", body)
	}
	if resp, _ := post(t, up, providertest.OpenAI); resp.StatusCode != 503 {
		t.Errorf("the second answer has the status %d", resp.StatusCode)
	}
	for range 2 {
		if _, body := post(t, up, providertest.OpenAI); !strings.Contains(body, `"always"`) {
			t.Errorf("a later answer is %s", body)
		}
	}
	if n := up.Count(); n != 4 || len(up.Calls()) != 4 {
		t.Errorf("%d calls were counted, want 4", n)
	}
}

func TestAClientThatLeavesIsNoted(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("a", "b"), Fault: providertest.Fault{Kind: providertest.FaultStall, After: 1}})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, up.URL+"/v1/messages", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	call, err := up.WaitCall(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := call.WaitPieces(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = resp.Body.Close()
	select {
	case <-call.HungUp():
	case <-time.After(20 * time.Second):
		t.Fatal("the upstream did not note that its client left")
	}
	<-call.Done()
	if call.Complete() || call.HungUpAt().IsZero() || call.Pieces() != 1 {
		t.Errorf("complete %v, left at %v, %d pieces", call.Complete(), call.HungUpAt(), call.Pieces())
	}
}

func TestCloseEndsWhatHangs(t *testing.T) {
	up, err := providertest.StartUpstream(providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultSilence}})
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		resp, err := http.Post(up.URL+"/v1/messages", "application/json", strings.NewReader(`{}`))
		if err == nil {
			_ = resp.Body.Close()
		}
		failed <- err
	}()
	call, err := up.WaitCall(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	up.Close()
	if err := <-failed; err == nil {
		t.Error("the silent call was answered")
	}
	select {
	case <-call.HungUp():
		t.Error("closing was noted as the client's leaving")
	default:
	}
}

func TestAReplySeesWhatIsAsked(t *testing.T) {
	u := providertest.NewUpstream(t, providertest.Script{Pieces: providertest.Texts("scripted")})
	u.SetReply(func(c *providertest.Call) providertest.Script {
		return providertest.Script{Pieces: providertest.Texts("you said: " + c.Turns()[0].Text)}
	})
	u.Enqueue(providertest.Script{Pieces: providertest.Texts("queued")})
	for _, want := range []string{`"queued"`, `"you said: hello"`} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, u.URL+"/v1/chat/completions",
			strings.NewReader(`{"stream":true,"messages":[{"role":"user","content":"hello"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(body), `"content":`+want) {
			t.Errorf("the answer is %s, without %s", body, want)
		}
	}
}
