/**
 * `athena-client/tabs`: the tabs of one site share one connection. The tab that
 * holds a Web Lock connects for all of them, and hands the others their events
 * over a BroadcastChannel. When it goes, another takes the lock, and every stream
 * goes on from its watcher's cursor.
 */
import { AthenaError, LinkError } from "./errors.js";
import type { AthenaEvent, Problem } from "./events.js";
import type { Carrier, Carry, LineState, Sharing, Viewer } from "./line.js";

/** What is used of the Web Locks API. */
export interface Locks {
  request(name: string, options: { signal: AbortSignal }, held: () => Promise<void>): Promise<unknown>;
}

/** What tabs may be told. */
export interface TabsOptions {
  /** Default navigator.locks; without it (plain HTTP, old browsers) each tab has its own connection. */
  locks?: Locks;
  /** How long to wait for the tab that connects, before having an own connection. Default 3 s. */
  patienceMs?: number;
}

type Message =
  | { kind: "leader" }
  | { kind: "watch"; tab: string; n: number; stream: string; after: number }
  | { kind: "leave" | "cut" | "retry"; tab: string; n: number }
  | { kind: "events"; tab: string; n: number; list: AthenaEvent[] }
  | { kind: "bytes"; tab: string; n: number; bytes: number }
  | { kind: "state"; tab: string; n: number; state: LineState }
  | { kind: "over"; tab: string; n: number; problem: Problem | undefined; reason: string };

