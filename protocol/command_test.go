package protocol_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/athena-hub/athena/protocol"
)

func TestEachCommandIsParsed(t *testing.T) {
	for s, want := range map[string]protocol.Command{
		`{"type":"analyze","id":"c1","request":{"code":"x","bad":1}}`: {Type: "analyze", ID: "c1", Request: json.RawMessage(`{"code":"x","bad":1}`)},
		`{"type":"subscribe","id":"c2","stream":"S","after":17}`:      {Type: "subscribe", ID: "c2", Stream: "S", After: 17},
		`{"type":"subscribe","id":"c2","stream":"S"}`:                 {Type: "subscribe", ID: "c2", Stream: "S"},
		`{"type":"unsubscribe","id":"c3","stream":"S"}`:               {Type: "unsubscribe", ID: "c3", Stream: "S"},
		`{"type":"cancel","id":"c4","stream":"S"}`:                    {Type: "cancel", ID: "c4", Stream: "S"},
		`{"type":"authenticate","id":"c5","token":"T"}`:               {Type: "authenticate", ID: "c5", Token: "T"},
		`{"type":"ping"}`:                       {Type: "ping"},
		" {\"type\":\"ping\",\n\"id\":\"c6\"} ": {Type: "ping", ID: "c6"},
	} {
		c, fatal, err := protocol.ParseCommand([]byte(s))
		if err != nil || fatal || !reflect.DeepEqual(c, want) {
			t.Errorf("%s: %+v, %v, %v", s, c, fatal, err)
		}
	}
}

func TestACommandsErrorCarriesItsIDAndOnlyNonsenseIsFatal(t *testing.T) {
	for _, c := range []struct {
		json   string
		id     string
		fatal  bool
		code   protocol.Code
		detail string
	}{
		{``, "", true, "invalid_request", "one JSON object in UTF-8"},
		{`{`, "", true, "invalid_request", "one JSON object in UTF-8"},
		{"{\"id\":\"\xff\"}", "", true, "invalid_request", "one JSON object in UTF-8"},
		{` ["ping"]`, "", true, "invalid_request", "one JSON object in UTF-8"},
		{`null`, "", true, "invalid_request", "one JSON object in UTF-8"},
		{`{"type":"ping"}{"type":"ping"}`, "", true, "invalid_request", "one JSON object in UTF-8"},
		{`{}`, "", false, "invalid_request", `field "id" is missing`},
		{` {"type":"ping","id":5}`, "", false, "invalid_request", `field "id" of the command is a number; it must be a string`},
		{`{"type":"ping","id":"` + strings.Repeat("x", 129) + `"}`, "", false, "invalid_request", `field "id" has 129 bytes, more than the limit of 128`},
		{`{"type":"nap","id":"` + strings.Repeat("x", 129) + `","x":1}`, "", false, "invalid_request", `unknown field "x"`},
		{`{"type":"nap","id":"c"}`, "c", false, "invalid_request", `field "type" is "nap"; it must be analyze, subscribe,`},
		{`{"id":"c"}`, "c", false, "invalid_request", `field "type" is ""`},
		{`{"type":"cancel","stream":"S"}`, "", false, "invalid_request", `field "id" is missing; the answer carries it`},
		{`{"type":"analyze","id":"c"}`, "c", false, "invalid_request", `field "request" is missing; "analyze" needs it`},
		{`{"type":"subscribe","id":"c"}`, "c", false, "invalid_request", `field "stream" is missing; "subscribe" needs it`},
		{`{"type":"authenticate","id":"c"}`, "c", false, "invalid_request", `field "token" is missing`},
		{`{"type":"ping","id":"c","Stream":"S"}`, "c", false, "invalid_request", `unknown field "Stream"; it is written "stream"`},
		{`{"type":"ping","id":"c","id":"d"}`, "d", false, "invalid_request", `field "id" stands in the command twice`},
		{`{"type":"subscribe","id":"c","stream":"S","after":-1}`, "c", false, "invalid_cursor", `field "after" of the command is -1; it must be a whole number from 0 on`},
		{`{"type":"subscribe","id":"c","stream":"S","after":"17"}`, "c", false, "invalid_cursor", `field "after" of the command is a string`},
		{`{"type":"subscribe","id":"c","stream":"S","after":9007199254740993}`, "c", false, "invalid_cursor", `beyond any stream`},
		{`{"type":"subscribe","id":"c","stream":5}`, "c", false, "invalid_request", `field "stream" of the command is a number; it must be a string`},
	} {
		got, fatal, err := protocol.ParseCommand([]byte(c.json))
		e, ok := errors.AsType[*protocol.Error](err)
		if !ok || fatal != c.fatal || !reflect.DeepEqual(got, protocol.Command{ID: c.id}) || e.Code != c.code || !strings.Contains(e.Detail, c.detail) {
			t.Errorf("%.80s: %+v, fatal %v, %v; want id %q, fatal %v, %s: %s", c.json, got, fatal, err, c.id, c.fatal, c.code, c.detail)
		}
	}
}

