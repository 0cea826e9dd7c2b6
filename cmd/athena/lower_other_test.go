//go:build !unix

package main

func lower() {}
