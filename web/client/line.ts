import { Backoff, sleep, unless } from "./backoff.js";
import { asLinkError, AthenaError, LinkError, problem } from "./errors.js";
import { isTerminal, type AthenaEvent, type JSONObject, type TransportName } from "./events.js";
import type { Link, LinkSink, Wanted } from "./link.js";

/** What the user prefers. */
export type TransportChoice = "auto" | TransportName;

/** How a line does. */
export interface LineState {
  state: "connecting" | "live" | "waiting";
  transport: TransportName | undefined;
  node: string;
  reason: string;
  waitMs: number;
}

/** Who watches one stream over a line. */
export interface Viewer {
  /** The last seq that it has. */
  readonly cursor: number;
  /** Takes what follows the cursor. */
  events(list: AthenaEvent[]): void;
  received(bytes: number): void;
  changed(state: LineState): void;
  /** The carrier has no room any more: another one must be found. */
  moved(): void;
  /** Nothing more will come. A LinkError whose remedy is "finished" says that the stream has ended. */
  over(why: unknown): void;
}

/** What carries viewers' streams: a line of this page, or another page's. */
export interface Carrier {
  remove(stream: string, viewer: Viewer): void;
  cut(why: LinkError): void;
  reconnectNow(): void;
  /** Changes the transport without moving the viewer; false where it must move. */
  choose(choice: TransportChoice, stream: string, viewer: Viewer): boolean;
}

/** Finds who carries a stream to a viewer. */
export type Carry = (stream: string, viewer: Viewer) => Carrier;

/** What lets several clients have one connection. See `athena-client/tabs`. */
export interface Sharing {
  /** name is the same for clients of one hub and identity; local is the client's own way. */
  join(name: Promise<string>, local: Carry): Carry;
}

export interface Connection {
  heartbeatMs: number;
  /** Resolves true when a better transport has shown that it works now. */
  better: (signal: AbortSignal) => Promise<boolean>;
}

/** What a line needs of the client it belongs to. */
export interface LineHost {
  /** Opens a link over the first transport that works, which the sink is told of. */
  connect(line: Line, fresh: boolean, sink: LinkSink, signal: AbortSignal): Promise<Connection>;
  metadata(stream: string, signal: AbortSignal): Promise<JSONObject>;
  /** Gets new credentials; false where there are none to get. */
  renew(): Promise<boolean>;
  /** Takes what the server tells of cached answers. */
  told(message: unknown): void;
  /** Calls use with each fresh token, in time before the last ends, until the signal fires. */
  freshTokens(use: (token: string) => void, signal: AbortSignal): Promise<void>;
  backoff(): Backoff;
  /** The line carries nothing more, and will not. */
  idle(line: Line): void;
}

/** What a line ends of its own will needs no wait; a server that says 0 gets the shortest. */
const atOnce = -1;

/** Silence of this many heartbeats is a dead connection. */
const silentHeartbeats = 2.5;

/** A stream on a line. The log lets a second viewer join where the first began. */
interface Feed {
  viewers: Set<Viewer>;
  base: number;
  cursor: number;
  log: AthenaEvent[];
  backoff: Backoff | undefined;
}

/**
 * A line carries many streams over one connection at a time. It reconnects by
 * itself from the streams' cursors, over whichever transport works, and is
 * over when it has nothing more to carry.
 */
export class Line implements Carrier {
  choice: TransportChoice;
  maxStreams = 64;
  readonly #host: LineHost;
  readonly #feeds = new Map<string, Feed>();
  readonly #stop = new AbortController();
  #state: LineState = { state: "connecting", transport: undefined, node: "", reason: "", waitMs: 0 };
  #running = false;
  #moved = false; // events came since the last connection began
  #link: Link | undefined;
  #cut: ((why: LinkError) => void) | undefined;
  #check: (() => void) | undefined;
  #wake: AbortController | undefined;
  #suspended: Promise<void> | undefined;
  #resume: (() => void) | undefined;

  constructor(host: LineHost, choice: TransportChoice) {
    this.#host = host;
    this.choice = choice;
  }

