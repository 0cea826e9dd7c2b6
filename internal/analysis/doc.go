// Package analysis runs jobs. A job is one analysis of a piece of code: it
// makes the prompts, asks a provider, and another one where that doesn't
// answer, and writes what comes back to a stream, live: text as chunks, and the
// findings that a model names in its text as finding events, while the rest
// still streams.
//
// The package promises that every stream it has created, and not given to
// another node, ends with exactly one terminal event, within a bounded time,
// whatever the providers do: fail, panic, fall silent, talk without end or not
// return at all. An answer counts as completed only if the provider that gave
// it, or its end, said that it was whole.
//
// How an answer comes about, from the outside in:
//
//   - Service: starts, shares, cancels and drains jobs (service.go, share.go,
//     idempotency.go, drain.go), goes on with those of other nodes, and gives
//     its own to them (resume.go, handover.go, requests.go).
//   - job: one analysis; its goroutine ends the stream (job.go).
//   - drive: from provider to provider until the answer is whole (drive.go).
//     Who comes first is the order's matter (order.go, health.go, hints.go), what
//     follows a failure a Strategy's (recovery.go).
//   - admit: the wait until a call may be made: rate limits, a place in the
//     bulkhead, the breaker's permit (admit.go).
//   - race: the calls that are made at the same time, of which the first that
//     has content gets the floor (race.go).
//   - call: one call of one provider, with its deadlines (call.go).
//   - answer: what the clients have been told and not been told to drop
//     (answer.go, findings.go).
//
// It knows providers and the log it writes to (Streams), and nothing of
// clients and transports. Of other nodes it knows what its options' interfaces
// say: that they may find a request, share a job or go on with it. A job is
// independent of whoever started it: it ends when the answer does, when the last
// who asked for it cancels, at a deadline, or when nobody has watched it for the
// orphan timeout. It may end before its stream does: when the node is drained
// and hands it over, or when another node has taken the stream over.
package analysis
