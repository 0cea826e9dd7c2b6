// Package bench measures what Athena costs beside a floor: a bare loop over the
// same libraries that encodes each event once, hands the bytes to each client's
// goroutine through a channel, and writes. It holds tests and benchmarks only.
//
// Each server is a process of its own, the test binary started again, so that
// its CPU time and memory are counted apart from those of the clients, which
// live in the process of the benchmark. What is compared is CPU time, not time:
// floor and Athena take turns, each turn gives one ratio, and the median of the
// ratios is what a target is held against. So other work on the machine
// disturbs both alike, though it never quite vanishes.
//
//	go test ./internal/bench                       # that every harness works, in seconds
//	go test ./internal/bench -run '^$' -bench .    # the figures, in minutes
//
// What several nodes cost is measured on clusters of the binary, all on one
// machine; the floor is then the node that runs the streams, or one that is
// alone.
//
// CPU time and memory of the servers are read from /proc, so there is nothing
// here for systems other than Linux.
//
// ATHENA_BENCH_PROFILE=DIR writes a CPU profile of each server process to DIR.
package bench
