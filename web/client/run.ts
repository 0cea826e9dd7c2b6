import { unless } from "./backoff.js";
import { Channel } from "./channel.js";
import { LinkError } from "./errors.js";
import type { AthenaEvent, Finding, TransportName, Usage } from "./events.js";
import type { Carrier, LineState, TransportChoice, Viewer } from "./line.js";
import { Transcript, type TerminalEvent } from "./transcript.js";

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
  /** Finds who carries the stream to the viewer, over a transport of this choice. */
  carry(stream: string, viewer: Viewer, choice: TransportChoice): Carrier;
  cancel(stream: string, signal: AbortSignal): Promise<void>;
  /** Throws where the platform lacks what the choice needs. */
  check(choice: TransportChoice): void;
}

/**
 * One stream that is being watched. It goes on from its cursor whatever happens
 * to connections, which it shares with the client's other runs, and ends with
 * the stream's terminal event. Iterate over it, once, for the events; leaving
 * the loop stops watching, which does not cancel the analysis.
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
  #carrier: Carrier | undefined;
  #connected = false;
  #over: ((why: unknown) => void) | undefined;

  /** Runs are made by Athena's analyze and watch. */
  constructor(host: RunHost, stream: string | ((signal: AbortSignal) => Promise<string>), after: number, choice: TransportChoice, signal?: AbortSignal) {
    this.#host = host;
    this.#choice = choice;
    host.check(choice);
    this.transcript = new Transcript(after);
    this.#status = {
      state: "starting", transport: undefined, node: "", cursor: after, events: 0, bytes: 0, reconnects: 0, reason: "", waitMs: 0,
    };
    const abort = (): void => { this.#stop.abort(signal?.reason); };
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    this.#stream = typeof stream === "string" ? Promise.resolve(stream) : unless(this.#stop.signal, stream(this.#stop.signal));
    this.#done = this.#drive().finally(() => { signal?.removeEventListener("abort", abort); });
    this.#done.catch(() => undefined); // the iterator reports it, and finished() to those who ask
  }

  /** The stream's id, once the server has given it. */
  get id(): string | undefined { return this.#id; }
  /** Where the run stands; a new object at each change. */
  get status(): RunStatus { return this.#status; }
  /** The answer as it is now, whatever happened: merged chunks, failovers, reconnects. */
  text(): string { return this.transcript.text; }
  /** What the model thought, as far as it told. */
  reasoning(): string { return this.transcript.reasoning; }
  /** The findings so far. */
  findings(): readonly Finding[] { return this.transcript.findings; }
  /** The newest count of tokens and costs. */
  usage(): Usage | undefined { return this.transcript.usage; }
  /** The last event, once the stream has ended. */
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
  disconnect(): void { this.#carrier?.cut(new LinkError("reconnect", "cut by hand")); }

  /**
   * Moves to another transport, from the cursor on; with "auto" to the first
   * that works, which may be the one that is in use.
   */
  useTransport(choice: TransportChoice): void {
    if (choice === this.#choice) return;
    this.#host.check(choice);
    this.#choice = choice;
    const id = this.#id;
    if (id !== undefined && this.#carrier && !this.#carrier.choose(choice, id, this.#viewer)) this.#move();
  }

  /** Goes on from the cursor with another carrier. */
  #move(): void {
    const id = this.#id;
    if (id === undefined || !this.#carrier) return;
    this.#carrier.remove(id, this.#viewer);
    this.#carrier = this.#host.carry(id, this.#viewer, this.#choice);
  }

  /** Ends a wait for the next attempt, as when the network is back. */
  reconnectNow(): void { this.#carrier?.reconnectNow(); }

  [Symbol.asyncIterator](): AsyncIterator<AthenaEvent> { return this.#events; }

  #set(change: Partial<RunStatus>): void {
    this.#status = { ...this.#status, ...change };
    for (const l of this.#listeners) {
      try {
        l(this.#status);
      } catch (e) { // is nobody's fault but the listener's, and nobody else's loss
        (globalThis.reportError ?? console.error)(e);
      }
    }
  }

  async #drive(): Promise<void> {
    try {
      const id = this.#id = await this.#stream;
      const signal = this.#stop.signal;
      signal.throwIfAborted();
      const over = new Promise<unknown>((resolve) => { this.#over = resolve; });
      this.#carrier = this.#host.carry(id, this.#viewer, this.#choice);
      const why = await unless(signal, over).catch((e: unknown) => e);
      this.#carrier.remove(id, this.#viewer);
      this.#carrier = undefined;
      if (!(why instanceof LinkError && why.remedy === "finished")) throw why;
      this.#set({ state: "ended", waitMs: 0 });
      this.#events.end();
    } catch (e) {
      this.#stop.abort(e);
      this.#set({ state: "failed", reason: e instanceof Error ? e.message : String(e), waitMs: 0 });
      this.#events.fail(e);
      throw e;
    }
  }

  readonly #viewer: Viewer = (() => {
    const run = (): Run => this;
    let broken = false;
    return {
      get cursor() { return run().transcript.cursor; },
      events: (list) => {
        if (broken || this.#stop.signal.aborted) return;
        let n = 0;
        try {
          for (const e of list) {
            this.transcript.apply(e);
            this.#events.push(e);
            n++;
          }
        } catch (e) {
          broken = true;
          this.#over?.(e);
        }
        this.#set({ cursor: this.transcript.cursor, events: this.#status.events + n });
        if (!broken && this.transcript.terminal) this.#over?.(new LinkError("finished", "the stream has ended"));
      },
      received: (bytes) => { this.#set({ bytes: this.#status.bytes + bytes }); },
      changed: (s: LineState) => {
        const again = s.state === "connecting" && this.#connected;
        this.#connected = true;
        this.#set({ ...s, reconnects: this.#status.reconnects + (again ? 1 : 0) });
      },
      moved: () => { this.#move(); },
      over: (why) => { this.#over?.(why); },
    };
  })();
}
