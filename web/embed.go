// Package web holds the page that Athena serves, as built from client/ and ui/
// into dist/. The build is committed, so that building Athena needs no Node.
package web

import (
	"embed"
	"io/fs"
)

//go:embed all:dist
var dist embed.FS

// FS returns the page's files, with index.html at the root.
func FS() fs.FS {
	root, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // the name is a constant and valid
	}
	return root
}
