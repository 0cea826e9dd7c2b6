/** What the page reads of GET /v1/providers, and how it says it. */
import { isObject, type JSONObject } from "../client/index.js";
import { texts } from "./texts.js";

export type ProviderState = "ok" | "degraded" | "down";

/** A breaker that is not closed. */
export interface Trouble {
  model: string;
  state: "open" | "half_open";
  why: string;
  /** When a call is let through to see, in the server's milliseconds; 0 where it isn't known. */
  nextProbe: number;
}

export interface ProviderStatus {
  name: string;
  dialect: string;
  models: string[];
  state: ProviderState;
  troubles: Trouble[];
  /** Of the model with the most calls; undefined before the first. */
  firstContentMs: number | undefined;
  /** From 0 to 1, over all models; undefined before the first call. */
  errorRate: number | undefined;
  bulkhead: { workers: number; busy: number; queued: number } | undefined;
  usage: { calls: number; estimated: number; input: number; output: number; usd: number } | undefined;
}

export interface ProviderList {
  providers: ProviderStatus[];
  /** The server's time, in milliseconds; 0 where it doesn't say. */
  time: number;
}

const states: readonly string[] = ["ok", "degraded", "down"];

function num(o: JSONObject, key: string): number {
  const v = o[key];
  return typeof v === "number" ? v : 0;
}

function text(o: JSONObject, key: string): string {
  const v = o[key];
  return typeof v === "string" ? v : "";
}

function time(o: JSONObject, key: string): number {
  return Date.parse(text(o, key)) || 0;
}

/** Reads the list. What is missing or of another type is as if it were not known. */
export function readProviders(v: unknown): ProviderList {
  const list: unknown = isObject(v) ? v["providers"] : v;
  const out: ProviderStatus[] = [];
  for (const p of Array.isArray(list) ? (list as unknown[]) : []) {
    if (isObject(p) && typeof p["name"] === "string") out.push(readProvider(p));
  }
  return { providers: out, time: isObject(v) ? time(v, "time") : 0 };
}

function readProvider(p: JSONObject): ProviderStatus {
  const models = Array.isArray(p["models"]) ? (p["models"] as unknown[]).filter((m) => typeof m === "string") : [];
  const troubles: Trouble[] = [];
  let calls = 0, failed = 0, most = 0;
  let firstContentMs: number | undefined;
  for (const [model, m] of Object.entries(isObject(p["model_info"]) ? p["model_info"] : {})) {
    if (!isObject(m)) continue;
    const n = num(m, "calls");
    calls += n;
    failed += n * num(m, "error_rate");
    if (n > most && num(m, "first_content_ms") > 0) {
      most = n;
      firstContentMs = num(m, "first_content_ms");
    }
    const b = isObject(m["breaker"]) ? m["breaker"] : {};
    const state = text(b, "state");
    if (state === "open" || state === "half_open") troubles.push({ model, state, why: text(b, "why"), nextProbe: time(b, "next_probe") });
  }
  const bulkhead = p["bulkhead"], usage = p["usage"], state = text(p, "state");
  return {
    name: text(p, "name"), dialect: text(p, "dialect"), models, troubles, firstContentMs,
    state: states.includes(state) ? (state as ProviderState) : "ok",
    errorRate: calls > 0 ? failed / calls : undefined,
    bulkhead: isObject(bulkhead) ? { workers: num(bulkhead, "workers"), busy: num(bulkhead, "busy"), queued: num(bulkhead, "queued") } : undefined,
    usage: isObject(usage) ? {
      calls: num(usage, "calls"), estimated: num(usage, "estimated_calls"),
      input: num(usage, "input_tokens"), output: num(usage, "output_tokens"), usd: num(usage, "cost_usd"),
    } : undefined,
  };
}

/** Says what a breaker does, now being the server's time. */
export function describeTrouble(t: Trouble, now: number): string {
  const what = t.state === "open" ? texts.breakerOpen : texts.breakerHalfOpen;
  const left = Math.ceil((t.nextProbe - now) / 1000);
  const next = t.nextProbe === 0 || t.state === "half_open" ? "" : left > 0 ? texts.probeIn(left) : texts.probeNow;
  return [`${t.model ? `${t.model}: ` : ""}${what}`, t.why, next].filter(Boolean).join(" · ");
}

export function describeUse(p: ProviderStatus): string {
  const b = p.bulkhead;
  return b ? texts.busy(b.busy, b.workers, b.queued) : texts.none;
}

export function describeTime(ms: number | undefined): string {
  if (ms === undefined) return texts.none;
  return ms < 1000 ? texts.milliseconds(Math.round(ms)) : texts.seconds(ms / 1000);
}

export function describeErrors(rate: number | undefined): string {
  return rate === undefined ? texts.none : texts.percent(rate * 100);
}

export function describeUsage(p: ProviderStatus): string {
  const u = p.usage;
  if (!u || u.calls === 0) return texts.none;
  return [
    texts.callsMade(u.calls), texts.tokens(u.input, u.output),
    u.usd > 0 ? `$${u.usd.toFixed(4)}` : "", u.estimated > 0 ? texts.estimated(u.estimated) : "",
  ].filter(Boolean).join(" · ");
}
