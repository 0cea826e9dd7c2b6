import type { AthenaEvent } from "../client/index.js";
import { byID } from "./dom.js";
import { texts } from "./texts.js";

/** What an event tells of the way to the answer; undefined for one that tells nothing of it. */
export function describeAttempt(e: AthenaEvent): string | undefined {
  switch (e.type) {
    case "started": return texts.asked(`${e.data.provider}${e.data.model ? ` (${e.data.model})` : ""}`);
    case "queued":
      if (e.data.reason !== "rate_limit") return texts.waitingPlace(e.data.position);
      return texts.waitingRate(e.data.retry_after_ms === undefined ? "" : seconds(e.data.retry_after_ms));
    case "retrying":
      return texts.askedAgain(e.data.provider, e.data.error?.code ?? texts.failedShort, e.data.after_ms > 0 ? seconds(e.data.after_ms) : "");
    case "failover": {
      const { from, to, reason, discard } = e.data;
      const way = from === to ? (discard ? texts.startsAgain(from) : texts.goesOn(from)) : `${from} → ${to}`;
      return `${way}: ${reason}${discard ? `; ${texts.dropped}` : ""}`;
    }
    case "completed": {
      const marks = [e.data.degraded ? texts.byAnalyser : "", e.data.usage?.estimated ? texts.estimatedUsage : ""];
      const text = marks.filter(Boolean).join("; ");
      return text === "" ? undefined : text.charAt(0).toUpperCase() + text.slice(1);
    }
    default: return undefined;
  }
}

function seconds(ms: number): string {
  return ms < 1000 ? texts.milliseconds(ms) : texts.seconds(ms / 1000);
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
