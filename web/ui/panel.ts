import { byID } from "./dom.js";
import { needsKey } from "./problems.js";
import { texts } from "./texts.js";
import {
  describeErrors, describeTime, describeTrouble, describeUsage, describeUse, type ProviderList, type ProviderState, type ProviderStatus, type Trouble,
} from "./providers.js";

/** How often the providers are asked for: while the panel is open, and while only the status line tells of them. */
const refreshMs = 3000, closedMs = 10_000;
const labels: Readonly<Record<ProviderState, string>> = texts.providerStates;

/** The providers and how they do: asked for while the tab is looked at, often while it is open. */
export class Panel {
  readonly #box = byID("providers-box", HTMLDetailsElement);
  readonly #rows = byID("providers", HTMLElement);
  readonly #note = byID("providers-note", HTMLElement);
  #timer: ReturnType<typeof setTimeout> | undefined;
  #ticker: ReturnType<typeof setInterval> | undefined;
  #asking = false;
  #again = false;
  /** How far the server's clock is ahead of this one, in milliseconds. */
  #ahead = 0;
  #countdowns: { e: HTMLElement; trouble: Trouble }[] = [];

  constructor(private readonly ask: () => Promise<ProviderList>) {
    this.#box.addEventListener("toggle", () => { this.#changed(); });
    document.addEventListener("visibilitychange", () => { this.#changed(); });
    this.#later(); // the page asks by itself when it is loaded
  }

  /** Asks now, if anybody looks. */
  refresh(): void {
    if (document.hidden) return;
    if (this.#asking) this.#again = true; // what is under way may have been read too early
    else void this.#refresh();
  }

  #changed(): void {
    clearTimeout(this.#timer);
    clearInterval(this.#ticker);
    if (this.#box.open && !document.hidden) this.#ticker = setInterval(() => { this.#count(); }, 1000);
    this.refresh();
  }

  #later(): void {
    if (!document.hidden) this.#timer = setTimeout(() => { this.refresh(); }, this.#box.open ? refreshMs : closedMs);
  }

  async #refresh(): Promise<void> {
    clearTimeout(this.#timer);
    this.#asking = true;
    let refused = false;
    do {
      this.#again = false;
      try {
        this.#draw(await this.ask());
        this.#note.textContent = "";
        refused = false;
      } catch (e) {
        refused = needsKey(e);
        this.#note.textContent = texts.notUpToDate(e instanceof Error ? e.message : String(e));
      }
    } while (this.#again);
    this.#asking = false;
    if (!refused || this.#box.open) this.#later();
  }

  #draw(list: ProviderList): void {
    if (list.time > 0) this.#ahead = list.time - Date.now();
    this.#countdowns = [];
    this.#rows.replaceChildren(...list.providers.map((p) => this.#row(p)));
    this.#count();
  }

  #count(): void {
    const now = Date.now() + this.#ahead;
    for (const { e, trouble } of this.#countdowns) {
      const text = describeTrouble(trouble, now);
      if (e.textContent !== text) e.textContent = text;
    }
  }

  #row(p: ProviderStatus): HTMLElement {
    const tr = document.createElement("tr");
    tr.dataset["provider"] = p.name;
    const name = document.createElement("th");
    name.scope = "row";
    const dot = document.createElement("span");
    dot.className = "dot";
    dot.dataset["state"] = p.state;
    name.append(dot, p.name);
    const state = document.createElement("td");
    state.append(labels[p.state]);
    for (const trouble of p.troubles) {
      const e = document.createElement("div");
      e.className = "trouble";
      state.append(e);
      this.#countdowns.push({ e, trouble });
    }
    const cells = [describeUse(p), describeTime(p.firstContentMs), describeErrors(p.errorRate), describeUsage(p)].map((text) => {
      const td = document.createElement("td");
      td.textContent = text;
      return td;
    });
    tr.append(name, state, ...cells);
    return tr;
  }
}
