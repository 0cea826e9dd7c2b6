// Package resilience keeps a provider that fails from taking the server with
// it: a [Breaker] stops asking it and finds out when it is back, a [Bulkhead]
// bounds how much of the server it can hold and lines up who waits, a [Budget]
// keeps retries from multiplying an outage, and a [Backoff] says how long to
// wait. It knows neither providers nor requests, and reads nothing but the
// clock.
//
// It stands on github.com/eapache/go-resiliency, and adds what that lacks for
// calls that are streams, are paid for, and come from many tenants:
//
//   - Its breaker is the state machine of ours: closed or not, how many probes
//     succeeded, one failed probe opens it again. Added is what it should be
//     told, and when: a sliding window and a share of the calls in place of a
//     count of every non-nil error, slow calls, calls that say nothing, calls
//     that began before it opened, a bounded number of probes where it lets
//     everything through, a wait that grows where it has one fixed timeout.
//     It waits in a goroutine that sleeps for that timeout and can't be
//     stopped. The machine is therefore given the timeout 0, so its goroutine
//     ends as soon as it runs, and the wait is a point in time beside it. Until
//     that goroutine has run the machine says "open", and so do we: it can
//     delay a probe by a moment, never let one through early.
//   - Its retrier's sequences are the exponential backoff. Added are linear and
//     Fibonacci growth, and jitter that respects the cap. Its loop isn't used:
//     a retry here may go to another provider, asks a budget and a breaker
//     first, and is an event in the stream.
//   - Its semaphore's error is the family of [FullError], as the breaker's is
//     that of [OpenError], but not its tickets: a wait for one can't be
//     cancelled, has no order between tenants and no position, and trying
//     without waiting may fail though there is a ticket, since a timer of 0
//     and the ticket are ready in the same select.
//   - Its deadline leaves the goroutine of the late call running; contexts do
//     that work here. Its batcher merges calls, and nothing here is merged.
//
// Everything is safe for concurrent use, and nothing has to be closed.
package resilience
