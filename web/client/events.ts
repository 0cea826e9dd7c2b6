/**
 * The wire as a client sees it: events, problems and the other messages of a
 * server, with the checks that turn unknown JSON into them. Unknown types and
 * fields are kept and ignored, as the protocol asks.
 */

export type TransportName = "websocket" | "sse" | "long-poll";
export const transportNames: readonly TransportName[] = ["websocket", "sse", "long-poll"];

export type AnalysisKind = "security" | "bugs" | "performance" | "review" | "explain" | "deobfuscate" | "custom";

/** What to analyse. Only `code` is required. */
export interface AnalysisRequest {
  code: string;
  language?: string;
  filename?: string;
  analysis?: AnalysisKind;
  /** The question of a `custom` analysis. */
  prompt?: string;
  /** A provider's name, or `auto`. */
  provider?: string;
  model?: string;
  options?: {
    temperature?: number;
    max_tokens?: number;
    reasoning?: "off" | "low" | "medium" | "high";
    /** Whether a second provider may be asked while the first is silent. */
    hedge?: boolean;
    /** Whether the offline analyser may answer when no provider does. */
    degrade?: boolean;
  };
  cache?: "use" | "refresh" | "bypass";
  /** A duration with a unit, such as "90s". */
  orphan_timeout?: string;
}

/** What the wire says of a failure (RFC 9457). */
export interface Problem {
  code: string;
  title: string;
  detail?: string;
  status: number;
  retryable: boolean;
  retry_after_ms?: number;
  provider?: string;
}

export interface Position { line: number; column: number }
export type Severity = "critical" | "high" | "medium" | "low" | "info";
export interface Started { provider: string; model: string; analysis: string; language?: string; attempt: number }
/** `reason` is "concurrency" (`position` from 1) or "rate_limit". */
export interface Queued { position: number; reason: string; retry_after_ms?: number }
export interface Retrying { provider: string; attempt: number; after_ms: number; error?: Problem }
/** `reason` is the code of an error, or "hedged"; `from` may equal `to`. */
export interface Failover { from: string; to: string; attempt: number; reason: string; discard: boolean }
export interface Chunk { kind: string; text: string; attempt: number }
export interface Finding {
  rule: string;
  severity: Severity;
  message: string;
  /** Lines and columns from 1, columns in UTF-16 code units; `end` is exclusive. */
  range: { start: Position; end: Position };
  /** What to do, in words. */
  suggestion?: string;
  /** Code in place of the whole lines of `range`, both included; empty takes them out. */
  replacement?: string;
}
export interface Progress { stage: string; percent?: number }
export interface Usage {
  input_tokens: number;
  output_tokens: number;
  cached_tokens?: number;
  reasoning_tokens?: number;
  cost_usd?: number;
  /** The provider did not tell; the numbers are estimated. */
  estimated?: boolean;
}
export interface Completed {
  finish_reason: string;
  provider: string;
  model: string;
  cached: boolean;
  /** An earlier answer to an equal request: no provider could be reached. */
  stale?: boolean;
  degraded: boolean;
  usage?: Usage;
  events: number;
  bytes: number;
  sha256: string;
}
export interface Failed { error: Problem }
export interface Cancelled { by: string }

/** Which data belongs to which type of event. */
export interface EventData {
  started: Started;
  queued: Queued;
  retrying: Retrying;
  failover: Failover;
  chunk: Chunk;
  finding: Finding;
  progress: Progress;
  usage: Usage;
  completed: Completed;
  failed: Failed;
  cancelled: Cancelled;
}
export type EventType = keyof EventData;

interface EventHead { stream: string; seq: number; first: number; time: string }

/** An event of a type that this version knows. `first` is always set. */
export type KnownEvent = { [T in EventType]: EventHead & { type: T; data: EventData[T] } }[EventType];
/** An event of a type that a newer server knows. */
export type UnknownEvent = EventHead & { type: "unknown"; name: string; data: JSONObject };
export type AthenaEvent = KnownEvent | UnknownEvent;

