package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/athena-hub/athena/protocol"
)

type versionCommand struct{}

// Run prints the version.
func (versionCommand) Run(env *environment) error {
	_, err := fmt.Fprintf(env.stdout, "athena %s (protocol %s, %s, %s/%s)\n", buildVersion(), protocol.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// buildVersion is what the linker was told or, after go install, what the
// module's version is.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}
