//go:build !race

package main

// raceEnabled says that the nodes run with the race detector, as the tests do.
const raceEnabled = false
