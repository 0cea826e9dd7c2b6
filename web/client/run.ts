import { Backoff, sleep } from "./backoff.js";
import { Channel } from "./channel.js";
import { AthenaError, LinkError, problem, PromiseError } from "./errors.js";
import { MalformedError, type AthenaEvent, type Finding, type TransportName, type Usage } from "./events.js";
import type { Link, LinkSink } from "./link.js";
import { Transcript, type TerminalEvent } from "./transcript.js";

/** What the user prefers. */
export type TransportChoice = "auto" | TransportName;

/** Where a run stands, for a status line. */
export interface RunStatus {
  /**
   * starting: the job is being asked for; connecting; live; waiting: for the
   * next attempt; ended: the stream has; failed: the run has given up.
   */
  state: "starting" | "connecting" | "live" | "waiting" | "ended" | "failed";
  transport: TransportName | undefined;
  node: string;
  cursor: number;
  events: number;
  bytes: number;
  /** Connections after the first. */
  reconnects: number;
  /** Why the last connection ended, and how long the wait is. */
  reason: string;
  waitMs: number;
}

/** What a run needs of the client it belongs to. */
export interface RunHost {
  /** Opens a link after the cursor, over the first transport that works. */
  connect(stream: string, after: number, choice: TransportChoice, fresh: boolean, sink: LinkSink, signal: AbortSignal): Promise<Connection>;
  cancel(stream: string, signal: AbortSignal): Promise<void>;
  /** Reports whether the stream has ended at this seq. */
  endedAt(stream: string, seq: number, signal: AbortSignal): Promise<boolean>;
  /** Gets new credentials; false where there are none to get. */
  renew(): Promise<boolean>;
  backoff(): Backoff;
}

export interface Connection {
  link: Link;
  heartbeatMs: number;
  /** Resolves true when a better transport has shown that it works now. */
  better: (signal: AbortSignal) => Promise<boolean>;
}

/** Silence of this many heartbeats is a dead connection. */
const silentHeartbeats = 2.5;

/**
 * One stream that is being watched. It reconnects by itself from its cursor,
 * over whichever transport works, and ends with the stream's terminal event.
 * Iterate over it, once, for the events; leaving the loop stops watching, which
 * does not cancel the analysis.
 */
export class Run implements AsyncIterable<AthenaEvent> {
  readonly transcript: Transcript;
  readonly #host: RunHost;
  readonly #stop = new AbortController();
  readonly #events = new Channel<AthenaEvent>(() => { this.close(); });
  readonly #listeners = new Set<(s: RunStatus) => void>();
  readonly #done: Promise<void>;
  readonly #stream: Promise<string>;
  #id: string | undefined;
  #status: RunStatus;
  #choice: TransportChoice;
  #cut: ((why: LinkError) => void) | undefined;
  #wake: AbortController | undefined;

  constructor(host: RunHost, stream: string | ((signal: AbortSignal) => Promise<string>), after: number, choice: TransportChoice, signal?: AbortSignal) {
    this.#host = host;
    this.#choice = choice;
    this.transcript = new Transcript(after);
    this.#status = {
      state: "starting", transport: undefined, node: "", cursor: after, events: 0, bytes: 0, reconnects: 0, reason: "", waitMs: 0,
    };
    const abort = (): void => { this.#stop.abort(signal?.reason); };
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    this.#stream = typeof stream === "string" ? Promise.resolve(stream) : stream(this.#stop.signal);
    this.#done = this.#drive(after).finally(() => { signal?.removeEventListener("abort", abort); });
    this.#done.catch(() => undefined); // the iterator reports it, and finished() to those who ask
  }

