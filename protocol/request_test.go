package protocol_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/protocol"
)

func TestARequestGetsItsDefaults(t *testing.T) {
	for s, want := range map[string]protocol.Request{
		`{"code":"x"}`: {Code: "x", Analysis: "review", Provider: "auto", Cache: "use"},
		`{"code":"x","language":null,"options":null,"orphan_timeout":null}`: {Code: "x", Analysis: "review", Provider: "auto", Cache: "use"},
		` {"code":"x","analysis":"custom","prompt":"why?","provider":"claude","model":"m","language":"go","filename":"a/b.go",` +
			`"options":{"temperature":2,"max_tokens":1048576,"reasoning":"high"},"cache":"bypass","orphan_timeout":"1m30s"}` + "\n": {
			Code: "x", Analysis: "custom", Prompt: "why?", Provider: "claude", Model: "m", Language: "go", Filename: "a/b.go",
			Options: protocol.RequestOptions{Temperature: new(2.0), MaxTokens: 1 << 20, Reasoning: "high"},
			Cache:   "bypass", OrphanTimeout: protocol.Duration(90 * time.Second)},
	} {
		r, err := protocol.ParseRequest([]byte(s))
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if !reflect.DeepEqual(*r, want) {
			t.Errorf("%s: parsed as %+v, want %+v", s, *r, want)
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := protocol.ParseRequest(b); err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%s came back from %s as %+v, %v", s, b, again, err)
		}
	}
}

func TestAnInvalidRequestIsToldWhatIsWrongAndWhatWouldBeRight(t *testing.T) {
	for _, c := range []struct{ json, detail string }{
		{``, `the request ends before its JSON object does`},
		{`{"code":`, `the request ends before its JSON object does`},
		{`{"code":"x",}`, `the request is not valid JSON: invalid character '}' looking for beginning of object key string at byte 13`},
		{`{"code":"x"} {}`, `the request has something after its JSON object`},
		{`{"code":"x"}]`, `the request has something after its JSON object`},
		{"{\"code\":\"\xff\"}", `the request is not UTF-8`},
		{strings.Repeat("[", 20000), `the request is not valid JSON: invalid character '[' exceeded max depth`},
		{`null`, `the request is null; it must be a JSON object`},
		{`[]`, `the request is an array; it must be a JSON object`},
		{`"code"`, `the request is a string; it must be a JSON object`},
		{`5`, `the request is a number; it must be a JSON object`},
		{`true`, `the request is true or false; it must be a JSON object`},
		{`{"code":"x","colour":1}`, `the request has an unknown field "colour"; known are code, language, filename, analysis, prompt, provider, model, options, cache, orphan_timeout`},
		{`{"Code":"x"}`, `the request has an unknown field "Code"; it is written "code"`},
		{`{"code":"x","options":{"MAX_TOKENS":1}}`, `the request has an unknown field "options.MAX_TOKENS"; it is written "options.max_tokens"`},
		{`{"code":"x","options":{"top_k":1}}`, `the request has an unknown field "options.top_k"; known are temperature, max_tokens, reasoning`},
		{`{"code":"x","cod\u0065":"y"}`, `field "code" stands in the request twice`},
		{`{"code":"x","options":{"reasoning":"low","reasoning":"off"}}`, `field "options.reasoning" stands in the request twice`},
		{`{"code":5}`, `field "code" of the request is a number; it must be a string`},
		{`{"code":["x"]}`, `field "code" of the request is an array; it must be a string`},
		{`{"code":true}`, `field "code" of the request is true or false; it must be a string`},
		{`{"code":"x","options":"fast"}`, `field "options" of the request is a string; it must be an object`},
		{`{"code":"x","options":{"temperature":"hot"}}`, `field "options.temperature" of the request is a string; it must be a number`},
		{`{"code":"x","options":{"max_tokens":{}}}`, `field "options.max_tokens" of the request is an object; it must be a whole number`},
		{`{"code":"x","options":{"max_tokens":1.5}}`, `field "options.max_tokens" of the request is 1.5; it must be a whole number`},
		{`{"code":"x","options":{"temperature":1e999}}`, `field "options.temperature" of the request is 1e999; it must be a number`},
		{`{}`, `field "code" is missing or empty; it must be the text to analyse`},
		{`{"code":" \n"}`, `field "code" is missing or empty`},
		{`{"code":"x","analysis":"magic"}`, `field "analysis" is "magic"; it must be one of security, bugs, performance, review, explain, deobfuscate, custom`},
		{`{"code":"x","analysis":"custom"}`, `field "prompt" is missing; the analysis "custom" needs it`},
		{`{"code":"x","prompt":"why?"}`, `field "prompt" is only for the analysis "custom"; this one is "review"`},
		{`{"code":"x","analysis":"custom","prompt":"` + strings.Repeat("x", 16<<10+1) + `"}`, `field "prompt" has 16385 bytes, more than the limit of 16384`},
		{`{"code":"x","language":"` + strings.Repeat("x", 257) + `"}`, `field "language" has 257 bytes, more than the limit of 256`},
		{`{"code":"x","filename":"` + strings.Repeat("x", 1025) + `"}`, `field "filename" has 1025 bytes, more than the limit of 1024`},
		{`{"code":"x","provider":"a\u0000b"}`, `field "provider" has a control character in it`},
		{`{"code":"x","model":"a\nb"}`, `field "model" has a control character in it`},
		{`{"code":"x","options":{"temperature":2.1}}`, `field "options.temperature" is 2.1; it must be from 0 to 2`},
		{`{"code":"x","options":{"max_tokens":-1}}`, `field "options.max_tokens" is -1; it must be from 1 to 1048576`},
		{`{"code":"x","options":{"reasoning":"much"}}`, `field "options.reasoning" is "much"; it must be off, low, medium or high`},
		{`{"code":"x","cache":"yes"}`, `field "cache" is "yes"; it must be use, refresh or bypass`},
		{`{"code":"x","orphan_timeout":90}`, `field "orphan_timeout" of the request: 90 is not a duration; write it as text with a unit, such as "90s"`},
		{`{"code":"x","orphan_timeout":{}}`, `field "orphan_timeout" of the request: {} is not a duration`},
		{`{"code":"x","orphan_timeout":"soon"}`, `field "orphan_timeout" of the request: "soon" is not a duration, such as "90s" or "2m"`},
		{`{"code":"x","orphan_timeout":"-5s"}`, `field "orphan_timeout" is -5s; it must not be negative`},
	} {
		r, err := protocol.ParseRequest([]byte(c.json))
		e, ok := errors.AsType[*protocol.Error](err)
		if !ok || e.Code != protocol.CodeInvalidRequest || r != nil || !strings.Contains(e.Detail, c.detail) {
			t.Errorf("%.80s:\n got %v\nwant %s", c.json, err, c.detail)
		}
	}
}

func TestADurationIsText(t *testing.T) {
	b, err := json.Marshal(protocol.Duration(90 * time.Second))
	if err != nil || string(b) != `"1m30s"` {
		t.Errorf("%s, %v", b, err)
	}
	var d protocol.Duration
	if err := json.Unmarshal([]byte(`"2m"`), &d); err != nil || d != protocol.Duration(2*time.Minute) {
		t.Errorf("%v, %v", d, err)
	}
}
