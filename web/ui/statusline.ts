import type { AthenaEvent, RunStatus } from "../client/index.js";
import { byID } from "./dom.js";
import { describeTime, type ProviderList } from "./providers.js";
import type { Entry } from "./runs.js";
import { texts } from "./texts.js";

/** Tells how the connection of the shown run does, at most once a frame: it changes with every message. */
export class StatusLine {
  readonly #dot = byID("dot", HTMLElement);
  readonly #state = byID("state", HTMLElement);
  readonly #cut = byID("cut", HTMLButtonElement);
  readonly #breakers = byID("s-breakers", HTMLElement);
  #frame = 0;
  #entry: Entry | undefined;
  /** How far the server's clock is ahead of this one, in milliseconds. */
  #ahead = 0;
  #delay: number | undefined;

  /** Shows another run's. */
  show(e: Entry | undefined): void {
    this.#entry = e;
    this.#delay = undefined;
    this.changed();
  }

  /** Shows how it is now. */
  changed(): void {
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => { this.#frame = 0; this.#draw(); });
  }

  /** Takes an event as it arrives, for how long it was on its way. */
  event(e: AthenaEvent): void {
    const sent = Date.parse(e.time);
    if (this.#entry && sent + 1 >= this.#entry.began + this.#ahead) this.#delay = Math.max(0, Date.now() + this.#ahead - sent);
  }

  /** Takes what the server says of its time and its providers, asked for at this moment. */
  providers(list: ProviderList, asked: number): void {
    const now = Date.now();
    // Times are right to half of the way there and back: what is within it is as good as equal.
    if (list.time > 0) this.#ahead = Math.abs(list.time - (asked + now) / 2) <= Math.max(20, now - asked) ? 0 : list.time - (asked + now) / 2;
    const open = list.providers.filter((p) => p.troubles.length > 0).map((p) => p.name);
    set(this.#breakers, open.length === 0 ? texts.breakersClosed : texts.breakersOpen(open.join(", ")));
    this.#breakers.classList.toggle("trouble", open.length > 0);
  }

  #draw(): void {
    const e = this.#entry;
    const s = e?.run?.status;
    this.#dot.dataset["state"] = e ? (s?.state ?? "ended") : "idle";
    const wait = s?.state === "waiting" && s.waitMs >= 1000 ? texts.waitSeconds(Math.round(s.waitMs / 1000)) : "";
    set(this.#state, e ? stateLabel(e, s) + wait : texts.idle);
    this.#state.title = s?.reason ?? "";
    set(byID("s-transport", HTMLElement), s?.transport ? texts.transports[s.transport] : texts.none);
    set(byID("s-node", HTMLElement), s?.node ? s.node : texts.none);
    set(byID("s-cursor", HTMLElement), String(s?.cursor ?? 0));
    set(byID("s-events", HTMLElement), String(s?.events ?? 0));
    set(byID("s-bytes", HTMLElement), size(s?.bytes ?? 0));
    set(byID("s-reconnects", HTMLElement), String(s?.reconnects ?? 0));
    set(byID("s-delay", HTMLElement), describeTime(this.#delay));
    const end = e?.notable.at(-1);
    set(byID("s-cache", HTMLElement), end?.type !== "completed" ? texts.none : end.data.stale ? texts.cacheStale : end.data.cached ? texts.cacheHit : texts.cacheMiss);
    this.#cut.disabled = s?.state !== "live";
  }
}

function stateLabel(e: Entry, s: RunStatus | undefined): string {
  const end = e.notable.at(-1);
  if (s !== undefined && s.state !== "ended") return texts.states[s.state];
  if (end?.type === "cancelled") return end.data.by === "client" ? texts.stopped : texts.cancelled;
  return texts.states[!s && end?.type === "failed" ? "failed" : "ended"];
}

function set(e: HTMLElement, text: string): void {
  if (e.textContent !== text) e.textContent = text;
}

function size(n: number): string {
  if (n < 1000) return `${n} B`;
  return n < 1e6 ? `${(n / 1e3).toFixed(1)} kB` : `${(n / 1e6).toFixed(1)} MB`;
}