  /** Begins to carry a stream to the viewer; false where this line can't. */
  add(stream: string, viewer: Viewer): boolean {
    if (this.#stop.signal.aborted) return false;
    const feed = this.#feeds.get(stream);
    if (feed) {
      const at = feed.base === viewer.cursor ? 0 : feed.log.findIndex((e) => e.seq === viewer.cursor) + 1;
      if (at === 0 && feed.base !== viewer.cursor) return false;
      feed.viewers.add(viewer);
      viewer.changed(this.#state);
      if (at < feed.log.length) viewer.events(feed.log.slice(at));
      return true;
    }
    if (this.#feeds.size >= this.maxStreams) return false;
    this.#feeds.set(stream, { viewers: new Set([viewer]), base: viewer.cursor, cursor: viewer.cursor, log: [], backoff: undefined });
    if (this.#running) {
      viewer.changed(this.#state);
      this.#link?.add(stream);
    } else {
      void this.#drive();
    }
    return true;
  }

  remove(stream: string, viewer: Viewer): void {
    const feed = this.#feeds.get(stream);
    if (!feed?.viewers.delete(viewer) || feed.viewers.size > 0) return;
    this.#feeds.delete(stream);
    if (this.#feeds.size === 0) this.#end();
    else this.#link?.remove(stream);
  }

  wanted(): Wanted[] {
    return Array.from(this.#feeds, ([stream, f]) => ({ stream, after: f.cursor }));
  }

  cut(why: LinkError): void { this.#cut?.(why); }
  reconnectNow(): void { this.#wake?.abort(); }

  choose(choice: TransportChoice, stream: string, viewer: Viewer): boolean {
    if (this.#feeds.size > 1 || (this.#feeds.get(stream)?.viewers.size ?? 0) > 1 || !this.#feeds.get(stream)?.viewers.has(viewer)) return false;
    this.choice = choice;
    this.#wake?.abort();
    if (choice !== this.#state.transport) {
      this.#cut?.(new LinkError("reconnect", choice === "auto" ? "moving to the best transport" : `moving to ${choice}`, atOnce));
    }
    return true;
  }

  /** Looks whether the connection has been silent for too long, as it is after sleep. */
  checkSilence(): void { this.#check?.(); }

  /** Holds no connection until resume is called: a page in the back-forward cache must not. */
  suspend(): void {
    if (this.#suspended) return;
    this.#suspended = new Promise((resolve) => { this.#resume = resolve; });
    this.#cut?.(new LinkError("reconnect", "the page was hidden", atOnce));
  }

  resume(): void {
    this.#suspended = undefined;
    this.#resume?.();
    this.#wake?.abort();
  }

  /** Gives those away for which a connection has no room. */
  limit(max: number): void {
    this.maxStreams = max;
    for (const [stream, feed] of [...this.#feeds].slice(max)) {
      this.#feeds.delete(stream);
      for (const v of feed.viewers) v.moved();
    }
  }

  #set(state: Partial<LineState>): void {
    this.#state = { ...this.#state, ...state };
    for (const f of this.#feeds.values()) for (const v of f.viewers) v.changed(this.#state);
  }

  #end(): void {
    this.#stop.abort(new LinkError("finished", "nothing more to carry"));
    this.#link?.abort();
    this.#resume?.();
    this.#host.idle(this);
  }

  /** Takes a stream off the line, and tells its viewers why. */
  #close(stream: string, why: unknown): void {
    const feed = this.#feeds.get(stream);
    if (!feed) return;
    this.#feeds.delete(stream);
    this.#link?.remove(stream);
    for (const v of [...feed.viewers]) v.over(why);
    if (this.#feeds.size === 0) this.#end();
  }

  async #drive(): Promise<void> {
    this.#running = true;
    const backoff = this.#host.backoff();
    const signal = this.#stop.signal;
    let renewed = false;
    try {
      for (let attempt = 0; ; attempt++) {
        while (this.#suspended && !signal.aborted) await this.#suspended;
        if (signal.aborted) return;
        this.#set({ state: "connecting", waitMs: 0 });
        this.#moved = false;
        const why = await this.#connect(attempt > 0, backoff);
        if (signal.aborted) return;
        if (this.#moved) renewed = false;
        if (why.remedy === "credentials") {
          if (renewed || !(await this.#host.renew())) {
            throw new AthenaError(why.problem ?? { ...problem("unauthorized", "Valid credentials are needed", why.message), status: 401 });
          }
          renewed = true;
        }
        if (why.remedy === "stop" && !(await this.#sift(signal))) throw refusal(why);
        const waitMs = why.afterMs === atOnce ? 0 : backoff.next(why.afterMs);
        this.#set({ state: "waiting", transport: undefined, reason: why.message, waitMs });
        this.#wake = new AbortController();
        await sleep(waitMs, signal, this.#wake.signal);
      }
    } catch (e) {
      if (!signal.aborted) for (const stream of [...this.#feeds.keys()]) this.#close(stream, e);
    }
  }

  /**
   * A request that names several streams is refused for the sake of any of
   * them. Takes those off that are to blame; false where none is found.
   */
  async #sift(signal: AbortSignal): Promise<boolean> {
    if (this.#feeds.size < 2) return false;
    let found = false;
    await Promise.all(this.wanted().map(async ({ stream, after }) => {
      try {
        const m = await this.#host.metadata(stream, signal);
        if (typeof m["head"] !== "number" || m["head"] >= after) return;
        found = true;
        this.#close(stream, new AthenaError({ ...problem("invalid_cursor", "The cursor is beyond the stream's head"), status: 400 }));
      } catch (e) {
        if (!(e instanceof AthenaError) || e.problem.retryable || e.problem.status === 0 || e.problem.status >= 500) return;
        found = true;
        this.#close(stream, e);
      }
    }));
    return found;
  }

  /** Runs one connection to its end, and says why it ended. */
  async #connect(fresh: boolean, backoff: Backoff): Promise<LinkError> {
    const choice = this.choice;
    const life = new AbortController(); // everything that belongs to this connection
    const signal = AbortSignal.any([this.#stop.signal, life.signal]);
    let over = false;
    let end: (why: LinkError) => void = () => undefined;
    const ended = new Promise<LinkError>((resolve) => { end = (why) => { over = true; resolve(why); }; });
    let heard = Date.now();
    const sink: LinkSink = {
      opened: (link) => {
        if (over) { link.abort(); return; }
        this.#link = link;
        this.#set({ state: "live", transport: link.transport, node: link.welcome?.node ?? "", reason: "" });
        if (link.transport === "websocket") this.#host.freshTokens((t) => { link.authenticate(t); }, signal).catch(() => undefined);
      },
      received: (bytes) => {
        heard = Date.now();
        for (const f of this.#feeds.values()) for (const v of f.viewers) v.received(bytes);
      },
      events: (list) => {
        if (over) return;
        backoff.reset();
        this.#deliver(list);
      },
      told: (m) => { this.#host.told(m); },
      atHead: (stream) => {
        const feed = this.#feeds.get(stream);
        if (!feed || feed.base === 0) return; // read from its start, a stream shows its terminal event
        const { cursor } = feed;
        this.#host.metadata(stream, signal).then(
          (m) => {
            if (m["head"] === cursor && m["state"] !== "running" && this.#feeds.get(stream) === feed) this.#close(stream, new LinkError("finished", "nothing follows the cursor"));
          },
          () => undefined, // the connection goes on, and tells if something is wrong
        );
      },
      refused: (stream, why) => {
        const feed = this.#feeds.get(stream);
        if (over || !feed) return;
        if (why.remedy !== "reconnect") { this.#close(stream, why.remedy === "finished" ? why : refusal(why)); return; }
        feed.backoff ??= this.#host.backoff();
        sleep(feed.backoff.next(why.afterMs), signal).then(
          () => { if (this.#feeds.get(stream) === feed) this.#link?.add(stream); },
          () => undefined, // another connection asks for it again
        );
      },
      ended: end,
    };
    this.#cut = end;
    let beat: ReturnType<typeof setInterval> | undefined;
    try {
      const opening = this.#host.connect(this, fresh, sink, signal);
      opening.catch(() => undefined);
      const first = await unless(this.#stop.signal, Promise.race([opening, ended])); // it can be cut while it opens
      if (!(first instanceof LinkError)) {
        // By the clock, since timers stand still while a machine sleeps.
        this.#check = () => {
          if (Date.now() - heard > first.heartbeatMs * silentHeartbeats) end(new LinkError("reconnect", "heartbeats stopped"));
        };
        beat = setInterval(this.#check, first.heartbeatMs / 2);
        first.better(signal).then(
          (yes) => { if (yes && choice === this.choice) end(new LinkError("reconnect", "a better transport works now", atOnce)); },
          () => undefined, // this connection goes on
        );
      }
      return await unless(this.#stop.signal, ended);
    } catch (e) {
      return asLinkError(e);
    } finally {
      over = true;
      this.#cut = this.#check = undefined;
      clearInterval(beat);
      life.abort(new LinkError("reconnect", "this connection is over"));
      this.#link?.abort();
      this.#link = undefined;
    }
  }

  #deliver(list: AthenaEvent[]): void {
    const streams = new Map<string, AthenaEvent[]>();
    for (const e of list) {
      const events = streams.get(e.stream);
      if (events) events.push(e);
      else streams.set(e.stream, [e]);
    }
    for (const [stream, events] of streams) {
      const feed = this.#feeds.get(stream);
      const last = events.at(-1);
      if (!feed || !last) continue; // after its end nothing of a stream counts
      this.#moved = true;
      feed.cursor = last.seq;
      feed.backoff = undefined;
      feed.log.push(...events);
      if (events.some(isTerminal)) this.#feeds.delete(stream);
      for (const v of [...feed.viewers]) v.events(events);
    }
    if (this.#feeds.size === 0) this.#end();
  }
}

function refusal(why: LinkError): AthenaError {
  return new AthenaError(why.problem ?? problem("connection_failed", "The server refuses the connection", why.message));
}
