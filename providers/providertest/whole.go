package providertest

import (
	"fmt"
	"net/http"
	"strings"
)

// whole answers a call that asks for no stream: with one JSON object, after the
// time that all its pieces take. The faults strike as they do in a stream, as
// far as there is a middle to strike in.
func (p *performance) whole() {
	s := p.script
	if w, ok := p.wire.(*responsesWire); ok && w.background { // made from now on
		p.call.finished()
		answerStatus(p.w, http.StatusOK, w.response("queued", "null", "null", nil))
		return
	}
	for i, piece := range s.Pieces {
		if s.Fault.Kind == FaultStall && i == s.Fault.After {
			break
		}
		pause := piece.After
		if s.Fault.Kind == FaultCrawl && i >= s.Fault.After {
			pause = s.Fault.Interval
		}
		if !p.wait(pause) {
			return
		}
		p.call.wrote()
	}
	body := p.wholeBody()
	status := http.StatusOK
	switch s.Fault.Kind {
	case FaultMute, FaultStall:
		p.hold()
		return
	case FaultError:
		status, body = http.StatusInternalServerError, wholeFailure(s.Fault)
	case FaultMalformed:
		if body = s.Fault.Body; body == "" {
			body = `{"object":`
		}
	case FaultCut, FaultEnd:
		half := body[:len(body)/2]
		p.w.Header().Set("Content-Type", "application/json")
		if s.Fault.Kind == FaultCut {
			p.w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		}
		p.write([]byte(half))
		p.call.finished()
		if s.Fault.Kind == FaultCut {
			panic(http.ErrAbortHandler)
		}
		return
	}
	p.call.finished()
	answerStatus(p.w, status, body)
}

// wholeBody is the answer as one object.
func (p *performance) wholeBody() string {
	s := p.script
	if w, ok := p.wire.(*responsesWire); ok {
		for _, piece := range s.Pieces {
			w.piece(nil, piece)
		}
		w.open = false
		return w.final(s.Finish, s.Usage)
	}
	w := p.wire.(*openAIWire) //nolint:forcetypeassert // Anthropic's dialect is always streamed here
	finish := s.Finish
	if finish == "" {
		finish = "stop"
	}
	message := `"content":` + quote(Joined(s.Pieces, PieceText))
	if thought := Joined(s.Pieces, PieceReasoning); thought != "" {
		message += `,"reasoning_content":` + quote(thought)
	}
	if tool := Joined(s.Pieces, PieceTool); tool != "" {
		message += `,"tool_calls":[{"id":"call_1QTqT5kJHEOSYb2dq4bcUS1o","type":"function","function":{"name":"report","arguments":` + quote(tool) + `}}]`
	}
	usage := ""
	if u := s.Usage; u != nil {
		usage = fmt.Sprintf(`,"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d},`+
			`"completion_tokens_details":{"reasoning_tokens":%d}}`, u.InputTokens, u.OutputTokens, u.InputTokens+u.OutputTokens, u.CachedTokens, u.ReasoningTokens)
	}
	return strings.Replace(w.head, "chat.completion.chunk", "chat.completion", 1) +
		`,"choices":[{"index":0,"message":{"role":"assistant",` + message + `,"refusal":null},"logprobs":null,"finish_reason":` + quote(finish) + `}]` + usage + `}`
}

func wholeFailure(f Fault) string {
	code, message := f.words()
	return fmt.Sprintf(`{"error":{"message":%s,"type":%s,"param":null,"code":null}}`, quote(message), quote(code))
}

// words are what FaultError says.
func (f Fault) words() (code, message string) {
	code, message = f.Code, f.Body
	if code == "" {
		code = "overloaded_error"
	}
	if message == "" {
		message = "Overloaded"
	}
	return code, message
}
