// Package hub delivers streams to clients. It keeps one log per watched stream
// and node, a Feed, and each subscription is a cursor into it: an append stores
// the event once and wakes the sessions that watch; a session that is woken
// takes everything behind its cursors, merges what may be merged (P3), and
// writes it as one message. So there is no queue per client. A client that
// keeps up gets each event at once, a slow one fewer and larger messages, and
// what it lags behind costs no memory of its own.
//
// Invariants:
//
//   - An appender never waits for a socket, nor for a lock that is held during
//     a write.
//   - A session has at most one writer at a time, and none while it is idle: one
//     of the hub's few workers for what needs no waiting, else a goroutine of
//     its own.
//   - What a client got is known only to the client. A session's cursors say
//     what was written to its connection; whoever reconnects brings its own.
//   - A feed's window is contiguous, and a cursor before it is served from the
//     Source's history, never skipped.
//
// The package knows the three transports and nothing of where events come
// from: not NATS, not providers, not analyses. Those who make or fetch events
// reach it through Feeds and Source; what clients ask for goes to Commands.
package hub