export type JSONObject = { readonly [key: string]: unknown };

export function isObject(v: unknown): v is JSONObject {
  return typeof v === "object" && v !== null && !Array.isArray(v);
}

/** Thrown where a message is not what the protocol says. */
export class MalformedError extends Error {
  override name = "MalformedError";
}

function str(o: JSONObject, key: string): string {
  const v = o[key];
  if (v === undefined || v === null) return "";
  if (typeof v !== "string") throw new MalformedError(`field "${key}" is not text`);
  return v;
}

function num(o: JSONObject, key: string): number {
  const v = o[key];
  if (v === undefined || v === null) return 0;
  if (typeof v !== "number") throw new MalformedError(`field "${key}" is not a number`);
  return v;
}

function bool(o: JSONObject, key: string): boolean {
  const v = o[key];
  if (v === undefined || v === null) return false;
  if (typeof v !== "boolean") throw new MalformedError(`field "${key}" is neither true nor false`);
  return v;
}

function obj(o: JSONObject, key: string): JSONObject {
  const v = o[key];
  if (v === undefined || v === null) return {};
  if (!isObject(v)) throw new MalformedError(`field "${key}" is not an object`);
  return v;
}

/** The field under `key` as `{key: value}`, or nothing where it is absent. */
function maybe<K extends string, V>(o: JSONObject, key: K, read: (o: JSONObject, key: string) => V): { [P in K]?: V } {
  const out: { [P in K]?: V } = {};
  if (o[key] !== undefined && o[key] !== null) out[key] = read(o, key);
  return out;
}

function position(o: JSONObject): Position {
  return { line: num(o, "line"), column: num(o, "column") };
}

export function parseProblem(v: unknown): Problem {
  if (!isObject(v) || typeof v["code"] !== "string") throw new MalformedError("the error has no code");
  return {
    code: v["code"],
    title: str(v, "title"),
    status: num(v, "status"),
    retryable: bool(v, "retryable"),
    ...maybe(v, "detail", str),
    ...maybe(v, "retry_after_ms", num),
    ...maybe(v, "provider", str),
  };
}

function parseUsage(d: JSONObject): Usage {
  return {
    input_tokens: num(d, "input_tokens"),
    output_tokens: num(d, "output_tokens"),
    ...maybe(d, "cached_tokens", num),
    ...maybe(d, "reasoning_tokens", num),
    ...maybe(d, "cost_usd", num),
    ...maybe(d, "estimated", bool),
  };
}

const severities: readonly string[] = ["critical", "high", "medium", "low", "info"];
function severity(s: string): Severity {
  return severities.includes(s) ? (s as Severity) : "info";
}

const decoders: { [T in EventType]: (d: JSONObject) => EventData[T] } = {
  started: (d) => ({
    provider: str(d, "provider"), model: str(d, "model"), analysis: str(d, "analysis"), attempt: num(d, "attempt"),
    ...maybe(d, "language", str),
  }),
  queued: (d) => ({ position: num(d, "position"), reason: str(d, "reason"), ...maybe(d, "retry_after_ms", num) }),
  retrying: (d) => ({
    provider: str(d, "provider"), attempt: num(d, "attempt"), after_ms: num(d, "after_ms"),
    ...maybe(d, "error", (o, k) => parseProblem(o[k])),
  }),
  failover: (d) => ({
    from: str(d, "from"), to: str(d, "to"), attempt: num(d, "attempt"), reason: str(d, "reason"), discard: bool(d, "discard"),
  }),
  chunk: (d) => ({ kind: str(d, "kind"), text: str(d, "text"), attempt: num(d, "attempt") }),
  finding: (d) => {
    const range = obj(d, "range");
    return {
      rule: str(d, "rule"), severity: severity(str(d, "severity")), message: str(d, "message"),
      range: { start: position(obj(range, "start")), end: position(obj(range, "end")) },
      ...maybe(d, "suggestion", str), ...maybe(d, "replacement", str),
    };
  },
  progress: (d) => ({ stage: str(d, "stage"), ...maybe(d, "percent", num) }),
  usage: parseUsage,
  completed: (d) => ({
    finish_reason: str(d, "finish_reason"), provider: str(d, "provider"), model: str(d, "model"),
    cached: bool(d, "cached"), degraded: bool(d, "degraded"),
    events: num(d, "events"), bytes: num(d, "bytes"), sha256: str(d, "sha256"), ...maybe(d, "stale", bool),
    ...maybe(d, "usage", (o, k) => parseUsage(obj(o, k))),
  }),
  failed: (d) => ({ error: parseProblem(d["error"]) }),
  cancelled: (d) => ({ by: str(d, "by") }),
};

