// Package interop holds the tests against foreign implementations, in both
// directions: the vendors' SDKs, which must read an upstream's answers as our
// providers do, and clients that are not ours, which must get the exact text
// from the real server: r3labs/sse, npm's eventsource and ws, net/http, and a
// headless Chromium with its own classes and with the page. The TypeScript client
// runs in Node, Deno, pages and web workers.
//
// It is a module of its own, so that what only these tests need stays out of
// the product's go.mod. The clients in JavaScript are in foreign/.
package interop
