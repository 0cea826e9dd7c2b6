// Package secrets keeps the keys that Athena calls AI providers with: where they
// come from, how they lie at rest, and which of several is used for a call.
//
// A Key is the text itself, which prints as nothing and can be wiped. A Ring has
// the keys of one provider and hands them out by weight, leaving out those that
// the provider has refused or put off. The sources fill rings: a File that is
// read again when it changes, Vault, and the Store, whose records are sealed
// under a master key (see Seal) before they leave this process.
//
// What Go does not allow is promised nowhere: a header is a string, and strings
// can't be wiped. So a copy of a key lives for as long as a call and until the
// garbage collector has come round; the Ring's own is wiped when the key is
// replaced, removed or the server ends. Go 1.26's runtime/secret would clear more,
// but is there only with GOEXPERIMENT=runtimesecret, which nothing here relies on.
//
// The package knows neither providers nor the bus. Who uses it brings the calls
// (a Check, a Bucket) along.
package secrets
