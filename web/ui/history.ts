/** The runs of this browser, in a store of the browser's that has an end. */
import type { AthenaEvent, Finding } from "../client/index.js";

export interface PastRun {
  /** The stream's id. */
  id: string;
  /** Whose run it is: browsers are shared, and so may be the page. */
  who: string;
  /** When it was started, in milliseconds. */
  time: number;
  title: string;
  state: "running" | "completed" | "failed" | "cancelled";
  /** Undefined where it was too long to be kept: then the server may still have it. */
  text: string | undefined;
  reasoning: string;
  findings: readonly Finding[];
  /** The events that tell of its way. */
  notable: readonly AthenaEvent[];
}

/** How many runs are kept, and how much of one, in UTF-16 code units. */
export const maxRuns = 100;
export const maxText = 400_000;

const name = "athena.history";
const store = "runs";

/** Keeps runs in IndexedDB. Where the browser has none or forbids it, there are none. */
export class HistoryStore {
  #db: Promise<IDBDatabase> | undefined;

  #open(): Promise<IDBDatabase> {
    this.#db ??= new Promise((resolve, reject) => {
      const r = indexedDB.open(name, 1);
      r.onupgradeneeded = () => { r.result.createObjectStore(store, { keyPath: "id" }).createIndex("time", "time"); };
      r.onsuccess = () => {
        r.result.onversionchange = () => { r.result.close(); }; // a newer page in another tab
        resolve(r.result);
      };
      r.onerror = () => { reject(r.error ?? new Error("IndexedDB can't be opened")); };
    });
    return this.#db;
  }

  /** Keeps a run, in the place of what was kept of it. */
  async put(run: PastRun): Promise<void> {
    const long = (run.text?.length ?? 0) + run.reasoning.length > maxText;
    await this.#do("readwrite", (s) => {
      s.put(long ? { ...run, text: undefined, reasoning: "" } : run);
      const counted = s.count();
      counted.onsuccess = () => {
        let left = counted.result - maxRuns;
        if (left <= 0) return;
        const oldest = s.index("time").openKeyCursor();
        oldest.onsuccess = () => {
          const c = oldest.result;
          if (!c || left-- <= 0) return;
          s.delete(c.primaryKey);
          c.continue();
        };
      };
      return undefined;
    }, undefined);
  }

  /** The runs of one, the newest first. */
  async list(who: string): Promise<PastRun[]> {
    const all = await this.#do<PastRun[]>("readonly", (s) => s.index("time").getAll() as IDBRequest<PastRun[]>, []);
    return all.filter((r) => r.who === who).reverse();
  }

  async remove(ids: readonly string[]): Promise<void> {
    await this.#do("readwrite", (s) => { for (const id of ids) s.delete(id); return undefined; }, undefined);
  }

  async #do<T>(mode: IDBTransactionMode, what: (s: IDBObjectStore) => IDBRequest<T> | undefined, otherwise: T): Promise<T> {
    try {
      const db = await this.#open();
      return await new Promise<T>((resolve, reject) => {
        const t = db.transaction(store, mode);
        const r = what(t.objectStore(store));
        t.oncomplete = () => { resolve(r ? r.result : otherwise); };
        t.onerror = t.onabort = () => { reject(t.error ?? new Error("the history can't be used")); };
      });
    } catch {
      return otherwise; // private windows, a full disk: a page without history
    }
  }
}
