import type { Athena } from "../client/index.js";
import { askTwice } from "./asktwice.js";
import { byID } from "./dom.js";
import { texts } from "./texts.js";
import { describeSource, describeState, readKeys, type KeyStatus } from "./keys.js";
import { describeFailure } from "./problems.js";
import type { ProviderStatus } from "./providers.js";

/** The keys of providers, for administrators: for others it stays hidden. */
export class KeyPanel {
  readonly #box = byID("provider-keys", HTMLElement);
  readonly #provider = byID("keys-provider", HTMLSelectElement);
  readonly #rows = byID("keys-rows", HTMLElement);
  readonly #note = byID("keys-note", HTMLElement);
  readonly #form = byID("keys-form", HTMLFormElement);
  readonly #id = byID("keys-id", HTMLInputElement);
  readonly #key = byID("keys-key", HTMLInputElement);

  constructor(private readonly athena: Athena) {
    this.#provider.addEventListener("change", () => { void this.#load(); });
    this.#form.addEventListener("submit", (e) => {
      e.preventDefault();
      const key = this.#key.value.trim(), id = this.#id.value.trim();
      this.#key.value = "";
      void this.#do(texts.keySet, () => athena.setProviderKey(this.#provider.value, id, key));
    });
  }

  /** Shows the keys of these providers, if the caller may see them. */
  async show(providers: readonly ProviderStatus[]): Promise<void> {
    const names = providers.filter((p) => p.dialect !== "local").map((p) => p.name);
    const chosen = names.includes(this.#provider.value) ? this.#provider.value : names[0];
    this.#provider.replaceChildren(...names.map((n) => new Option(n, n, n === chosen, n === chosen)));
    if (chosen === undefined) this.#box.hidden = true;
    else await this.#load();
  }

  async #load(): Promise<void> {
    try {
      const list = readKeys(await this.athena.providerKeys(this.#provider.value));
      this.#box.hidden = false;
      this.#form.hidden = list.readOnly !== "";
      this.#note.textContent = list.readOnly;
      this.#rows.replaceChildren(...list.keys.map((k) => this.#row(k)));
    } catch {
      this.#box.hidden = true; // not an administrator, or a server without
    }
  }

  #row(k: KeyStatus): HTMLElement {
    const tr = document.createElement("tr");
    tr.dataset["key"] = k.id;
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = k.id;
    const cells = [describeSource(k), describeState(k, Date.now()), k.calls.toLocaleString()].map((text) => {
      const td = document.createElement("td");
      td.textContent = text;
      return td;
    });
    const actions = document.createElement("td");
    const provider = this.#provider.value;
    const check = button(texts.check, texts.checkKey(k.id));
    check.addEventListener("click", () => { void this.#do(texts.keyChecked, () => this.athena.checkProviderKey(provider, k.id)); });
    actions.append(check);
    if (k.source === "stored") actions.append(this.#deleter(provider, k.id));
    tr.append(name, ...cells, actions);
    return tr;
  }

  #deleter(provider: string, id: string): HTMLElement {
    const b = button(texts.deleteIt, texts.deleteKey(id));
    askTwice(b, texts.deleteMeant, () => { void this.#do(texts.keyDeleted, () => this.athena.deleteProviderKey(provider, id)); });
    return b;
  }

  async #do(done: string, what: () => Promise<unknown>): Promise<void> {
    let said = done;
    try {
      await what();
    } catch (e) {
      said = describeFailure(e);
    }
    await this.#load();
    this.#note.textContent = said;
  }
}

function button(text: string, label: string): HTMLButtonElement {
  const b = document.createElement("button");
  b.type = "button";
  b.textContent = text;
  b.setAttribute("aria-label", label);
  return b;
}
