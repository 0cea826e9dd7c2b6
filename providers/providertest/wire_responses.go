package providertest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/athena-hub/athena/protocol"
)

// responsesWire is OpenAI's Responses. Its events are the same over server-sent
// events and WebSocket, where their data are the messages.
type responsesWire struct {
	id, model string
	// from is the number of the first event to write: what comes before was
	// read already.
	from int
	seq  int
	// keep is whether the texts are repeated at the end, as the vendor does. The
	// chunks of a Steady answer are too many.
	keep       bool
	background bool

	items []responsesItem // the last is open while open is set
	open  bool
	last  string // the terminal event
}

// responsesItem is an item of the output.
type responsesItem struct {
	kind PieceKind
	text strings.Builder
}

func newResponsesWire(id, model string, background, keep bool) *responsesWire {
	return &responsesWire{id: id, model: model, background: background, keep: keep}
}

// event appends an event; data begins behind its type and number.
func (w *responsesWire) event(b []byte, name, data string) []byte {
	n := w.seq
	w.seq++
	if n < w.from {
		return b
	}
	b = append(b, "event: "+name+"\ndata: {\"type\":\""+name+"\",\"sequence_number\":"...)
	b = strconv.AppendInt(b, int64(n), 10)
	return append(append(append(b, ','), data...), "}\n\n"...)
}

