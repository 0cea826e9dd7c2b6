// Package gateway is Athena's face over HTTP: the resources of PROTOCOL.md,
// the page, health and metrics, and the middleware around them. Requests come
// through these, outermost first:
//
//	exchange        request id, access log, metrics, recovery from panics,
//	                a deadline for the answer
//	headers         that hold for every answer
//	bodyGuard       limit and deadline of the request's body
//	hostGuard       against DNS rebinding, on loopback without credentials
//	Origins         CORS and protection from other sites' forms
//	authentication  on the routes that need it
//
// Errors are application/problem+json. The package knows neither how analyses
// run nor how streams are transported: Analyses and Streams, which it declares,
// do that. What it promises is that no credential and no ticket gets into the
// log or an answer, that nothing from outside is without a limit, and that
// every ResponseWriter it wraps has Unwrap, so that http.ResponseController
// reaches the connection.
package gateway
