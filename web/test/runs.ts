/** What tests ask of a run. */
import type { AthenaEvent, Run } from "../client/index.js";

/** The run's events, once it has ended. */
export async function all(run: Run): Promise<AthenaEvent[]> {
  const out: AthenaEvent[] = [];
  for await (const e of run) out.push(e);
  return out;
}

/** Resolves when the run's status is as wanted. */
export function until(run: Run, wanted: (s: Run["status"]) => boolean): Promise<void> {
  return new Promise((resolve) => {
    let stop: (() => void) | undefined;
    stop = run.onStatus((s) => {
      if (!wanted(s)) return;
      resolve();
      queueMicrotask(() => stop?.());
    });
  });
}

/** A window and document of sorts, for as long as f runs. */
export async function inPage(f: (page: { window: EventTarget; document: EventTarget }) => Promise<void>): Promise<void> {
  const page = { window: new EventTarget(), document: new EventTarget() };
  Object.assign(globalThis, page);
  try {
    await f(page);
  } finally {
    for (const key of Object.keys(page)) Reflect.deleteProperty(globalThis, key);
  }
}