// response is the response object as it is now.
func (w *responsesWire) response(status, failure, incomplete string, usage *protocol.Usage) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"id":%s,"object":"response","created_at":1795384800,"status":%s,"background":%v,"error":%s,"incomplete_details":%s,`+
		`"instructions":null,"max_output_tokens":null,"model":%s,"output":[`, quote(w.id), quote(status), w.background, failure, incomplete, quote(w.model))
	if status != "in_progress" && status != "queued" {
		for i := range w.items {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(w.item(i, "completed"))
		}
	}
	b.WriteString(`],"parallel_tool_calls":true,"previous_response_id":null,"reasoning":{"effort":null,"summary":null},"store":false,"temperature":1.0,` +
		`"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_p":1.0,"truncation":"disabled","usage":`)
	if usage == nil {
		b.WriteString("null")
	} else {
		fmt.Fprintf(&b, `{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d},"output_tokens":%d,"output_tokens_details":{"reasoning_tokens":%d},"total_tokens":%d}`,
			usage.InputTokens, usage.CachedTokens, usage.OutputTokens, usage.ReasoningTokens, usage.InputTokens+usage.OutputTokens)
	}
	b.WriteString(`,"user":null,"metadata":{}}`)
	return b.String()
}

func (w *responsesWire) itemID(i int) string {
	return quote([]string{"msg_", "rs_", "fc_"}[w.items[i].kind] + "67ccd3acc8d48190a77525dc6de64b4104becb25c45c1d4" + strconv.Itoa(i))
}

// item is the i-th item of the output, without its text while it is made.
func (w *responsesWire) item(i int, status string) string {
	text := ""
	if status == "completed" {
		text = w.items[i].text.String()
	}
	switch w.items[i].kind {
	case PieceReasoning:
		summary := ""
		if status == "completed" {
			summary = `{"type":"summary_text","text":` + quote(text) + `}`
		}
		return fmt.Sprintf(`{"id":%s,"type":"reasoning","summary":[%s]}`, w.itemID(i), summary)
	case PieceTool:
		return fmt.Sprintf(`{"id":%s,"type":"function_call","status":%s,"arguments":%s,"call_id":"call_1QTqT5kJHEOSYb2dq4bcUS1o","name":"report"}`,
			w.itemID(i), quote(status), quote(text))
	}
	content := ""
	if status == "completed" {
		content = outputText(text)
	}
	return fmt.Sprintf(`{"id":%s,"type":"message","status":%s,"content":[%s],"role":"assistant"}`, w.itemID(i), quote(status), content)
}

func outputText(text string) string {
	return `{"type":"output_text","annotations":[],"logprobs":[],"text":` + quote(text) + `}`
}

func (w *responsesWire) begin(b []byte) []byte {
	r := `"response":` + w.response("in_progress", "null", "null", nil)
	b = w.event(b, "response.created", r)
	return w.event(b, "response.in_progress", r)
}

// place says of what an event is, for an event of the open item.
func (w *responsesWire) place() string {
	i := len(w.items) - 1
	s := `"item_id":` + w.itemID(i) + `,"output_index":` + strconv.Itoa(i)
	switch w.items[i].kind {
	case PieceReasoning:
		s += `,"summary_index":0`
	case PieceText:
		s += `,"content_index":0`
	}
	return s
}

func (w *responsesWire) piece(b []byte, p Piece) []byte {
	if !w.open || w.items[len(w.items)-1].kind != p.Kind {
		b = w.closeItem(b)
		w.items = append(w.items, responsesItem{kind: p.Kind})
		w.open = true
		i := len(w.items) - 1
		b = w.event(b, "response.output_item.added", fmt.Sprintf(`"output_index":%d,"item":%s`, i, w.item(i, "in_progress")))
		switch p.Kind {
		case PieceReasoning:
			b = w.event(b, "response.reasoning_summary_part.added", w.place()+`,"part":{"type":"summary_text","text":""}`)
		case PieceText:
			b = w.event(b, "response.content_part.added", w.place()+`,"part":`+outputText(""))
		}
	}
	if w.keep {
		w.items[len(w.items)-1].text.WriteString(p.Text)
	}
	delta := w.place() + `,"delta":` + quote(p.Text)
	switch p.Kind {
	case PieceReasoning:
		return w.event(b, "response.reasoning_summary_text.delta", delta)
	case PieceTool:
		return w.event(b, "response.function_call_arguments.delta", delta)
	}
	return w.event(b, "response.output_text.delta", delta+`,"logprobs":[]`)
}

// closeItem ends the open item, and repeats its text as often as the vendor.
func (w *responsesWire) closeItem(b []byte) []byte {
	if !w.open {
		return b
	}
	w.open = false
	i := len(w.items) - 1
	text, place := quote(w.items[i].text.String()), w.place()
	switch w.items[i].kind {
	case PieceReasoning:
		b = w.event(b, "response.reasoning_summary_text.done", place+`,"text":`+text)
		b = w.event(b, "response.reasoning_summary_part.done", place+`,"part":{"type":"summary_text","text":`+text+`}`)
	case PieceTool:
		b = w.event(b, "response.function_call_arguments.done", place+`,"arguments":`+text)
	default:
		b = w.event(b, "response.output_text.done", place+`,"text":`+text+`,"logprobs":[]`)
		b = w.event(b, "response.content_part.done", place+`,"part":`+outputText(w.items[i].text.String()))
	}
	return w.event(b, "response.output_item.done", fmt.Sprintf(`"output_index":%d,"item":%s`, i, w.item(i, "completed")))
}

// ping is what the vendor sends over a connection on which nothing else comes.
func (w *responsesWire) ping(b []byte) []byte {
	if w.seq < w.from {
		return b
	}
	return append(b, "event: keepalive\ndata: {\"type\":\"keepalive\"}\n\n"...)
}

// finish ends the last item; why the answer ended, only the last event says.
func (w *responsesWire) finish(b []byte, reason string, usage *protocol.Usage) []byte {
	b = w.closeItem(b)
	w.last = w.final(reason, usage)
	return b
}

// final is the response object of an answer that has ended: completed, or for
// another reason incomplete.
func (w *responsesWire) final(reason string, usage *protocol.Usage) string {
	if reason == "" || reason == "completed" {
		return w.response("completed", "null", "null", usage)
	}
	return w.response("incomplete", "null", `{"reason":`+quote(reason)+`}`, usage)
}

func (w *responsesWire) end(b []byte) []byte {
	name := "response.completed"
	if strings.Contains(w.last, `"status":"incomplete","background":`) {
		name = "response.incomplete"
	}
	return w.event(b, name, `"response":`+w.last)
}

func (w *responsesWire) malformed(b []byte, data string) []byte {
	if data == "" {
		data = `{"type":"response.output_text.delta","sequence_number":` + strconv.Itoa(w.seq) + `,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"garb`
	}
	return append(b, "event: response.output_text.delta\ndata: "+data+"\n\n"...)
}

// failure is response.failed for the codes that the vendor has for it, and else
// an error event.
func (w *responsesWire) failure(b []byte, code, message string) []byte {
	switch code {
	case "server_error", "rate_limit_exceeded", "invalid_prompt":
		failed := w.response("failed", `{"code":`+quote(code)+`,"message":`+quote(message)+`}`, "null", nil)
		return w.event(b, "response.failed", `"response":`+failed)
	}
	return w.event(b, "error", `"code":`+quote(code)+`,"message":`+quote(message)+`,"param":null`)
}
