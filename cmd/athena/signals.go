package main

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyInterrupts returns the signals that ask the program to end: two, since
// a second one is asked for in earnest.
func notifyInterrupts() (interrupts <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	return c, func() { signal.Stop(c) }
}
