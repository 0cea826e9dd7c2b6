// Package protocol is Athena's wire, version 1: the events of a stream, the
// cursors that resume it, the commands and errors, and their encodings. What
// the words mean and what the wire promises (P1 to P7) is in README.md beside
// this file.
//
// The package does no I/O, starts no goroutine and imports nothing of
// Athena's. Servers, clients and tests in any package may use it; nothing in
// it depends on which of them does.
package protocol

// Version is the subprotocol that a WebSocket client asks for and that
// negotiation names.
const Version = "athena.v1"
