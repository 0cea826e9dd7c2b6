// Package telemetry is what operators see of a server: its log and its
// metrics. It has no globals, so that tests and several servers in one process
// don't meet: a Logger is made by NewLogger, and Metrics have a registry of
// their own.
//
// The methods of Metrics are shaped so that the packages that report can
// declare small interfaces of their own, which Metrics then satisfies; this
// package imports none of them.
package telemetry
