/** What the page reads of GET /v1/providers/{name}/keys, and how it says it. */
import { isObject } from "../client/index.js";
import { texts } from "./texts.js";

export interface KeyStatus {
  id: string;
  source: string;
  weight: number;
  last4: string;
  state: string;
  /** When it is used again, in the server's milliseconds; 0 where it doesn't rest. */
  until: number;
  /** When the provider was asked last whether it takes the key; 0 for never. */
  checked: number;
  /** What the provider said against it. */
  trouble: string;
  calls: number;
}

export interface KeyList {
  keys: KeyStatus[];
  /** Why none can be set; empty where they can. */
  readOnly: string;
}

/** Reads the list. What is missing or of another type is as if it were not known. */
export function readKeys(v: unknown): KeyList {
  const list: unknown = isObject(v) ? v["keys"] : undefined;
  const readOnly = isObject(v) ? v["read_only"] : undefined;
  return {
    keys: (Array.isArray(list) ? (list as unknown[]) : []).flatMap((k) => readKey(k)),
    readOnly: typeof readOnly === "string" ? readOnly : "",
  };
}

function readKey(k: unknown): KeyStatus[] {
  if (!isObject(k) || typeof k["id"] !== "string") return [];
  const text = (name: string): string => { const v = k[name]; return typeof v === "string" ? v : ""; };
  const num = (name: string): number => { const v = k[name]; return typeof v === "number" ? v : 0; };
  const time = (name: string): number => Date.parse(text(name)) || 0;
  const error = k["error"];
  const said = isObject(error) ? [error["title"], error["detail"]].filter((v) => typeof v === "string" && v !== "").join(": ") : "";
  return [{
    id: text("id"), source: text("source"), weight: num("weight"), last4: text("last4"), state: text("state"), until: time("until"),
    checked: time("checked"), trouble: said, calls: num("calls"),
  }];
}

export function describeSource(k: KeyStatus): string {
  return [texts.keySources[k.source] ?? k.source, k.last4 ? texts.endsWith(k.last4) : ""].filter(Boolean).join(", ");
}

/** Says how a key does, now being the time. */
export function describeState(k: KeyStatus, now: number): string {
  const rest = Math.ceil((k.until - now) / 1000);
  const age = Math.max(0, Math.round((now - k.checked) / 1000));
  return [
    texts.keyStates[k.state] ?? k.state, rest > 0 ? texts.rests(rest) : "", k.trouble,
    k.checked === 0 ? texts.neverChecked : texts.checkedAgo(age),
  ].filter(Boolean).join(" · ");
}
