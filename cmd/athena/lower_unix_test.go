//go:build unix

package main

import "syscall"

// lower lets other processes go first.
func lower() {
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19) // else they share
}
