//go:build race

package interop_test

// raceEnabled says that the server is built with the race detector, too.
const raceEnabled = true
