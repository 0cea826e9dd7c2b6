import { LinkError } from "./errors.js";
import type { Offer, TransportName } from "./events.js";
import { openLongPoll, openSSE } from "./fetched.js";
import type { Link, LinkParams, LinkSink, Opener } from "./link.js";
import { openWebSocket } from "./websocket.js";

const openers: Record<TransportName, Opener> = {
  websocket: openWebSocket,
  sse: openSSE,
  "long-poll": openLongPoll,
};

/** Where a page keeps what worked; the platform's sessionStorage is one. */
export interface SessionStore {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

const key = "athena.transport";

/**
 * Remembers for the page's session which transport worked, so that a page
 * behind a proxy that blocks WebSockets waits for that once. What was not the
 * best is forgotten after a while, so that the better one gets another chance.
 */
export class TransportMemory {
  #name: TransportName | undefined;
  #at = 0;
  constructor(private readonly store: SessionStore | undefined, private readonly retryMs: number) {
    try {
      const [name, at] = (store?.getItem(key) ?? "").split(" ");
      if (name && Object.hasOwn(openers, name)) {
        this.#name = name as TransportName;
        this.#at = Number(at) || 0;
      }
    } catch { /* storage may be forbidden */ }
  }

  worked(name: TransportName): void {
    if (name === this.#name) return;
    this.#name = name;
    this.#at = Date.now();
    try { this.store?.setItem(key, `${name} ${this.#at}`); } catch { /* full or forbidden: remembered here only */ }
  }

  forget(): void {
    this.#name = undefined;
    try { this.store?.removeItem(key); } catch { /* forbidden */ }
  }

  /** The offers in the order to try: what worked first, then the worse ones, then the better. */
  order(offers: Offer[]): Offer[] {
    if (Date.now() - this.#at > this.retryMs) return offers;
    const i = offers.findIndex((o) => o.name === this.#name);
    return i <= 0 ? offers : [...offers.slice(i), ...offers.slice(0, i)];
  }
}

/**
 * Opens a link over the first offer that proves itself in time. Each attempt
 * is over before the next begins. What a proxy can't be the cause of, such as
 * an unknown stream, ends the search.
 */
export async function openFirst(
  offers: readonly Offer[], probeMs: number, signal: AbortSignal, sink: LinkSink,
  params: (offer: Offer) => Omit<LinkParams, "probe">,
): Promise<Link> {
  const reasons: string[] = [];
  let hint: number | undefined;
  for (const offer of offers) {
    const late = new AbortController();
    const timer = setTimeout(() => { late.abort(new LinkError("reconnect", `no welcome within ${probeMs} ms`)); }, probeMs);
    try {
      return await openers[offer.name]({ ...params(offer), probe: AbortSignal.any([signal, late.signal]) }, sink);
    } catch (e) {
      if (!(e instanceof LinkError) || e.remedy !== "reconnect") throw e;
      hint = e.afterMs ?? hint;
      reasons.push(`${offer.name}: ${e.message}`);
    } finally {
      clearTimeout(timer);
    }
  }
  throw new LinkError("reconnect", reasons.join("; ") || "the server offers no transport", hint);
}
