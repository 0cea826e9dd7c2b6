// Package proxies says where a request comes from, when there may be proxies
// in between: the client's address, and the scheme and host that it asked.
//
// It promises that nobody but a proxy of the operator's list is believed. What
// a header says counts only if the connection comes from such a proxy, and only
// as far to the left as the entries before were written by such proxies. One
// header is read and no other (CWE-348): a proxy that writes X-Forwarded-For
// passes on what its client wrote into Forwarded. The PROXY protocol is spoken
// with these proxies alone.
package proxies
