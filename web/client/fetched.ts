import { LinkError, problem, remedyOf } from "./errors.js";
import { isObject, parseEvent, parseProblem, parseWelcome, type AthenaEvent, type Problem, type Welcome } from "./events.js";
import type { Link, LinkParams, LinkSink, Opener } from "./link.js";
import { SSEParser } from "./sse.js";

/** The problem in an HTTP answer, made up from its status where it has none. */
export async function problemIn(r: Response): Promise<Problem> {
  const after = Number(r.headers.get("Retry-After"));
  try {
    const p = parseProblem(JSON.parse(await r.text()));
    if (p.retry_after_ms === undefined && after > 0) p.retry_after_ms = after * 1000;
    return p;
  } catch {
    return {
      ...problem(r.status === 401 ? "unauthorized" : "http_error", `The server answered ${r.status} ${r.statusText}`.trim()),
      status: r.status,
      retryable: r.status >= 500 || r.status === 429 || r.status === 408,
      ...(after > 0 ? { retry_after_ms: after * 1000 } : {}),
    };
  }
}

async function refuse(r: Response): Promise<never> {
  const p = await problemIn(r);
  throw new LinkError(remedyOf(p), p.title, p.retry_after_ms, p);
}

function asLinkError(e: unknown): LinkError {
  return e instanceof LinkError ? e : new LinkError("reconnect", e instanceof Error ? e.message : String(e));
}

/** `ABC:17`, the form that a request for several streams has. */
function target(p: LinkParams, after: number): URL {
  const url = new URL(p.url);
  url.searchParams.append("stream", p.stream);
  url.searchParams.set("after", `${p.stream}:${after}`);
  return url;
}

/** What both links over fetch share: one controller that ends everything. */
class Fetched {
  readonly controller = new AbortController();
  proven = false;
  over = false;
  constructor(readonly p: LinkParams, readonly sink: LinkSink, readonly reject: (why: unknown) => void) {
    p.probe.addEventListener("abort", this.giveUp);
    if (p.probe.aborted) this.giveUp();
  }
  readonly giveUp = (): void => {
    if (this.proven || this.over) return;
    this.abort();
    this.reject(this.p.probe.reason);
  };
  readonly prove = (): void => {
    this.proven = true;
    this.p.probe.removeEventListener("abort", this.giveUp);
  };
  readonly abort = (): void => {
    this.over = true;
    this.p.probe.removeEventListener("abort", this.giveUp);
    this.controller.abort();
  };
  readonly end = (e: unknown): void => {
    if (this.over) return;
    this.abort();
    if (this.proven) this.sink.ended(asLinkError(e));
    else this.reject(asLinkError(e));
  };
}

/** Opens an event stream over fetch; its `welcome` event proves it. */
export const openSSE: Opener = (p, sink) => new Promise<Link>((resolve, reject) => {
  const link = new Fetched(p, sink, reject);
  const welcomed = (welcome: Welcome): void => {
    link.prove();
    resolve({ transport: "sse", welcome, abort: link.abort });
  };
  read(p, sink, link, welcomed).then(link.end, link.end);
});

async function read(p: LinkParams, sink: LinkSink, link: Fetched, welcomed: (w: Welcome) => void): Promise<LinkError> {
  const r = await p.fetch(target(p, p.after), {
    headers: { ...(await p.headers()), Accept: "text/event-stream" },
    signal: link.controller.signal,
    cache: "no-store",
  });
  if (r.status === 204) {
    welcomed({ node: "", heartbeatMs: 0 });
    return new LinkError("finished", "nothing follows the cursor");
  }
  if (!r.ok) return refuse(r);
  if (!r.body || !r.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    return new LinkError("reconnect", "the answer is not an event stream");
  }
  const parser = new SSEParser();
  const decoder = new TextDecoder();
  const reader = r.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (link.over) return new LinkError("reconnect", "aborted");
    if (done) return new LinkError("reconnect", "the event stream ended", parser.retryMs);
    sink.received(value.length);
    const events: AthenaEvent[] = [];
    for (const frame of parser.push(decoder.decode(value, { stream: true }))) {
      if (frame.event === "message") events.push(parseEvent(JSON.parse(frame.data)));
      else if (frame.event === "welcome") welcomed(parseWelcome(JSON.parse(frame.data)));
    }
    if (events.length > 0) sink.events(events);
  }
}

/** Where a poll waits longer than this for its first byte, proxies give up. */
const pollWaitMs = 25_000;

/** Polls; the first answer, which is asked for without waiting, proves it. */
export const openLongPoll: Opener = (p, sink) => new Promise<Link>((resolve, reject) => {
  const link = new Fetched(p, sink, reject);
  const proven = (): void => {
    if (link.proven) return;
    link.prove();
    resolve({ transport: "long-poll", welcome: undefined, abort: link.abort });
  };
  poll(p, sink, link, proven).then(link.end, link.end);
});

async function poll(p: LinkParams, sink: LinkSink, link: Fetched, proven: () => void): Promise<LinkError> {
  let after = p.after;
  for (;;) {
    const url = target(p, after);
    // Half of what counts as silence, so that a poll which waits is no silence.
    const wait = link.proven ? Math.min(pollWaitMs, p.heartbeatMs) : 0;
    url.searchParams.set("wait", `${Math.round(wait)}ms`);
    const r = await p.fetch(url, {
      headers: { ...(await p.headers()), Accept: "application/json" },
      signal: link.controller.signal,
      cache: "no-store",
    });
    if (r.status === 204) {
      proven();
      return new LinkError("finished", "nothing follows the cursor");
    }
    if (!r.ok) return refuse(r);
    const text = await r.text();
    if (link.over) return new LinkError("reconnect", "aborted");
    const answer: unknown = JSON.parse(text);
    if (!isObject(answer) || !Array.isArray(answer["events"])) throw new Error("the answer to a poll has no events");
    const events = (answer["events"] as unknown[]).map(parseEvent);
    proven();
    sink.received(text.length);
    const last = events.at(-1);
    if (last) {
      sink.events(events);
      after = last.seq;
    }
    if (answer["done"] === true) return new LinkError("finished", "nothing follows the cursor");
    const move = answer["retry_after_ms"]; // the node is going away; another one answers then
    if (typeof move === "number") return new LinkError("reconnect", "the server asks to move", move);
  }
}
