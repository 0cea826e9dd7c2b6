import type { AthenaEvent } from "../client/index.js";
import { byID } from "./dom.js";

/** What an event tells of the way to the answer; undefined for one that tells nothing of it. */
export function describeAttempt(e: AthenaEvent): string | undefined {
  switch (e.type) {
    case "started": return `${e.data.provider}${e.data.model ? ` (${e.data.model})` : ""} is asked`;
    case "queued":
      if (e.data.reason !== "rate_limit") return `Waiting for a place, position ${e.data.position}`;
      return `Waiting for a rate limit${e.data.retry_after_ms === undefined ? "" : `, ${seconds(e.data.retry_after_ms)}`}`;
    case "retrying":
      return `${e.data.provider}: ${e.data.error?.code ?? "failed"}; asked again ${e.data.after_ms > 0 ? `after ${seconds(e.data.after_ms)}` : "at once"}`;
    case "failover": {
      const { from, to, reason, discard } = e.data;
      const way = from === to ? `${from} ${discard ? "starts again" : "goes on"}` : `${from} → ${to}`;
      return `${way}: ${reason}${discard ? "; what was said is dropped" : ""}`;
    }
    case "completed": {
      const marks = [e.data.degraded ? "answered by the offline analyser, since no provider did" : "", e.data.usage?.estimated ? "usage is estimated" : ""];
      const text = marks.filter(Boolean).join("; ");
      return text === "" ? undefined : text.charAt(0).toUpperCase() + text.slice(1);
    }
    default: return undefined;
  }
}

function seconds(ms: number): string {
  return ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`;
}

const maxShown = 50;

/** The way to the answer, shown once there is more to it than one provider's being asked. */
export class Attempts {
  readonly #box = byID("attempts-box", HTMLElement);
  readonly #list = byID("attempts", HTMLElement);
  #eventful = false;

  clear(): void {
    this.#list.replaceChildren();
    this.#box.hidden = true;
    this.#eventful = false;
  }

  event(e: AthenaEvent): void {
    const text = describeAttempt(e);
    if (text === undefined) return;
    const last = this.#list.lastElementChild;
    if (e.type === "queued" && last instanceof HTMLElement && last.dataset["type"] === "queued") {
      last.textContent = text; // a place further in front, and no news of its own
      return;
    }
    const li = document.createElement("li");
    li.dataset["type"] = e.type;
    li.textContent = text;
    this.#list.append(li);
    if (this.#list.childElementCount > maxShown) this.#list.firstElementChild?.remove();
    this.#eventful ||= e.type !== "started" || this.#list.childElementCount > 1;
    this.#box.hidden = !this.#eventful;
  }
}
