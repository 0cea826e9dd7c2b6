/** Tabs that share a connection: several clients over one BroadcastChannel, and locks as browsers have them. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { WebSocket } from "ws";
import { Athena, AthenaError, type AthenaEvent, type AthenaOptions, type Run } from "../client/index.js";
import { Tabs, type Locks } from "../client/tabs.js";
import { Fake } from "./fake.js";
import { all, until } from "./runs.js";

/** The Web Locks of one browser, of which each tab has a part that ends with it. */
class Browser {
  readonly #queues = new Map<string, (() => Promise<void>)[]>();

  async #next(name: string): Promise<void> {
    const queue = this.#queues.get(name) ?? [];
    await queue[0]?.();
    queue.shift();
    if (queue.length > 0) void this.#next(name);
  }

  /** A tab's locks, all given back when it dies. */
  tab(dead: AbortSignal): Locks {
    return {
      request: (name, { signal }, held) => new Promise((resolve, reject) => {
        const queue = this.#queues.get(name) ?? [];
        this.#queues.set(name, queue);
        let given = false;
        signal.addEventListener("abort", () => {
          if (given) return;
          given = true;
          reject(signal.reason);
        });
        queue.push(async () => {
          if (given || dead.aborted) return;
          given = true;
          const died = new Promise<void>((r) => { dead.addEventListener("abort", () => { r(); }); });
          await Promise.race([held(), died]);
          resolve(undefined);
        });
        if (queue.length === 1) void this.#next(name);
      }),
    };
  }
}

let fake: Fake;
let url: string;
let browser: Browser;
beforeEach(async () => {
  fake = new Fake();
  url = await fake.listen();
  browser = new Browser();
});
afterEach(() => fake.close());

interface TestTab { athena: Athena; die: AbortController; runs: Run[] }

function tab(options: AthenaOptions = {}, patienceMs = 20_000): TestTab {
  const die = new AbortController();
  return {
    die, runs: [],
    athena: new Athena({ url, WebSocket, backoff: { baseMs: 10, maxMs: 40 }, share: new Tabs({ locks: browser.tab(die.signal), patienceMs }), ...options }),
  };
}

const seqs = (list: AthenaEvent[]): number[] => list.map((e) => e.seq);

test("seven tabs watch over one connection, the same and other streams", async () => {
  fake.faults.upgrade = "refuse"; // what counts among a browser's six
  fake.text("a");
  fake.text("b", "OTHER");
  const runs = Array.from({ length: 7 }, (_, i) => tab().athena.watch(i % 2 === 0 ? fake.stream : "OTHER"));
  const events = runs.map(all);
  await Promise.all(runs.map((r) => until(r, (s) => s.cursor === 1 && s.state === "live" && s.transport === "sse")));
  fake.complete("a");
  fake.complete("b", "OTHER");
  for (const list of await Promise.all(events)) assert.deepEqual(seqs(list), [1, 2]);
  assert.equal(fake.mostOpen, 1);
});

test("when the tab that connects goes, another one does, from each cursor", async () => {
  fake.faults.batch = 3;
  let text = "";
  const write = (s: string): void => { text += s; fake.text(s); };
  write("one ");
  write("two ");
  const tabs = [tab(), tab(), tab()];
  const runs = tabs.map((t) => t.athena.watch(fake.stream));
  const events = runs.map(all);
  await Promise.all(runs.map((r) => until(r, (s) => s.cursor === 2)));
  runs[0]?.close(); // the first one leads
  await assert.rejects(events[0] ?? Promise.resolve(), { name: "AbortError" });
  write("three ");
  await Promise.all(runs.slice(1).map((r) => until(r, (s) => s.cursor === 3)));
  tabs[1]?.die.abort();
  runs[1]?.close();
  await assert.rejects(events[1] ?? Promise.resolve(), { name: "AbortError" });
  write("four");
  await until(runs[2] as Run, (s) => s.cursor === 4);
  fake.complete(text);
  assert.deepEqual(seqs(await (events[2] as Promise<AthenaEvent[]>)), [1, 2, 3, 4, 5]);
  assert.equal(runs[2]?.text(), text);
});

test("a tab that dies is watched for no longer", async () => {
  fake.text("a");
  fake.text("b", "OTHER");
  const [first, second] = [tab(), tab()];
  const a = first.athena.watch(fake.stream);
  const events = all(a);
  await until(a, (s) => s.cursor === 1);
  const b = second.athena.watch("OTHER");
  await until(b, (s) => s.cursor === 1);
  second.die.abort(); // without a word
  while (!fake.seen.includes("unsubscribe")) await setTimeout(5);
  fake.complete("a");
  assert.equal((await events).length, 2);
  b.close();
});

test("a tab that connects and says nothing is not waited for", async () => {
  fake.text("a");
  const dead = new AbortController();
  const name = "held";
  void browser.tab(dead.signal).request(name, { signal: dead.signal }, () => new Promise(() => undefined));
  const locks = browser.tab(dead.signal);
  // Whatever lock it asks for that all tabs ask for, another page holds.
  const share = new Tabs({ patienceMs: 50, locks: { request: (n, o, held) => locks.request(/ [0-9a-f]+ [0-9a-f]+$/.test(n) ? n : name, o, held) } });
  const run = tab({ share }).athena.watch(fake.stream);
  const events = all(run);
  await until(run, (s) => s.cursor === 1);
  fake.complete("a");
  assert.deepEqual(seqs(await events), [1, 2]);
});

test("errors, cuts and ends reach the tab that they are about", async () => {
  fake.text("a");
  const first = tab().athena.watch(fake.stream);
  const events = [all(first)];
  await until(first, (s) => s.cursor === 1);
  const { athena } = tab();
  await assert.rejects(all(athena.watch("UNKNOWN")), (e) => e instanceof AthenaError && e.code === "stream_not_found");
  const second = athena.watch(fake.stream);
  events.push(all(second));
  await until(second, (s) => s.cursor === 1);
  second.disconnect();
  await until(first, (s) => s.reconnects === 1 && s.state === "live");
  await until(second, (s) => s.reconnects === 1 && s.state === "live");
  fake.complete("a");
  for (const list of await Promise.all(events)) assert.deepEqual(seqs(list), [1, 2]);
  assert.deepEqual(await all(athena.watch(fake.stream, { after: 2 })), []);
});

test("callers with other credentials share nothing", async () => {
  fake.text("a");
  const runs = ["ann", "bob"].map((token) => tab({ token }).athena.watch(fake.stream));
  const events = runs.map(all);
  await Promise.all(runs.map((r) => until(r, (s) => s.cursor === 1)));
  assert.equal(fake.open, 2);
  fake.complete("a");
  await Promise.all(events);
});
