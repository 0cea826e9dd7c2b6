// Package providertest is what tests need of providers: the contract that
// every provider passes, and Upstream, a server on the loopback that speaks
// the real wire formats and misbehaves as it is told.
//
// An Upstream follows a Script for each call:
//
//	up := providertest.NewUpstream(t, providertest.Script{
//		Pieces: providertest.Texts("Hello, ", "world"),
//		Usage:  &protocol.Usage{InputTokens: 7, OutputTokens: 2},
//		Fault:  providertest.Fault{Kind: providertest.FaultCut, After: 1},
//	})
//
// The same Upstream answers in both dialects at the same time, each at its own
// paths. Programs that are no tests use StartUpstream.
package providertest
