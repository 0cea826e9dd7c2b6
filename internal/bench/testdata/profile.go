// Added to the binary by the benchmarks, where a profile is wanted. SIGUSR1
// ends the process once the profile is written.
package main

import (
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
)

func init() {
	path := os.Getenv("ATHENA_BENCH_PROFILE_FILE")
	if path == "" {
		return
	}
	f, err := os.Create(path)
	if err != nil {
		panic(err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		panic(err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	go func() {
		<-signals
		pprof.StopCPUProfile()
		f.Close()
		os.Exit(0)
	}()
}