  /** The stream's id, once the server has given it. */
  get id(): string | undefined { return this.#id; }
  get status(): RunStatus { return this.#status; }
  text(): string { return this.transcript.text; }
  reasoning(): string { return this.transcript.reasoning; }
  findings(): readonly Finding[] { return this.transcript.findings; }
  usage(): Usage | undefined { return this.transcript.usage; }
  terminal(): TerminalEvent | undefined { return this.transcript.terminal; }
  /** Resolves with the id, rejects when the job could not be started. */
  started(): Promise<string> { return this.#stream; }
  /** Resolves when the stream has ended, rejects when the run gave up. */
  finished(): Promise<void> { return this.#done; }

  /** Calls the listener now and at each change; returns what stops that. */
  onStatus(listener: (s: RunStatus) => void): () => void {
    this.#listeners.add(listener);
    listener(this.#status);
    return () => { this.#listeners.delete(listener); };
  }

  /** Asks the server to cancel the job. The `cancelled` event follows on the stream. */
  async cancel(): Promise<void> {
    const id = await this.#stream;
    if (!this.transcript.terminal) await this.#host.cancel(id, this.#stop.signal);
  }

  /** Stops watching. The job goes on until its orphan timeout. */
  close(): void {
    this.#stop.abort(new DOMException("the run was closed", "AbortError"));
  }

  /** Cuts the current connection without a word, as a network does; for trying out what happens then. */
  disconnect(): void { this.#cut?.(new LinkError("reconnect", "cut by hand")); }

  /**
   * Moves to another transport, from the cursor on; with "auto" to the first
   * that works, which may be the one that is in use.
   */
  useTransport(choice: TransportChoice): void {
    if (choice === this.#choice) return;
    this.#choice = choice;
    this.#wake?.abort();
    if (choice === this.#status.transport) return;
    this.#cut?.(new LinkError("reconnect", choice === "auto" ? "moving to the best transport" : `moving to ${choice}`, 0));
  }

  /** Ends a wait for the next attempt, as when the network is back. */
  reconnectNow(): void { this.#wake?.abort(); }

  [Symbol.asyncIterator](): AsyncIterator<AthenaEvent> { return this.#events; }

  #set(change: Partial<RunStatus>): void {
    this.#status = { ...this.#status, ...change };
    for (const l of this.#listeners) l(this.#status);
  }

  async #drive(after: number): Promise<void> {
    try {
      this.#id = await this.#stream;
      await this.#follow(this.#id, after);
      this.#set({ state: "ended", waitMs: 0 });
      this.#events.end();
    } catch (e) {
      this.#stop.abort(e);
      this.#set({ state: "failed", reason: e instanceof Error ? e.message : String(e), waitMs: 0 });
      this.#events.fail(e);
      throw e;
    }
  }

  async #follow(stream: string, after: number): Promise<void> {
    const backoff = this.#host.backoff();
    const signal = this.#stop.signal;
    let renewed = false;
    for (let attempt = 0; ; attempt++) {
      signal.throwIfAborted();
      this.#set({ state: "connecting", waitMs: 0, reconnects: attempt });
      const cursor = this.transcript.cursor;
      const why = await this.#link(stream, attempt > 0, after > 0, backoff);
      if (this.transcript.terminal || why.remedy === "finished") return;
      if (this.transcript.cursor > cursor) renewed = false;
      if (why.remedy === "credentials") {
        if (renewed || !(await this.#host.renew())) {
          throw new AthenaError(why.problem ?? { ...problem("unauthorized", "Valid credentials are needed", why.message), status: 401 });
        }
        renewed = true;
      }
      if (why.remedy === "stop") throw new AthenaError(why.problem ?? problem("connection_failed", "The server refuses the connection", why.message));
      const waitMs = why.afterMs === 0 ? 0 : backoff.next(why.afterMs);
      this.#set({ state: "waiting", transport: undefined, reason: why.message, waitMs });
      await this.#pause(waitMs, signal);
    }
  }

  async #pause(ms: number, signal: AbortSignal): Promise<void> {
    this.#wake = new AbortController();
    try {
      await sleep(ms, AbortSignal.any([signal, this.#wake.signal]));
    } catch {
      signal.throwIfAborted();
    } finally {
      this.#wake = undefined;
    }
  }

  /** Runs one connection to its end, and says why it ended. */
  async #link(stream: string, fresh: boolean, late: boolean, backoff: Backoff): Promise<LinkError> {
    const choice = this.#choice;
    const life = new AbortController(); // everything that belongs to this connection
    const signal = AbortSignal.any([this.#stop.signal, life.signal]);
    let connection: Connection | undefined;
    let fault: unknown;
    let end: (why: LinkError) => void = () => undefined;
    const ended = new Promise<LinkError>((resolve) => { end = resolve; });
    let silence: ReturnType<typeof setTimeout> | undefined;
    const watchSilence = (): void => {
      if (!connection) return;
      clearTimeout(silence);
      silence = setTimeout(() => { end(new LinkError("reconnect", "heartbeats stopped")); }, connection.heartbeatMs * silentHeartbeats);
    };
    const sink: LinkSink = {
      received: (bytes) => {
        watchSilence();
        this.#set({ bytes: this.#status.bytes + bytes });
      },
      events: (list) => {
        if (life.signal.aborted || fault !== undefined) return;
        try {
          for (const e of list) {
            this.transcript.apply(e);
            this.#events.push(e);
          }
        } catch (e) {
          fault = e;
          end(new LinkError("stop", "a promise was broken"));
          return;
        }
        backoff.reset();
        this.#set({ cursor: this.transcript.cursor, events: this.#status.events + list.length });
        if (this.transcript.terminal) end(new LinkError("finished", "the stream has ended"));
      },
      atHead: () => {
        if (!late) return; // read from its start, a stream shows its terminal event
        this.#host.endedAt(stream, this.transcript.cursor, signal).then(
          (yes) => { if (yes) end(new LinkError("finished", "nothing follows the cursor")); },
          () => undefined, // the connection goes on, and tells if something is wrong
        );
      },
      ended: (why) => { end(why); },
    };
    const stopped = (): void => { end(new LinkError("finished", "closed")); };
    this.#stop.signal.addEventListener("abort", stopped);
    this.#cut = end;
    try {
      const opening = this.#host.connect(stream, this.transcript.cursor, choice, fresh, sink, signal);
      let first = await Promise.race([opening, ended]); // it can be cut while it opens
      if (first instanceof LinkError && this.transcript.terminal) first = await opening; // all came with the first answer
      if (!(first instanceof LinkError)) {
        connection = first;
        watchSilence();
        this.#set({
          state: "live", transport: connection.link.transport, node: connection.link.welcome?.node ?? "", reason: "",
        });
        connection.better(signal).then(
          (yes) => { if (yes && choice === this.#choice) end(new LinkError("reconnect", "a better transport works now", 0)); },
          () => undefined, // this connection goes on
        );
      } else {
        opening.then((c) => { c.link.abort(); }, () => undefined);
      }
      const why = await ended;
      if (fault instanceof PromiseError || fault instanceof MalformedError) throw fault;
      this.#stop.signal.throwIfAborted();
      return why;
    } catch (e) {
      this.#stop.signal.throwIfAborted();
      if (e instanceof LinkError) return e;
      throw e;
    } finally {
      this.#cut = undefined;
      clearTimeout(silence);
      this.#stop.signal.removeEventListener("abort", stopped);
      life.abort(new LinkError("reconnect", "this connection is over"));
      connection?.link.abort();
    }
  }
}
