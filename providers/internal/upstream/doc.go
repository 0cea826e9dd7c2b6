// Package upstream is what the dialects that are spoken over HTTP and
// server-sent events share: the connection to a provider, the reading of its
// event stream, the end of an answer, and what its failures are called in
// Athena. What the fields of a dialect mean is left to the dialect.
//
// Nothing here retries: one call is one request to the provider.
package upstream
