/**
 * Athena's client: starts analyses, watches streams, and gives each event once
 * and in order whatever happens to connections. See Athena and Run.
 */
export { Athena, type AthenaOptions, type WatchOptions } from "./athena.js";
export { Run, type RunStatus } from "./run.js";
export type { AnswerStore, Asked } from "./answers.js";
export type { Carrier, Carry, LineState, Sharing, TransportChoice, Viewer } from "./line.js";
export type { Token, TokenSource } from "./token.js";
export { Transcript, type TerminalEvent } from "./transcript.js";
export { AthenaError, LinkError, PromiseError, remedyFor } from "./errors.js";
export { Backoff, type BackoffOptions } from "./backoff.js";
export { SSEParser } from "./sse.js";
export { SHA256 } from "./sha256.js";
export * from "./events.js";
export type { WebSocketConstructor, WebSocketLike } from "./link.js";
