package protocol

// AppendSSE appends one frame of an event stream: id and event are left out
// where they are empty, and data must be one line, as all JSON of this package
// is. Unnamed frames (event "") reach EventSource's onmessage.
//
// https://html.spec.whatwg.org/multipage/server-sent-events.html
func AppendSSE(b, id []byte, event string, data []byte) []byte {
	if len(id) > 0 {
		b = append(b, "id: "...)
		b = append(b, id...)
		b = append(b, '\n')
	}
	if event != "" {
		b = append(b, "event: "...)
		b = append(b, event...)
		b = append(b, '\n')
	}
	b = append(b, "data: "...)
	b = append(b, data...)
	return append(b, "\n\n"...)
}