function known(type: string): type is EventType {
  return Object.hasOwn(decoders, type);
}

/** Generic so that type and data stay tied together. */
function decode<T extends EventType>(head: EventHead, type: T, data: JSONObject): EventHead & { type: T; data: EventData[T] } {
  const read: (d: JSONObject) => EventData[T] = decoders[type];
  return { ...head, type, data: read(data) };
}

/** Checks and reads one event. */
export function parseEvent(v: unknown): AthenaEvent {
  if (!isObject(v)) throw new MalformedError("an event is not an object");
  const { stream, seq, type } = v;
  if (typeof stream !== "string" || typeof type !== "string" || !Number.isSafeInteger(seq)) {
    throw new MalformedError("an event lacks its stream, seq or type");
  }
  const last = num(v, "seq");
  const first = v["first"] === undefined || v["first"] === 0 ? last : num(v, "first");
  if (!Number.isSafeInteger(first)) throw new MalformedError('field "first" is not a whole number');
  const data = v["data"];
  if (!isObject(data)) throw new MalformedError(`the data of event ${last} is not an object`);
  const head: EventHead = { stream, seq: last, first, time: str(v, "time") };
  if (!known(type)) return { ...head, type: "unknown", name: type, data };
  return decode(head, type, data) as KnownEvent;
}

/** Reports whether an event ends its stream. */
export function isTerminal(e: AthenaEvent): e is Extract<KnownEvent, { type: "completed" | "failed" | "cancelled" }> {
  return e.type === "completed" || e.type === "failed" || e.type === "cancelled";
}

/** What a server says of itself when a connection opens. */
export interface Welcome { node: string; heartbeatMs: number; maxStreams: number }

export function parseWelcome(v: unknown): Welcome {
  if (!isObject(v)) throw new MalformedError("the welcome is not an object");
  return { node: str(v, "node"), heartbeatMs: num(v, "heartbeat_ms"), maxStreams: num(v, "max_streams") };
}

/** A transport that the server offers. */
export interface Offer { name: TransportName; url: string }

export interface Negotiation {
  offers: Offer[];
  ticket?: string;
  heartbeatMs: number;
  probeTimeoutMs: number;
  /** How many streams one connection may have. */
  maxStreams: number;
}

export function parseNegotiation(v: unknown): Negotiation {
  if (!isObject(v) || !Array.isArray(v["transports"])) throw new MalformedError("the negotiation names no transports");
  const offers: Offer[] = [];
  for (const o of v["transports"] as unknown[]) {
    if (!isObject(o)) throw new MalformedError("a transport is not an object");
    const name = transportNames.find((n) => n === o["name"]);
    if (name) offers.push({ name, url: str(o, "url") }); // others are for newer clients
  }
  return {
    offers,
    heartbeatMs: num(v, "heartbeat_ms") || 15_000,
    probeTimeoutMs: num(v, "probe_timeout_ms") || 3_000,
    maxStreams: num(v, "max_streams") || 64,
    ...maybe(v, "ticket", str),
  };
}
