import type { AnalysisRequest, AthenaEvent } from "./events.js";
import { sha256 } from "./sha256.js";
import { Transcript } from "./transcript.js";

/** What was asked, where, and by whom; and the hub's generation of cached answers then, "" where it wasn't known. */
export interface Asked { hub: string; identity: string; request: AnalysisRequest; generation: string }

/** Where finished answers are kept, so that an equal request needs no server. See `athena-client/cache`. */
export interface AnswerStore {
  /** A whole earlier answer to an equal request of the same caller and generation; where that is "", of any. */
  find(asked: Asked): Promise<readonly AthenaEvent[] | undefined>;
  /** Takes an answer that may be given again. */
  keep(asked: Asked, answer: Transcript): Promise<void>;
  /** Forgets the hub's answers of other generations. */
  drop(hub: string, generation: string): Promise<void>;
}

/** Equal requests of one caller have equal keys. */
export function answerKey({ hub, identity, request }: Asked): string {
  return sha256(JSON.stringify([2, hub, identity, cacheKey(request)]));
}

/** The key of a request, which the server finds its answers by, too: see "Cache keys" of the protocol. */
export function cacheKey(r: AnalysisRequest): string {
  return sha256(canonical(r));
}

/** What makes a request what it is: each field's name, its length in bytes, and its value. */
export function canonical(r: AnalysisRequest): string {
  const o = r.options;
  const fields: [string, string | number | boolean | undefined | null][] = [
    ["code", r.code], ["language", r.language], ["filename", r.filename], ["analysis", r.analysis === "review" ? "" : r.analysis], ["prompt", r.prompt],
    ["provider", r.provider === "auto" ? "" : r.provider], ["model", r.model], ["options.temperature", o?.temperature],
    ["options.max_tokens", o?.max_tokens || ""], ["options.reasoning", o?.reasoning], ["options.hedge", o?.hedge], ["options.degrade", o?.degrade],
  ];
  const utf8 = new TextEncoder();
  let form = "athena.v1\n";
  for (const [name, v] of fields) {
    const value = String(v ?? "");
    if (value !== "") form += `${name} ${utf8.encode(value).length} ${value}\n`;
  }
  return form;
}

/**
 * A whole answer in as few events as say it, for a store. They keep the
 * protocol's promises: P1 by their ranges, P5 by the same proof. Undefined
 * where the answer is not one to give again.
 */
export function toStore(t: Transcript): AthenaEvent[] | undefined {
  const end = t.terminal;
  if (end?.type !== "completed" || end.data.degraded || end.data.stale) return undefined;
  const head = { stream: end.stream, time: end.time };
  const parts: AthenaEvent[] = [];
  const add = (e: Pick<AthenaEvent, "type" | "data">): void => {
    const seq = parts.length + 1;
    parts.push({ ...head, first: seq, seq, ...e } as AthenaEvent);
  };
  const attempt = t.started?.attempt ?? 1;
  if (t.started) add({ type: "started", data: t.started });
  if (t.reasoning) add({ type: "chunk", data: { kind: "reasoning", text: t.reasoning, attempt } });
  if (t.text) add({ type: "chunk", data: { kind: "text", text: t.text, attempt } });
  for (const f of t.findings) add({ type: "finding", data: f });
  const seq = parts.length + 1;
  parts.push({ ...end, first: seq, seq, data: { ...end.data, cached: true, events: seq } });
  return parts;
}

/** Reports whether what a store gave is whole. */
export function isWhole(events: readonly AthenaEvent[]): boolean {
  const t = new Transcript();
  try {
    for (const e of events) t.apply(e);
  } catch {
    return false;
  }
  return t.terminal?.type === "completed";
}
