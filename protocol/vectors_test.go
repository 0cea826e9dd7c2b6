package protocol_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

// The vectors in testdata are for every implementation of the wire; README.md
// says how to run them. Here Go runs all of them.

// vectors reads a file of testdata into v and fails on fields that v lacks, so
// that no vector goes unchecked.
func vectors(t *testing.T, file string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// input is what a vector feeds to a decoder: text, or bytes that are not text.
type input struct {
	JSON   string `json:"json"`
	Base64 []byte `json:"base64"`
}

func (in input) bytes() []byte {
	if in.Base64 != nil {
		return in.Base64
	}
	return []byte(in.JSON)
}

// same reports whether a and b are the same JSON value.
func same(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}

type eventVector struct {
	Name     string          `json:"name"`
	JSON     string          `json:"json"`
	Stream   string          `json:"stream"`
	First    uint64          `json:"first"`
	Seq      uint64          `json:"seq"`
	Type     protocol.Type   `json:"type"`
	TimeMS   int64           `json:"time_ms"`
	Terminal bool            `json:"terminal"`
	Data     json.RawMessage `json:"data"`
}

func TestVectorsOfEvents(t *testing.T) {
	var v struct {
		Canonical, Accepted []eventVector
		Invalid             []struct {
			Name string `json:"name"`
			input
		}
	}
	vectors(t, "events.json", &v)
	for i, c := range slices.Concat(v.Canonical, v.Accepted) {
		e, err := protocol.Parse([]byte(c.JSON))
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		ev, err := e.Event()
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		first, seq := ev.Covers()
		if e.First != c.First || e.Seq != c.Seq || e.Type != c.Type || e.Terminal() != c.Terminal ||
			ev.Stream != c.Stream || first != c.First || seq != c.Seq || ev.Time.UnixMilli() != c.TimeMS || !same(t, ev.Data, c.Data) {
			t.Errorf("%s: read as %+v, %s", c.Name, ev, ev.Data)
		}
		data := protocol.DataFor(c.Type)
		if data == nil {
			data = new(json.RawMessage)
			*data.(*json.RawMessage) = ev.Data
		} else if err := ev.Decode(data); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		if i >= len(v.Canonical) {
			continue
		}
		again, err := protocol.Encode(c.Stream, c.First, c.Seq, c.Type, time.UnixMilli(c.TimeMS), data)
		if err != nil || string(again.JSON) != c.JSON {
			t.Errorf("%s: encoded as\n%s (%v), want\n%s", c.Name, again.JSON, err, c.JSON)
		}
	}
	for _, c := range v.Invalid {
		if e, err := protocol.Parse(c.bytes()); err == nil {
			t.Errorf("%s: taken as %+v", c.Name, e)
		}
	}
}

// sseFrame is what an EventSource makes of one frame.
type sseFrame struct {
	Event string `json:"event"`
	ID    string `json:"id"`
	Data  string `json:"data"`
}

// readSSE is the standard's algorithm for event streams, written out.
func readSSE(body string) (frames []sseFrame, id string, retry int) {
	body = strings.TrimPrefix(body, "\ufeff")
	body = strings.ReplaceAll(strings.ReplaceAll(body, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(body, "\n")
	var event, pending string
	var data []string
	pending = id
	for _, line := range lines[:len(lines)-1] { // what follows the last line's end is no line
		if line == "" {
			id = pending
			if data != nil {
				if event == "" {
					event = "message"
				}
				frames = append(frames, sseFrame{event, id, strings.Join(data, "\n")})
			}
			event, data = "", nil
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			pending = value
		case "event":
			event = value
		case "data":
			data = append(data, value)
		case "retry":
			if n, err := strconv.Atoi(value); err == nil {
				retry = n
			}
		}
	}
	return frames, id, retry
}

func TestVectorsOfSSE(t *testing.T) {
	var v struct {
		Frames []struct {
			sseFrame
			Frame string `json:"frame"`
		}
		Responses []struct {
			Name        string     `json:"name"`
			Body        string     `json:"body"`
			Retry       int        `json:"retry"`
			LastEventID string     `json:"last_event_id"`
			Events      []sseFrame `json:"events"`
		}
	}
	vectors(t, "sse.json", &v)
	for _, c := range v.Frames {
		got := protocol.AppendSSE([]byte("before"), []byte(c.ID), c.Event, []byte(c.Data))
		if string(got) != "before"+c.Frame {
			t.Errorf("AppendSSE made %q, want %q", got[6:], c.Frame)
		}
	}
	for _, c := range v.Responses {
		frames, id, retry := readSSE(c.Body)
		if !reflect.DeepEqual(frames, c.Events) || id != c.LastEventID || retry != c.Retry {
			t.Errorf("%s: read as %+v, id %q, retry %d", c.Name, frames, id, retry)
		}
		for _, f := range frames {
			if f.Event == "message" {
				mustParse(t, f.Data)
			}
		}
	}
}

func TestVectorsOfCursors(t *testing.T) {
	type cursor struct {
		Stream string `json:"stream"`
		After  uint64 `json:"after"`
	}
	var v struct {
		StreamIDs struct{ Valid, Invalid []string } `json:"stream_ids"`
		One       struct {
			Valid []struct {
				Text  string `json:"text"`
				After uint64 `json:"after"`
			}
			Invalid []string
		}
		Several struct {
			Valid []struct {
				Text    string   `json:"text"`
				Cursors []cursor `json:"cursors"`
			}
			Invalid []string
		}
	}
	vectors(t, "cursors.json", &v)
	for _, id := range v.StreamIDs.Valid {
		if !protocol.ValidStreamID(id) {
			t.Errorf("id %q is refused", id)
		}
	}
	for _, id := range v.StreamIDs.Invalid {
		if protocol.ValidStreamID(id) {
			t.Errorf("id %q is taken", id)
		}
	}
	refused := func(text string, err error) {
		if e, ok := errors.AsType[*protocol.Error](err); !ok || e.Code != protocol.CodeInvalidCursor || e.Detail == "" {
			t.Errorf("cursor %q: %v, want invalid_cursor", text, err)
		}
	}
	for _, c := range v.One.Valid {
		if after, err := protocol.ParseSeq(c.Text); err != nil || after != c.After {
			t.Errorf("cursor %q: %d, %v", c.Text, after, err)
		}
	}
	for _, text := range v.One.Invalid {
		_, err := protocol.ParseSeq(text)
		refused(text, err)
	}
	for _, c := range v.Several.Valid {
		cs, err := protocol.ParseCursors(c.Text)
		var got []cursor
		for _, c := range cs {
			got = append(got, cursor(c))
		}
		if err != nil || !reflect.DeepEqual(got, c.Cursors) || string(protocol.AppendCursors(nil, cs)) != c.Text {
			t.Errorf("cursor %q: %+v, %v", c.Text, got, err)
		}
	}
	for _, text := range v.Several.Invalid {
		_, err := protocol.ParseCursors(text)
		refused(text, err)
	}
}

func TestVectorsOfCommands(t *testing.T) {
	var v struct {
		Valid []struct {
			Name    string           `json:"name"`
			JSON    string           `json:"json"`
			Command protocol.Command `json:"command"`
		}
		Invalid []struct {
			Name string `json:"name"`
			input
			Fatal  bool          `json:"fatal"`
			ID     string        `json:"id"`
			Code   protocol.Code `json:"code"`
			Detail string        `json:"detail"`
		}
	}
	vectors(t, "commands.json", &v)
	for _, c := range v.Valid {
		got, fatal, err := protocol.ParseCommand([]byte(c.JSON))
		if err != nil || fatal {
			t.Errorf("%s: fatal %v, %v", c.Name, fatal, err)
			continue
		}
		if (got.Request == nil) != (c.Command.Request == nil) || got.Request != nil && !same(t, got.Request, c.Command.Request) {
			t.Errorf("%s: request %s", c.Name, got.Request)
		}
		got.Request, c.Command.Request = nil, nil
		if !reflect.DeepEqual(got, c.Command) {
			t.Errorf("%s: read as %+v", c.Name, got)
		}
	}
	for _, c := range v.Invalid {
		got, fatal, err := protocol.ParseCommand(c.bytes())
		e, ok := errors.AsType[*protocol.Error](err)
		if !ok || fatal != c.Fatal || got.ID != c.ID || e.Code != c.Code || !strings.Contains(e.Detail, c.Detail) {
			t.Errorf("%s: id %q, fatal %v, %v", c.Name, got.ID, fatal, err)
		}
	}
}

func TestVectorsOfErrors(t *testing.T) {
	type full struct {
		Code         protocol.Code `json:"code"`
		Title        string        `json:"title"`
		Detail       string        `json:"detail"`
		Status       int           `json:"status"`
		Retryable    bool          `json:"retryable"`
		RetryAfterMS int64         `json:"retry_after_ms"`
		Provider     string        `json:"provider"`
	}
	type code struct {
		Code      protocol.Code `json:"code"`
		Status    int           `json:"status"`
		Retryable bool          `json:"retryable"`
		Family    string        `json:"family"`
	}
	var v struct {
		Codes   []code
		Unknown struct {
			Code   protocol.Code `json:"code"`
			Family string        `json:"family"`
		}
		Objects []struct {
			JSON  string `json:"json"`
			Error full   `json:"error"`
		}
	}
	vectors(t, "errors.json", &v)
	families := map[string]error{"network": protocol.ErrNetwork, "validation": protocol.ErrValidation, "authentication": protocol.ErrAuthentication,
		"rate limit": protocol.ErrRateLimit, "provider": protocol.ErrProvider, "server": protocol.ErrServer}
	var codes []protocol.Code
	for _, c := range v.Codes {
		codes = append(codes, c.Code)
		e := protocol.Errorf(c.Code, "x")
		if e.Status != c.Status || e.Retryable != c.Retryable || e.Title == "" || families[c.Family] == nil || !errors.Is(e, families[c.Family]) {
			t.Errorf("%s: made %+v", c.Code, e)
		}
	}
	slices.Sort(codes)
	if !slices.Equal(codes, protocol.Codes()) {
		t.Errorf("the vectors have the codes %v, the package %v", codes, protocol.Codes())
	}
	if got := v.Unknown.Code.Family(); !errors.Is(got, families[v.Unknown.Family]) {
		t.Errorf("an unknown code is a %v", got)
	}
	for _, c := range v.Objects {
		var e protocol.Error
		if err := json.Unmarshal([]byte(c.JSON), &e); err != nil {
			t.Fatal(err)
		}
		if got := (full{e.Code, e.Title, e.Detail, e.Status, e.Retryable, e.RetryAfterMS, e.Provider}); got != c.Error {
			t.Errorf("%s was read as %+v", c.JSON, got)
		}
		if b, err := json.Marshal(&e); err != nil || string(b) != c.JSON {
			t.Errorf("%s was written as %s, %v", c.JSON, b, err)
		}
	}
}

func TestVectorsOfCloseCodes(t *testing.T) {
	var v struct {
		Ranges []struct {
			From   int                  `json:"from"`
			To     int                  `json:"to"`
			Action protocol.CloseAction `json:"action"`
		}
		Codes []struct {
			Code   int                  `json:"code"`
			Name   string               `json:"name"`
			Action protocol.CloseAction `json:"action"`
		}
	}
	vectors(t, "closes.json", &v)
	for _, r := range v.Ranges {
		for code := r.From; code <= r.To; code++ {
			if got := protocol.CloseActionOf(code); got != r.Action {
				t.Errorf("%d: %s, want %s", code, got, r.Action)
			}
		}
	}
	listed := make(map[int]bool)
	for _, c := range v.Codes {
		listed[c.Code] = true
		if got := protocol.CloseActionOf(c.Code); got != c.Action {
			t.Errorf("%d (%s): %s, want %s", c.Code, c.Name, got, c.Action)
		}
	}
	for _, code := range []int{protocol.CloseDone, protocol.CloseGoingAway, protocol.ClosePolicy, protocol.CloseTooBig, protocol.CloseDrain,
		protocol.CloseTooSlow, protocol.CloseHeartbeatMissed, protocol.CloseExpired, protocol.CloseRevoked, protocol.CloseProtocolError,
		protocol.CloseForbidden, protocol.CloseLimit} {
		if !listed[code] {
			t.Errorf("%d is not in the vectors", code)
		}
	}
}

func TestVectorsOfRequests(t *testing.T) {
	type request struct {
		Code            string   `json:"code"`
		Language        string   `json:"language"`
		Filename        string   `json:"filename"`
		Analysis        string   `json:"analysis"`
		Prompt          string   `json:"prompt"`
		Provider        string   `json:"provider"`
		Model           string   `json:"model"`
		Temperature     *float64 `json:"temperature"`
		MaxTokens       int      `json:"max_tokens"`
		Reasoning       string   `json:"reasoning"`
		Hedge           *bool    `json:"hedge"`
		Degrade         *bool    `json:"degrade"`
		Cache           string   `json:"cache"`
		OrphanTimeoutMS int64    `json:"orphan_timeout_ms"`
	}
	var v struct {
		Valid []struct {
			Name    string  `json:"name"`
			JSON    string  `json:"json"`
			Request request `json:"request"`
		}
		Invalid []struct {
			Name string `json:"name"`
			input
			Code   protocol.Code `json:"code"`
			Detail string        `json:"detail"`
		}
	}
	vectors(t, "requests.json", &v)
	for _, c := range v.Valid {
		r, err := protocol.ParseRequest([]byte(c.JSON))
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		got := request{r.Code, r.Language, r.Filename, string(r.Analysis), r.Prompt, r.Provider, r.Model, r.Options.Temperature,
			r.Options.MaxTokens, r.Options.Reasoning, r.Options.Hedge, r.Options.Degrade, string(r.Cache), time.Duration(r.OrphanTimeout).Milliseconds()}
		if !reflect.DeepEqual(got, c.Request) {
			t.Errorf("%s: read as %+v", c.Name, got)
		}
	}
	for _, c := range v.Invalid {
		_, err := protocol.ParseRequest(c.bytes())
		e, ok := errors.AsType[*protocol.Error](err)
		if !ok || e.Code != c.Code || !strings.Contains(e.Detail, c.Detail) {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

func TestVectorsOfCacheKeys(t *testing.T) {
	var v []struct {
		Name      string `json:"name"`
		JSON      string `json:"json"`
		Canonical string `json:"canonical"`
		Key       string `json:"key"`
	}
	vectors(t, "cachekeys.json", &v)
	for _, c := range v {
		r, err := protocol.ParseRequest([]byte(c.JSON))
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		if got := string(protocol.Canonical(r)); got != c.Canonical {
			t.Errorf("%s: the form is\n%q, want\n%q", c.Name, got, c.Canonical)
		}
		if got := protocol.CacheKey(r); got != c.Key {
			t.Errorf("%s: the key is %s, want %s", c.Name, got, c.Key)
		}
	}
}

func TestVectorsOfTranscripts(t *testing.T) {
	type holds struct {
		Cursor    uint64          `json:"cursor"`
		Text      string          `json:"text"`
		Reasoning string          `json:"reasoning"`
		Findings  []string        `json:"findings"` // their rules
		Usage     *protocol.Usage `json:"usage"`
		Attempt   int             `json:"attempt"`
		Terminal  *protocol.Type  `json:"terminal"`
	}
	var v []struct {
		Name   string           `json:"name"`
		Events []protocol.Event `json:"events"`
		Holds  holds            `json:"holds"`
		Breaks string           `json:"breaks"`
		At     int              `json:"at"`
	}
	vectors(t, "transcripts.json", &v)
	for _, c := range v {
		var tr protocol.Transcript
		broke, at := "", 0
		for i := range c.Events {
			if err := tr.Apply(&c.Events[i]); err != nil {
				broken, ok := errors.AsType[*protocol.PromiseError](err)
				if !ok {
					t.Errorf("%s: event %d: %v", c.Name, i, err)
					break
				}
				broke, at = broken.Promise, i
				break
			}
		}
		if broke != c.Breaks || at != c.At {
			t.Errorf("%s: breaks %q at %d, want %q at %d", c.Name, broke, at, c.Breaks, c.At)
		}
		got := holds{Cursor: tr.Cursor(), Text: tr.Text(), Reasoning: tr.Reasoning(), Findings: []string{}, Usage: tr.Usage(), Attempt: tr.Started().Attempt}
		for _, f := range tr.Findings() {
			got.Findings = append(got.Findings, f.Rule)
		}
		if end := tr.Terminal(); end != nil {
			got.Terminal = &end.Type
		}
		if !reflect.DeepEqual(got, c.Holds) {
			t.Errorf("%s: holds %+v, want %+v", c.Name, got, c.Holds)
		}
	}
}

func TestVectorsOfMerges(t *testing.T) {
	var v []struct {
		Name      string   `json:"name"`
		Stream    string   `json:"stream"`
		Events    []string `json:"events"`
		Mergeable []bool   `json:"mergeable"`
		Merged    string   `json:"merged"`
	}
	vectors(t, "merges.json", &v)
	for _, c := range v {
		var run []protocol.Encoded
		for _, s := range c.Events {
			run = append(run, mustParse(t, s))
		}
		var got []bool
		for i := range run[1:] {
			got = append(got, run[i].Mergeable(&run[i+1]))
		}
		if !slices.Equal(got, c.Mergeable) {
			t.Errorf("%s: mergeable %v, want %v", c.Name, got, c.Mergeable)
		}
		if c.Merged == "" {
			continue
		}
		if m := protocol.Merge(c.Stream, run); string(m.JSON) != c.Merged {
			t.Errorf("%s: merged to\n%s, want\n%s", c.Name, m.JSON, c.Merged)
		}
	}
}
