import type { Text } from "@codemirror/state";
import type { AthenaEvent, Run } from "../client/index.js";
import { byID } from "./dom.js";
import type { Shown } from "./results.js";
import { texts } from "./texts.js";

/** How many runs the page keeps at hand. */
export const maxEntries = 12;
/** How many events that tell of a run's way are kept of one. */
const maxNotable = 200;

/** A run that the page has at hand. */
export interface Entry {
  readonly shown: Shown;
  /** Undefined for one of the history that needs no connection. */
  readonly run: Run | undefined;
  /** Whether it was started here, and isn't only watched. */
  readonly own: boolean;
  readonly title: string;
  readonly began: number;
  /** The code that it is about, where that is known. */
  readonly code: { doc: Text; name: string } | undefined;
  /** What tells of its way, so that it can be shown again. */
  notable: AthenaEvent[];
  /** Why it could not go on; empty where it could. */
  failure: string;
  /** The stream's id, once it is known. */
  id: string | undefined;
}

/** Keeps an event that more than the text depends on. */
export function note(e: Entry, event: AthenaEvent): void {
  if (event.type === "chunk" || event.type === "finding" || event.type === "usage" || event.type === "unknown") return;
  const last = e.notable.at(-1);
  if (last && last.type === event.type && (event.type === "progress" || event.type === "queued")) e.notable[e.notable.length - 1] = event;
  else if (e.notable.length < maxNotable) e.notable.push(event);
  else e.notable[maxNotable - 1] = event;
}

export function isLive(e: Entry): boolean {
  const s = e.run?.status.state;
  return s !== undefined && s !== "ended" && s !== "failed";
}

/** The runs at hand, and the list that leads from one to another. */
export class Runs {
  readonly #box = byID("runs-box", HTMLElement);
  readonly #list = byID("runs", HTMLElement);
  readonly #items = new Map<Entry, { item: HTMLElement; button: HTMLButtonElement; dot: HTMLElement; state: HTMLElement }>();
  #current: Entry | undefined;

  /** `shown` is told which entry is to be seen now; undefined when none is left. */
  constructor(private readonly shown: (e: Entry | undefined) => void) {}

  get current(): Entry | undefined { return this.#current; }
  get live(): number { return [...this.#items.keys()].filter(isLive).length; }
  find(id: string): Entry | undefined { return [...this.#items.keys()].find((e) => e.id === id); }

  /** Adds a run, and shows it. */
  add(e: Entry): void {
    const over = [...this.#items.keys()].find((x) => !isLive(x));
    if (this.#items.size >= maxEntries && over) this.#drop(over);
    const item = document.createElement("li");
    const button = item.appendChild(document.createElement("button"));
    button.type = "button";
    button.className = "entry";
    const dot = button.appendChild(document.createElement("span"));
    dot.className = "dot";
    const title = button.appendChild(document.createElement("span"));
    title.className = "title";
    title.textContent = e.title;
    const state = button.appendChild(document.createElement("span"));
    state.className = "unseen";
    button.addEventListener("click", () => { this.select(e); });
    const close = item.appendChild(document.createElement("button"));
    close.type = "button";
    close.className = "close";
    close.textContent = "×";
    close.setAttribute("aria-label", texts.close(e.title));
    close.addEventListener("click", () => { this.remove(e); });
    this.#items.set(e, { item, button, dot, state });
    this.#list.append(item);
    e.run?.onStatus(() => { this.#draw(e); });
    this.#draw(e);
    this.select(e);
  }

  select(e: Entry): void {
    this.#current = e;
    for (const [x, { button }] of this.#items) {
      if (x === e) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    this.#box.hidden = this.#items.size < 2;
    const { item } = this.#items.get(e) ?? {};
    if (item && !this.#box.hidden) { // as far as needed, and nothing but the list
      if (item.offsetLeft < this.#list.scrollLeft) this.#list.scrollLeft = item.offsetLeft;
      else this.#list.scrollLeft = Math.max(this.#list.scrollLeft, item.offsetLeft + item.offsetWidth - this.#list.clientWidth);
    }
    this.shown(e);
  }

  /** Takes a run from the list. It is no longer watched; it is not cancelled. */
  remove(e: Entry): void {
    const all = [...this.#items.keys()];
    const at = all.indexOf(e);
    const focused = this.#items.get(e)?.item.contains(document.activeElement) ?? false;
    this.#drop(e);
    const next = this.#current === e ? (all[at + 1] ?? all[at - 1]) : this.#current;
    if (next) this.select(next);
    else {
      this.#current = undefined;
      this.#box.hidden = true;
      this.shown(undefined);
    }
    if (focused) (this.#box.hidden ? byID("results", HTMLElement) : this.#items.get(next as Entry)?.button)?.focus();
  }

  #drop(e: Entry): void {
    e.run?.close();
    this.#items.get(e)?.item.remove();
    this.#items.delete(e);
  }

  #draw(e: Entry): void {
    const { dot, state } = this.#items.get(e) ?? {};
    const s = e.run?.status.state ?? "ended";
    if (!dot || !state || dot.dataset["state"] === s) return;
    dot.dataset["state"] = s;
    state.textContent = `, ${texts.states[s]}`;
  }
}