func TestMessagesHaveTheFormsOfTheWire(t *testing.T) {
	for want, v := range map[string]any{
		`{"type":"accepted","id":"c1","stream":"S"}`:            &protocol.Message{Type: protocol.MessageAccepted, ID: "c1", Stream: "S"},
		`{"type":"subscribed","id":"c2","stream":"S","head":0}`: &protocol.Message{Type: protocol.MessageSubscribed, ID: "c2", Stream: "S", Head: new(uint64(0))},
		`{"type":"unsubscribed","id":"c3","stream":"S"}`:        &protocol.Message{Type: protocol.MessageUnsubscribed, ID: "c3", Stream: "S"},
		`{"type":"pong"}`:      &protocol.Message{Type: protocol.MessagePong},
		`{"type":"heartbeat"}`: &protocol.Message{Type: protocol.MessageHeartbeat},
		`{"type":"reconnect","after_ms":0,"reason":"drain"}`:                  &protocol.Message{Type: protocol.MessageReconnect, AfterMS: new(int64(0)), Reason: "drain"},
		`{"type":"welcome","node":"n","heartbeat_ms":15000,"max_streams":64}`: &protocol.Welcome{Type: protocol.MessageWelcome, Node: "n", HeartbeatMS: 15000, MaxStreams: 64},
		`{"type":"error","id":"c","error":{"code":"forbidden","title":"This is not allowed","detail":"a <b>","status":403,"retryable":false}}`: &protocol.Message{
			Type: protocol.MessageError, ID: "c", Error: protocol.Errorf(protocol.CodeForbidden, "a <b>")},
		`{"events":[{"seq":1}],"cursor":"1","done":true}`: &protocol.Poll{Events: []json.RawMessage{json.RawMessage(`{"seq":1}`)}, Cursor: "1", Done: true},
		`{"protocol":"athena.v1","transports":[{"name":"websocket","url":"/v1/ws"},{"name":"sse","url":"/v1/events"},{"name":"long-poll","url":"/v1/events"}],` +
			`"ticket":"t","heartbeat_ms":1,"probe_timeout_ms":2,"max_streams":3}`: &protocol.Negotiation{Protocol: protocol.Version, Transports: []protocol.TransportOffer{
			{Name: protocol.TransportWebSocket, URL: "/v1/ws"}, {Name: protocol.TransportSSE, URL: "/v1/events"}, {Name: protocol.TransportLongPoll, URL: "/v1/events"}},
			Ticket: "t", HeartbeatMS: 1, ProbeTimeoutMS: 2, MaxStreams: 3},
	} {
		var b []byte
		var err error
		if m, ok := v.(*protocol.Message); ok {
			b = m.JSON()
		} else {
			b, err = json.Marshal(v)
		}
		if err != nil || string(b) != want {
			t.Errorf("%+v is %s, %v; want %s", v, b, err, want)
		}
		back := reflect.New(reflect.TypeOf(v).Elem()).Interface()
		if err := json.Unmarshal(b, back); err != nil {
			t.Errorf("%s: %v", b, err)
		}
	}
}

func TestAnErrorDoesNotRepeatALongInput(t *testing.T) {
	digits := strings.Repeat("7", 1<<20)
	command := func(text string) error { _, _, err := protocol.ParseCommand([]byte(text)); return err }
	request := func(text string) error { _, err := protocol.ParseRequest([]byte(text)); return err }
	for name, err := range map[string]error{
		"a cursor":       command(`{"type":"ping","id":"a","after":` + digits + `}`),
		"a stream":       command(`{"type":"unsubscribe","id":"a","stream":"` + digits + `"}`), // which the answer would name
		"an integer":     request(`{"code":"x","options":{"max_tokens":` + digits + `}}`),
		"a number":       request(`{"code":"x","options":{"temperature":1` + digits + `}}`),
		"a duration":     request(`{"code":"x","orphan_timeout":` + digits + `}`),
		"a field's name": request(`{"code":"x","` + digits + `":1}`),
	} {
		if err == nil {
			t.Errorf("%s of a megabyte is no error", name)
		} else if d := protocol.AsError(err).Detail; len(d) > 1000 {
			t.Errorf("the error of %s has %d bytes: %.100s", name, len(d), d)
		}
	}
}
