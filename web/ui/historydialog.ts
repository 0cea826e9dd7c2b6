import { askTwice } from "./asktwice.js";
import { byID } from "./dom.js";
import type { HistoryStore, PastRun } from "./history.js";
import { texts } from "./texts.js";

/** The dialog with the runs of this browser. */
export class HistoryDialog {
  readonly #dialog = byID("history", HTMLDialogElement);
  readonly #list = byID("history-list", HTMLElement);
  readonly #empty = byID("history-empty", HTMLElement);
  readonly #clear = byID("history-clear", HTMLButtonElement);
  readonly #unask: () => void;
  #runs: PastRun[] = [];

  constructor(private readonly store: HistoryStore, private readonly who: () => string, private readonly chosen: (r: PastRun) => void) {
    byID("history-open", HTMLButtonElement).addEventListener("click", () => { void this.open(); });
    byID("history-close", HTMLButtonElement).addEventListener("click", () => { this.#dialog.close(); });
    this.#dialog.addEventListener("click", (e) => { if (e.target === this.#dialog) this.#dialog.close(); }); // beside it
    this.#unask = askTwice(this.#clear, texts.historyClearMeant, () => { void this.#remove(this.#runs.map((r) => r.id)); });
  }

  async open(): Promise<void> {
    this.#unask();
    await this.#load();
    this.#dialog.showModal();
  }

  async #load(): Promise<void> {
    this.#runs = await this.store.list(this.who());
    this.#list.replaceChildren(...this.#runs.map((r) => this.#item(r)));
    this.#empty.hidden = this.#runs.length > 0;
    this.#clear.disabled = this.#runs.length === 0;
  }

  async #remove(ids: readonly string[]): Promise<void> {
    await this.store.remove(ids);
    await this.#load();
    (this.#list.querySelector("button") ?? byID("history-close", HTMLButtonElement)).focus();
  }

  #item(r: PastRun): HTMLElement {
    const li = document.createElement("li");
    const open = li.appendChild(document.createElement("button"));
    open.type = "button";
    open.className = "past";
    const when = new Date(r.time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    const title = document.createElement("strong");
    title.textContent = r.title;
    const more = document.createElement("span");
    more.className = "hint";
    more.textContent = [when, pastState(r), r.findings.length > 0 ? texts.historyFindings(r.findings.length) : ""].filter(Boolean).join(" · ");
    open.append(title, more);
    open.addEventListener("click", () => {
      this.#dialog.close();
      this.chosen(r);
    });
    const remove = li.appendChild(document.createElement("button"));
    remove.type = "button";
    remove.className = "quiet";
    remove.textContent = texts.remove;
    remove.setAttribute("aria-label", texts.historyRemove(`${r.title}, ${when}`));
    remove.addEventListener("click", () => { void this.#remove([r.id]); });
    return li;
  }
}

function pastState(r: PastRun): string {
  switch (r.state) {
    case "running": return texts.states.live;
    case "completed": return "";
    case "failed": return texts.states.failed;
    case "cancelled": return texts.stopped;
  }
}
