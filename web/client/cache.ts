/**
 * `athena-client/cache`: finished answers in IndexedDB, for an hour, so that
 * asking the same again costs nothing. Bounded; the least recently used goes first.
 */
import { answerKey, isWhole, toStore, type AnswerStore, type Asked } from "./answers.js";
import { unless } from "./backoff.js";
import type { AthenaEvent } from "./events.js";
import type { Transcript } from "./transcript.js";

/** What a cache may be told. */
export interface CacheOptions {
  /** The database. Default `athena-answers`. */
  name?: string;
  /** How long an answer is good. Default one hour. */
  maxAgeMs?: number;
  /** How much is kept, in UTF-16 code units of JSON. Default 64 Mi. */
  maxSize?: number;
  /** An IDBFactory. Default the platform's; without one the cache is always empty. */
  indexedDB?: object;
  /** Default Date.now. */
  now?: () => number;
}

/** Raised when what is stored changes its form; older databases are then emptied. */
const version = 2;

/** A database that says nothing for longer is as none: https://bugs.webkit.org/show_bug.cgi?id=226547 */
const patienceMs = 2_000;

interface Entry { key: string; size: number; at: number; used: number; hub: string; generation: string }

/**
 * Answers in IndexedDB. Nothing that goes wrong with it (private windows, full
 * disks) is an error to its user: the answer is then not there.
 */
export class AnswerCache implements AnswerStore {
  readonly #name: string;
  readonly #maxAgeMs: number;
  readonly #maxSize: number;
  readonly #factory: IDBFactory | undefined;
  readonly #now: () => number;
  #open: Promise<IDBDatabase> | undefined;

  constructor(o: CacheOptions = {}) {
    this.#name = o.name ?? "athena-answers";
    this.#maxAgeMs = o.maxAgeMs ?? 3_600_000;
    this.#maxSize = o.maxSize ?? 64 << 20;
    this.#factory = (o.indexedDB as IDBFactory | undefined) ?? (typeof indexedDB === "undefined" ? undefined : indexedDB);
    this.#now = o.now ?? Date.now;
  }

  async find(asked: Asked): Promise<readonly AthenaEvent[] | undefined> {
    const key = answerKey(asked);
    const events = await this.#get(key, asked.generation);
    if (events === undefined || isWhole(events)) return events;
    await this.#delete(key);
    return undefined;
  }

  async keep(asked: Asked, answer: Transcript): Promise<void> {
    const events = toStore(answer);
    if (events) await this.#keep(answerKey(asked), asked, events);
  }

