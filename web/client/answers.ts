import type { AnalysisRequest, AthenaEvent } from "./events.js";
import { sha256 } from "./sha256.js";
import { Transcript } from "./transcript.js";

/** What was asked, where, and by whom. */
export interface Asked { hub: string; identity: string; request: AnalysisRequest }

/** Where finished answers are kept, so that an equal request needs no server. See `athena-client/cache`. */
export interface AnswerStore {
  /** A whole earlier answer to an equal request of the same caller. */
  find(asked: Asked): Promise<readonly AthenaEvent[] | undefined>;
  /** Takes an answer that may be given again. */
  keep(asked: Asked, answer: Transcript): Promise<void>;
}

/** Equal requests have equal keys: everything but the orphan timeout counts, defaults put in. */
export function answerKey({ hub, identity, request: r }: Asked): string {
  const o = r.options;
  return sha256(JSON.stringify([
    1, hub, identity, r.code, r.language, r.filename, r.analysis || "review", r.prompt, r.provider || "auto", r.model,
    o?.temperature, o?.max_tokens || undefined, o?.reasoning, o?.hedge, o?.degrade,
  ].map((v) => (v === "" ? undefined : v))));
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
