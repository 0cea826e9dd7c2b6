import { asLinkError, LinkError, problem, refusedBy } from "./errors.js";
import { isObject, parseEvent, parseProblem, parseWelcome, type AthenaEvent, type Problem, type TransportName, type Welcome } from "./events.js";
import type { Link, LinkParams, LinkSink, Opener, Wanted } from "./link.js";
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

/** `?stream=A&stream=B&after=A:17,B:3`. */
function target(p: LinkParams, wanted: Wanted[]): URL {
  const url = new URL(p.url);
  for (const w of wanted) url.searchParams.append("stream", w.stream);
  url.searchParams.set("after", wanted.map((w) => `${w.stream}:${w.after}`).join());
  return url;
}

const nothingFollows = (): LinkError => new LinkError("finished", "nothing follows the cursor");

/** Streams that are added within this time are asked for together. */
const gatherMs = 10;

/**
 * What both links over fetch share. A request names its streams, so another set
 * of streams is another request, which goes on from the cursors of the last.
 */
class Fetched implements Link {
  welcome: Welcome | undefined;
  over = false;
  proven = false;
  #request = new AbortController();
  #asked = new Set<string>();
  #restarts: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly transport: TransportName, readonly p: LinkParams, readonly sink: LinkSink,
    readonly resolve: (link: Link) => void, readonly reject: (why: unknown) => void,
  ) {
    p.probe.addEventListener("abort", this.#giveUp);
    if (p.probe.aborted) this.#giveUp();
  }

  readonly #giveUp = (): void => {
    if (this.proven || this.over) return;
    this.abort();
    this.reject(this.p.probe.reason);
  };

  /** To be called with each answer; the first proves the link. */
  prove(welcome: Welcome | undefined): void {
    if (this.over || this.proven) return;
    this.proven = true;
    this.welcome = welcome;
    this.p.probe.removeEventListener("abort", this.#giveUp);
    this.sink.opened(this);
    this.resolve(this);
    const wanted = this.p.wanted();
    if (wanted.length > 1) for (const w of wanted) if (w.after > 0) this.sink.atHead(w.stream);
    if (wanted.some((w) => !this.#asked.has(w.stream))) this.#restart();
  }

  abort(): void {
    this.over = true;
    clearTimeout(this.#restarts);
    this.p.probe.removeEventListener("abort", this.#giveUp);
    this.#request.abort();
  }

  add(stream: string): void {
    if (this.#asked.has(stream)) this.#asked.delete(stream); // it left, and is back with another cursor
    this.#restart();
    const w = this.p.wanted().find((x) => x.stream === stream);
    if (w && w.after > 0) this.sink.atHead(stream);
  }

  remove(stream: string): void {
    if (this.#asked.delete(stream)) this.#restart();
  }

  /** Hands on events, but none of a stream that has left, and may be back with another cursor. */
  give(list: AthenaEvent[]): void {
    const events = list.filter((e) => this.#asked.has(e.stream));
    if (events.length > 0) this.sink.events(events);
  }

  authenticate(): void { /* each request has the newest token */ }

  #restart(): void {
    if (this.over) return;
    this.#restarts ??= setTimeout(() => {
      this.#restarts = undefined;
      if (this.p.wanted().length > 0) this.#request.abort();
    }, gatherMs);
  }

  /** Makes requests until the link is over. once reads an answer, and says why the link ends, if it does. */
  async run(accept: string, once: (r: Response, current: () => boolean) => Promise<LinkError | undefined>): Promise<void> {
    try {
      for (;;) {
        const request = this.#request;
        const current = (): boolean => !this.over && !request.signal.aborted;
        try {
          const headers = { ...(await this.p.headers()), Accept: accept };
          if (this.over) return;
          const wanted = this.p.wanted();
          this.#asked = new Set(wanted.map((w) => w.stream));
          const url = target(this.p, wanted);
          // Half of what counts as silence, so that a poll which waits is no silence.
          if (this.transport === "long-poll") url.searchParams.set("wait", `${this.proven ? Math.round(Math.min(pollWaitMs, this.p.heartbeatMs)) : 0}ms`);
          const r = await this.p.fetch(url, { headers, signal: request.signal, cache: "no-store" });
          let why: LinkError | undefined;
          if (r.status === 204) {
            this.prove(this.transport === "sse" ? { node: "", heartbeatMs: 0, maxStreams: 0 } : undefined);
            why = nothingFollows();
          } else if (!r.ok) {
            throw refusedBy(await problemIn(r));
          } else {
            why = await once(r, current);
          }
          if (why?.remedy === "finished" && current()) { // that is, those that were asked for
            for (const stream of this.#asked) this.sink.refused(stream, why);
          } else if (why && current()) {
            this.#end(why);
            return;
          }
        } catch (e) {
          if (current()) throw e;
        }
        if (this.over) return;
        if (request.signal.aborted) this.#request = new AbortController(); // for the new set of streams
      }
    } catch (e) {
      this.#end(asLinkError(e));
    }
  }

  #end(why: LinkError): void {
    if (this.over) return;
    this.abort();
    if (this.proven) this.sink.ended(why);
    else this.reject(why);
  }
}

/** Opens an event stream over fetch; its `welcome` event proves it. */
export const openSSE: Opener = (p, sink) => new Promise<Link>((resolve, reject) => {
  const link = new Fetched("sse", p, sink, resolve, reject);
  void link.run("text/event-stream", async (r, current) => {
    if (!r.body || !r.headers.get("Content-Type")?.startsWith("text/event-stream")) {
      return new LinkError("reconnect", "the answer is not an event stream");
    }
    const parser = new SSEParser();
    const decoder = new TextDecoder();
    const reader = r.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (!current()) return undefined;
      if (done) return new LinkError("reconnect", "the event stream ended", parser.retryMs);
      sink.received(value.length);
      const events: AthenaEvent[] = [];
      for (const frame of parser.push(decoder.decode(value, { stream: true }))) {
        if (frame.event === "message") events.push(parseEvent(JSON.parse(frame.data)));
        else if (frame.event === "welcome" || frame.event === "cache") {
          const data: unknown = JSON.parse(frame.data);
          if (frame.event === "welcome") link.prove(parseWelcome(data));
          sink.told(data);
        }
      }
      if (current()) link.give(events);
    }
  });
});

/** Where a poll waits longer than this for its first byte, proxies give up. */
const pollWaitMs = 25_000;

/** Polls; the first answer, which is asked for without waiting, proves it. */
export const openLongPoll: Opener = (p, sink) => new Promise<Link>((resolve, reject) => {
  const link = new Fetched("long-poll", p, sink, resolve, reject);
  let soonest: unknown;
  void link.run("application/json", async (r, current) => {
    const text = await r.text();
    if (!current()) return undefined;
    const answer: unknown = JSON.parse(text);
    if (!isObject(answer) || !Array.isArray(answer["events"])) throw new Error("the answer has no events");
    const events = (answer["events"] as unknown[]).map(parseEvent);
    link.prove(undefined);
    sink.told(answer);
    sink.received(text.length);
    link.give(events);
    if (answer["done"] === true) return nothingFollows();
    const move = answer["retry_after_ms"]; // the node is going away; another one answers then
    if (typeof move === "number") return new LinkError("reconnect", "the server asks to move", move);
    if (events.length === 0) await soonest; // who answers so at once would be asked in a tight loop
    soonest = new Promise((again) => { setTimeout(again, 250); });
    return undefined;
  });
});