/** Lets an Athena share its connection with those of other tabs. */
export class Tabs implements Sharing {
  readonly #options: TabsOptions;
  constructor(options: TabsOptions = {}) { this.#options = options; }

  join(name: Promise<string>, local: Carry): Carry {
    const locks = this.#options.locks ?? (typeof navigator === "undefined" ? undefined : (navigator as { locks?: Locks }).locks);
    if (!locks || typeof BroadcastChannel === "undefined") return local;
    const tab = new Tab(name, local, locks, this.#options.patienceMs ?? 3000);
    return (stream, viewer) => tab.carry(stream, viewer);
  }
}

/** A viewer of this tab, and who carries its stream now. */
interface Passenger { stream: string; viewer: Viewer; carrier: Carrier | undefined; answered: boolean; timer: ReturnType<typeof setTimeout> | undefined }

class Tab {
  readonly #id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16)).join("");
  readonly #passengers = new Map<number, Passenger>();
  /** Other tabs' viewers, while this one leads: by tab and number. */
  readonly #guests = new Map<string, Map<number, Guest>>();
  #n = 0;
  #leading = false;
  #session: AbortController | undefined;
  #channel: BroadcastChannel | undefined;

  constructor(
    private readonly name: Promise<string>, private readonly local: Carry,
    private readonly locks: Locks, private readonly patienceMs: number,
  ) {
    if (typeof document === "undefined") return;
    // A page in the back-forward cache must hold neither the lock nor the channel.
    window.addEventListener("pagehide", () => { this.#leave(); });
    window.addEventListener("pageshow", () => { if (this.#passengers.size > 0) this.#join(); });
  }

  carry(stream: string, viewer: Viewer): Carrier {
    const p: Passenger = { stream, viewer, carrier: undefined, answered: false, timer: undefined };
    let n = this.#board(p);
    const find = (): void => { for (const [m, q] of this.#passengers) if (q === p) n = m; };
    if (this.#session) this.#ask(n, p);
    else this.#join();
    const tell = (kind: "cut" | "retry", own: () => void): void => {
      find();
      if (p.carrier) own();
      else this.#post({ kind, tab: this.#id, n });
    };
    return {
      remove: () => {
        find();
        if (!this.#passengers.delete(n)) return;
        clearTimeout(p.timer);
        if (p.carrier) p.carrier.remove(stream, viewer);
        else this.#post({ kind: "leave", tab: this.#id, n });
        this.#look();
      },
      cut: (why) => { tell("cut", () => { p.carrier?.cut(why); }); },
      reconnectNow: () => { tell("retry", () => { p.carrier?.reconnectNow(); }); },
      choose: (choice) => choice === "auto",
    };
  }

  #board(p: Passenger): number {
    this.#passengers.set(++this.#n, p);
    return this.#n;
  }

  #join(): void {
    if (this.#session) return;
    const session = this.#session = new AbortController();
    const { signal } = session;
    this.name.then((name) => {
      if (signal.aborted) return;
      const channel = this.#channel = new BroadcastChannel(`athena ${name}`);
      channel.onmessage = (e: MessageEvent<Message>) => { this.#receive(name, e.data, signal); };
      const forever = (begin: () => void) => (): Promise<void> => new Promise((resolve) => {
        if (signal.aborted) { resolve(); return; }
        signal.addEventListener("abort", () => { resolve(); });
        begin();
      });
      const given = (): void => undefined; // by the signal
      // Its end tells whoever leads that this tab is gone.
      this.locks.request(`athena ${name} ${this.#id}`, { signal }, forever(() => { this.#askAll(); })).catch(given);
      this.locks.request(`athena ${name}`, { signal }, forever(() => {
        this.#leading = true;
        for (const p of this.#passengers.values()) this.#carryHere(p);
        this.#post({ kind: "leader" });
      })).catch(given);
    }, () => { for (const p of this.#passengers.values()) this.#carryHere(p); });
  }

  /** Leaves when there is nobody to carry. */
  #look(): void {
    if (this.#passengers.size > 0) return;
    for (const guests of this.#guests.values()) if (guests.size > 0) return;
    this.#leave();
  }

  #leave(): void {
    this.#session?.abort();
    this.#session = undefined;
    this.#leading = false;
    for (const guests of this.#guests.values()) for (const c of guests.values()) c.remove();
    this.#guests.clear();
    for (const p of this.#passengers.values()) {
      clearTimeout(p.timer);
      p.carrier?.remove(p.stream, p.viewer);
      p.carrier = undefined;
    }
    this.#channel?.close();
    this.#channel = undefined;
  }

  #post(m: Message): void { this.#channel?.postMessage(m); }

  #carryHere(p: Passenger): void {
    clearTimeout(p.timer);
    p.carrier ??= this.local(p.stream, p.viewer);
  }

  /** Asks the leading tab, from the cursor on. A new number, so that what an earlier one still says is told apart. */
  #ask(n: number, p: Passenger): void {
    if (p.carrier) return;
    if (this.#leading) { this.#carryHere(p); return; }
    this.#passengers.delete(n);
    n = this.#board(p);
    p.answered = false;
    this.#await(p);
    this.#post({ kind: "watch", tab: this.#id, n, stream: p.stream, after: p.viewer.cursor });
  }

  #askAll(): void {
    for (const [n, p] of [...this.#passengers]) this.#ask(n, p);
  }

  /** A leader that says nothing may have been stopped by its browser. Heartbeats come to it, and from it here. */
  #await(p: Passenger): void {
    clearTimeout(p.timer);
    p.timer = setTimeout(() => {
      for (const [n, q] of this.#passengers) if (q === p) this.#post({ kind: "leave", tab: this.#id, n });
      for (const [n, q] of [...this.#passengers]) {
        if (q !== p) continue;
        this.#passengers.delete(n); // no longer listened to
        this.#board(p);
      }
      this.#carryHere(p);
    }, p.answered ? 60_000 : this.patienceMs);
  }

  #receive(name: string, m: Message, signal: AbortSignal): void {
    if (m.kind === "leader") { this.#askAll(); return; }
    if (m.kind === "watch" || m.kind === "leave" || m.kind === "cut" || m.kind === "retry") {
      if (this.#leading) this.#serve(name, m, signal);
      return;
    }
    const p = m.tab === this.#id ? this.#passengers.get(m.n) : undefined;
    if (!p || p.carrier) return;
    p.answered = true;
    this.#await(p);
    switch (m.kind) {
      case "events": p.viewer.events(m.list); return;
      case "bytes": p.viewer.received(m.bytes); return;
      case "state": p.viewer.changed(m.state); return;
      case "over":
        clearTimeout(p.timer);
        p.viewer.over(m.problem ? new AthenaError(m.problem) : new LinkError("finished", m.reason));
        return;
    }
  }

  /** Does for another tab what it asks. */
  #serve(name: string, m: Extract<Message, { kind: "watch" | "leave" | "cut" | "retry" }>, signal: AbortSignal): void {
    const { tab, n } = m;
    let guests = this.#guests.get(tab);
    if (m.kind !== "watch") {
      const carrier = guests?.get(n);
      if (m.kind === "cut") carrier?.cut(new LinkError("reconnect", "cut by hand"));
      else if (m.kind === "retry") carrier?.reconnectNow();
      else if (guests?.delete(n)) {
        carrier?.remove();
        this.#look();
      }
      return;
    }
    if (!guests) {
      this.#guests.set(tab, guests = new Map<number, Guest>());
      this.locks.request(`athena ${name} ${tab}`, { signal }, () => {
        for (const c of this.#guests.get(tab)?.values() ?? []) c.remove();
        this.#guests.delete(tab);
        this.#look();
        return Promise.resolve();
      }).catch(() => undefined);
    }
    const { stream } = m;
    let cursor = m.after;
    const viewer: Viewer = {
      get cursor() { return cursor; },
      events: (list) => {
        cursor = list.at(-1)?.seq ?? cursor;
        this.#post({ kind: "events", tab, n, list });
      },
      received: (bytes) => { this.#post({ kind: "bytes", tab, n, bytes }); },
      changed: (state) => { this.#post({ kind: "state", tab, n, state }); },
      moved: () => { carry(); },
      over: (why) => {
        guests.delete(n);
        const finished = why instanceof LinkError && why.remedy === "finished";
        const reason = why instanceof Error ? why.message : String(why);
        const problem = finished ? undefined
          : why instanceof AthenaError ? why.problem : { code: "connection_failed", title: reason, status: 0, retryable: false };
        this.#post({ kind: "over", tab, n, problem, reason });
        this.#look();
      },
    };
    const carry = (): void => { guests.set(n, bind(this.local(stream, viewer), stream, viewer)); };
    carry();
  }
}

/** A guest and who carries its stream. */
interface Guest { remove(): void; cut(why: LinkError): void; reconnectNow(): void }

function bind(c: Carrier, stream: string, viewer: Viewer): Guest {
  return { remove: () => { c.remove(stream, viewer); }, cut: (why) => { c.cut(why); }, reconnectNow: () => { c.reconnectNow(); } };
}
