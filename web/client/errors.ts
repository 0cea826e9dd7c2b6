import type { Problem } from "./events.js";

/** A failure that the server reported, or that stands for one of its codes. */
export class AthenaError extends Error {
  override name = "AthenaError";
  constructor(readonly problem: Problem) {
    super(problem.detail ? `${problem.title}: ${problem.detail}` : problem.title);
  }
  get code(): string { return this.problem.code; }
}

/** The server broke a promise of the protocol: the stream can't be trusted. */
export class PromiseError extends Error {
  override name = "PromiseError";
  constructor(readonly promise: "P1" | "P4" | "P5", readonly stream: string, detail: string) {
    super(`stream ${stream} breaks ${promise}: ${detail}`);
  }
}

/** What to do when a connection is over. */
export type Remedy = "reconnect" | "credentials" | "stop" | "finished";

/** Why a connection is over, or never came to be. */
export class LinkError extends Error {
  override name = "LinkError";
  constructor(
    readonly remedy: Remedy,
    reason: string,
    /** How long to wait before reconnecting, as the server said; its jitter is in it. */
    readonly afterMs?: number,
    readonly problem?: Problem,
  ) {
    super(reason);
  }
}

/** The error itself, or where it is none of ours one that a connection ends with. */
export function asLinkError(e: unknown, of = ""): LinkError {
  return e instanceof LinkError ? e : new LinkError("reconnect", of + (e instanceof Error ? e.message : String(e)));
}

/** What a problem in the place of a stream or an answer ends it with. */
export function refusedBy(p: Problem): LinkError {
  return new LinkError(remedyOf(p), p.title, p.retry_after_ms, p);
}

/** RFC 6455's codes that say "done" or that the same would happen again. */
const stops = new Set([1000, 1002, 1003, 1007, 1008, 1009, 1010]);

/** Says what a WebSocket's close code asks for. */
export function remedyFor(code: number): Remedy {
  if (code >= 4100 && code < 4200) return "credentials";
  if ((code >= 4200 && code < 4300) || stops.has(code)) return "stop";
  return "reconnect";
}

/** Says what a problem in the place of a stream asks for. */
export function remedyOf(p: Problem): Remedy {
  if (p.status === 401 || p.code === "unauthorized") return "credentials";
  if (p.code === "http_error") return "reconnect"; // not Athena's words: a proxy's, which may be between us on this transport only
  return p.retryable || p.status >= 500 ? "reconnect" : "stop";
}

export function problem(code: string, title: string, detail?: string): Problem {
  return { code, title, status: 0, retryable: false, ...(detail === undefined ? {} : { detail }) };
}