  async drop(hub: string, generation: string): Promise<void> {
    await this.#quietly(async () => {
      const tx = await this.#begin();
      const over = finished(tx);
      over.catch(() => undefined);
      for (const e of await done<Entry[]>(tx.objectStore("entries").getAll())) {
        if (e.hub === hub && e.generation !== generation) remove(tx, e.key);
      }
      await over;
    });
  }

  /** Forgets all answers. */
  async clear(): Promise<void> {
    await this.#quietly(async () => { await this.#evict(0); });
  }

  async #get(key: string, generation: string): Promise<readonly AthenaEvent[] | undefined> {
    return this.#quietly(() => unless(AbortSignal.timeout(patienceMs), this.#look(key, generation)));
  }

  async #look(key: string, generation: string): Promise<readonly AthenaEvent[] | undefined> {
    const tx = await this.#begin();
    const entries = tx.objectStore("entries");
    const entry = await done<Entry | undefined>(entries.get(key));
    if (!entry) return undefined;
    if (this.#now() - entry.at > this.#maxAgeMs || (generation !== "" && entry.generation !== generation)) {
      remove(tx, key);
      return undefined;
    }
    entries.put({ ...entry, used: this.#now() });
    return done<AthenaEvent[] | undefined>(tx.objectStore("answers").get(key));
  }

  /** Keeps an answer, in the place of those that were not used for the longest time. */
  async #keep(key: string, asked: Asked, events: readonly AthenaEvent[]): Promise<void> {
    const size = JSON.stringify(events).length;
    const kept = size <= this.#maxSize && await this.#quietly(async () => {
      try {
        await this.#put(key, asked, events, size, this.#maxSize);
      } catch (e) { // the disk is full: perhaps half of it is enough
        if (!(e instanceof DOMException) || e.name !== "QuotaExceededError") throw e;
        await this.#evict(this.#maxSize / 2);
        await this.#put(key, asked, events, size, this.#maxSize / 2);
      }
      return true;
    });
    if (!kept) await this.#delete(key); // an earlier answer must not outlive the one that was to replace it
  }

  async #delete(key: string): Promise<void> {
    await this.#quietly(async () => {
      const tx = await this.#begin();
      remove(tx, key);
      await finished(tx);
    });
  }

  async #put(key: string, { hub, generation }: Asked, events: readonly AthenaEvent[], size: number, max: number): Promise<void> {
    const tx = await this.#begin();
    const over = finished(tx);
    over.catch(() => undefined);
    const now = this.#now();
    await this.#shrink(tx, max - size, key);
    tx.objectStore("entries").put({ key, size, at: now, used: now, hub, generation } satisfies Entry);
    tx.objectStore("answers").put(events, key);
    await over;
  }

  async #evict(max: number): Promise<void> {
    const tx = await this.#begin();
    const over = finished(tx);
    over.catch(() => undefined);
    await this.#shrink(tx, max);
    await over;
  }

  /** Removes the too old, the given one, and of the others as many as are too many. */
  async #shrink(tx: IDBTransaction, max: number, replaced?: string): Promise<void> {
    const all = await done<Entry[]>(tx.objectStore("entries").getAll());
    all.sort((a, b) => b.used - a.used);
    let sum = 0;
    for (const e of all) {
      if (e.key === replaced) continue; // written over
      if (this.#now() - e.at > this.#maxAgeMs || sum + e.size > max) remove(tx, e.key);
      else sum += e.size;
    }
  }

  async #quietly<T>(f: () => Promise<T>): Promise<T | undefined> {
    try {
      return await f();
    } catch {
      return undefined;
    }
  }

  async #begin(): Promise<IDBTransaction> {
    this.#open ??= this.#connect();
    try {
      return (await this.#open).transaction(["entries", "answers"], "readwrite");
    } catch (e) {
      this.#open = undefined; // another try next time
      throw e;
    }
  }

  #connect(): Promise<IDBDatabase> {
    return new Promise((resolve, reject) => {
      if (!this.#factory) throw new Error("there is no IndexedDB here");
      const request = this.#factory.open(this.#name, version);
      request.onupgradeneeded = () => {
        const db = request.result;
        for (const name of Array.from(db.objectStoreNames)) db.deleteObjectStore(name);
        db.createObjectStore("entries", { keyPath: "key" });
        db.createObjectStore("answers");
      };
      request.onblocked = () => { reject(new Error("another page keeps an older version open")); };
      request.onerror = () => { reject(request.error ?? new Error("IndexedDB")); };
      request.onsuccess = () => {
        const db = request.result;
        const drop = (): void => { db.close(); this.#open = undefined; };
        db.onversionchange = drop; // a newer page needs it
        db.onclose = drop;
        resolve(db);
      };
    });
  }
}

function remove(tx: IDBTransaction, key: string): void {
  tx.objectStore("entries").delete(key);
  tx.objectStore("answers").delete(key);
}

function done<T>(r: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    r.onsuccess = () => { resolve(r.result); };
    r.onerror = () => { reject(r.error ?? new Error("IndexedDB")); };
  });
}

function finished(tx: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    tx.oncomplete = () => { resolve(); };
    tx.onabort = () => { reject(tx.error ?? new Error("IndexedDB")); };
  });
}
