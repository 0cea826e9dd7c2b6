package protocol

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// A CommandType names what a WebSocket client asks for.
type CommandType string

// The commands of a WebSocket client.
const (
	CommandAnalyze      CommandType = "analyze"
	CommandSubscribe    CommandType = "subscribe"
	CommandUnsubscribe  CommandType = "unsubscribe"
	CommandCancel       CommandType = "cancel"
	CommandAuthenticate CommandType = "authenticate"
	CommandPing         CommandType = "ping"
)

// MaxCommandIDBytes bounds the id that a client gives a command.
const MaxCommandIDBytes = 128

// A Command is one message of a WebSocket client.
type Command struct {
	Type CommandType `json:"type"`
	// ID comes back in the answer. Only ping may leave it out.
	ID      string          `json:"id,omitempty"`
	Stream  string          `json:"stream,omitempty"`
	After   uint64          `json:"after,omitempty"`
	Request json.RawMessage `json:"request,omitempty"`
	Token   string          `json:"token,omitempty"`
}

// ParseCommand decodes and checks one message. Where it fails and the message
// is an object with an id, the returned command carries that id, so that the
// error can be answered; where fatal is true the message is no command at all,
// and the connection should be closed with CloseProtocolError.
func ParseCommand(b []byte) (c Command, fatal bool, err error) {
	if !utf8.Valid(b) || !json.Valid(b) || !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{")) {
		return Command{}, true, Errorf(CodeInvalidRequest, "a message must be one JSON object in UTF-8")
	}
	if err := unmarshalStrict(b, "command", &c); err != nil {
		var id struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(b, &id) == nil && len(id.ID) <= MaxCommandIDBytes {
			return Command{ID: id.ID}, false, err
		}
		return Command{}, false, err
	}
	if len(c.ID) > MaxCommandIDBytes {
		return Command{}, false, Errorf(CodeInvalidRequest, `field "id" has %d bytes, more than the limit of %d`, len(c.ID), MaxCommandIDBytes)
	}
	if err := c.validate(); err != nil {
		return Command{ID: c.ID}, false, err
	}
	return c, false, nil
}

func (c *Command) validate() error {
	if c.ID == "" && c.Type != CommandPing {
		return Errorf(CodeInvalidRequest, `field "id" is missing; the answer carries it`)
	}
	if c.After > MaxSeq {
		return Errorf(CodeInvalidCursor, `field "after" is %d, beyond any stream`, c.After)
	}
	if len(c.Stream) > MaxCommandIDBytes { // the answer carries it, too
		return Errorf(CodeInvalidRequest, `field "stream" has %d bytes, more than the limit of %d`, len(c.Stream), MaxCommandIDBytes)
	}
	switch c.Type {
	case CommandAnalyze:
		if len(c.Request) == 0 {
			return Errorf(CodeInvalidRequest, `field "request" is missing; %q needs it`, c.Type)
		}
	case CommandSubscribe, CommandUnsubscribe, CommandCancel:
		if c.Stream == "" {
			return Errorf(CodeInvalidRequest, `field "stream" is missing; %q needs it`, c.Type)
		}
	case CommandAuthenticate:
		if c.Token == "" {
			return Errorf(CodeInvalidRequest, `field "token" is missing; %q needs it`, c.Type)
		}
	case CommandPing:
	default:
		return Errorf(CodeInvalidRequest, `field "type" is %.60q; it must be analyze, subscribe, unsubscribe, cancel, authenticate or ping`, c.Type)
	}
	return nil
}

// The types of a server's WebSocket messages beside events, which have a type
// of their own and a stream.
const (
	MessageWelcome      = "welcome"
	MessageAccepted     = "accepted"
	MessageSubscribed   = "subscribed"
	MessageUnsubscribed = "unsubscribed"
	MessageError        = "error"
	MessageReconnect    = "reconnect"
	MessageHeartbeat    = "heartbeat"
	MessagePong         = "pong"
	// MessageCache tells of another generation of cached answers.
	MessageCache = "cache"
)

// A Message is what a server says on a WebSocket beside events. Which fields
// are set depends on the type.
type Message struct {
	Type   string `json:"type"`
	ID     string `json:"id,omitempty"`
	Stream string `json:"stream,omitempty"`
	// Head is the newest seq of the stream that was subscribed to.
	Head *uint64 `json:"head,omitempty"`
	// AfterMS says when to reconnect; the server's jitter is in it.
	AfterMS *int64 `json:"after_ms,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Error   *Error `json:"error,omitempty"`
	// Cache is the generation that a MessageCache tells of.
	Cache string `json:"cache,omitempty"`
}

// JSON encodes m.
func (m *Message) JSON() []byte {
	b, err := marshal(m)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return b
}

// Welcome is the first message on a WebSocket and, without its type, the data
// of the welcome event on SSE.
type Welcome struct {
	Type        string `json:"type,omitempty"`
	Node        string `json:"node"`
	HeartbeatMS int64  `json:"heartbeat_ms"`
	MaxStreams  int    `json:"max_streams"`
	// Cache is the generation of cached answers: those of another one are not to
	// be given any more. "" where nothing is said of it.
	Cache string `json:"cache,omitempty"`
}

// Poll is the answer to a long-poll.
type Poll struct {
	Events []json.RawMessage `json:"events"`
	// Cursor is what to ask after next: "42" for one stream, "A:42,B:3" for
	// several.
	Cursor string `json:"cursor"`
	// Done says that every stream has ended and nothing will follow.
	Done bool `json:"done"`
	// RetryAfterMS is when to ask next, in milliseconds, where the node shuts down
	// and another one is to be asked; 0 for at once.
	RetryAfterMS int64 `json:"retry_after_ms,omitempty"`
	// Cache is as in Welcome.
	Cache string `json:"cache,omitempty"`
}

// Negotiation is the answer of POST /v1/negotiate.
type Negotiation struct {
	Protocol string `json:"protocol"`
	// Transports are to be tried in this order.
	Transports     []TransportOffer `json:"transports"`
	Ticket         string           `json:"ticket,omitempty"`
	HeartbeatMS    int64            `json:"heartbeat_ms"`
	ProbeTimeoutMS int64            `json:"probe_timeout_ms"`
	MaxStreams     int              `json:"max_streams"`
	// Cache is as in Welcome.
	Cache string `json:"cache,omitempty"`
}

// The names of the transports.
const (
	TransportWebSocket = "websocket"
	TransportSSE       = "sse"
	TransportLongPoll  = "long-poll"
)

// A TransportOffer is one transport that a client may try.
type TransportOffer struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}
