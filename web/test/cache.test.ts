/** Finished answers that are kept, with IndexedDB's own behaviour by fake-indexeddb. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { IDBFactory, IDBObjectStore } from "fake-indexeddb";
import { WebSocket } from "ws";
import { AnswerCache } from "../client/cache.js";
import { Athena, parseEvent, Transcript, type AnalysisRequest, type AthenaOptions } from "../client/index.js";
import { Fake } from "./fake.js";

let fake: Fake;
let url: string;
let indexedDB: IDBFactory;
beforeEach(async () => {
  fake = new Fake();
  url = await fake.listen();
  indexedDB = new IDBFactory();
});
afterEach(() => fake.close());

function client(options: AthenaOptions = {}): Athena {
  return new Athena({ url, WebSocket, cache: new AnswerCache({ indexedDB }), ...options });
}

const range = { start: { line: 1, column: 1 }, end: { line: 1, column: 2 } };

function script(): void {
  fake.add("started", { provider: "fake", model: "m", analysis: "review", attempt: 1 });
  fake.add("chunk", { kind: "reasoning", text: "hm", attempt: 1 });
  for (const s of ["An ", "answer ", "😀"]) fake.text(s);
  fake.add("finding", { rule: "r", severity: "high", message: "x", range });
  fake.complete("An answer 😀");
}

const starts = (): number => fake.seen.filter((s) => s === "start").length;

/** Resolves when an answer that has come has been kept, too: keeping is not waited for. */
async function settled(): Promise<void> {
  for (let i = 0; i < 30; i++) await new Promise((r) => { setImmediate(r); });
}

test("an equal request gets the kept answer, whole and proven, and no provider is asked", async () => {
  script();
  const request: AnalysisRequest = { code: "x", analysis: "bugs", options: { max_tokens: 5, temperature: 0 } };
  await all(client().analyze(request));
  await settled();
  const again = client().analyze({ options: { temperature: 0, max_tokens: 5 }, analysis: "bugs", code: "x", provider: "auto", orphan_timeout: "9s" });
  const events = await all(again);
  assert.deepEqual(fake.seen.filter((s) => s !== "negotiate"), ["start", "websocket 0"]);
  assert.deepEqual(events.map((e) => [e.type, e.seq]), [["started", 1], ["chunk", 2], ["chunk", 3], ["finding", 4], ["completed", 5]]);
  assert.deepEqual([again.text(), again.reasoning(), again.findings().length], ["An answer 😀", "hm", 1]);
  const end = again.terminal();
  assert.equal(end?.type === "completed" && end.data.cached, true);
  assert.equal(again.status.state, "ended");
  assert.equal(again.id, fake.stream);
});

test("what differs in anything that counts is asked for", async () => {
  script();
  const base: AnalysisRequest = { code: "x" };
  await all(client().analyze(base));
  await settled();
  const others: [AnalysisRequest, AthenaOptions][] = [
    [{ code: "y" }, {}], [{ code: "x", analysis: "bugs" }, {}], [{ code: "x", model: "n" }, {}], [{ code: "x", filename: "f" }, {}],
    [{ code: "x", options: { degrade: true } }, {}], [base, { token: "another" }], [base, { identity: "me" }], [base, { url: `${url}/sub/../` + "?" }],
  ];
  let n = 1;
  for (const [request, options] of others.slice(0, -1)) {
    await all(client(options).analyze(request));
    assert.equal(starts(), ++n, JSON.stringify([request, options]));
  }
  await all(client().analyze({ code: "x", analysis: "review" }));
  assert.equal(starts(), n, "the default, spelt out");
});

test("tokens of one person have the same answers", async () => {
  script();
  const jwt = (sub: string, jti: string): string =>
    ["{}", JSON.stringify({ iss: "i", sub, jti, exp: Date.now() / 1000 + 600 }), "s"].map((s) => Buffer.from(s).toString("base64url")).join(".");
  await all(client({ token: jwt("ann", "1") }).analyze({ code: "x" }));
  await settled();
  await all(client({ token: () => jwt("ann", "2") }).analyze({ code: "x" }));
  assert.equal(starts(), 1);
  await all(client({ token: jwt("bob", "3") }).analyze({ code: "x" }));
  assert.equal(starts(), 2);
});

test("refresh replaces what is kept, bypass leaves it, and without a cache nothing is", async () => {
  script();
  await all(client().analyze({ code: "x", cache: "bypass" }));
  await settled();
  await all(client().analyze({ code: "x", cache: "refresh" }));
  await settled();
  assert.equal(starts(), 2);
  await all(client().analyze({ code: "x" }));
  assert.equal(starts(), 2);
  await all(client().analyze({ code: "x", cache: "refresh" }));
  const { cache: _, ...off } = { cache: undefined, url, WebSocket };
  await all(new Athena(off).analyze({ code: "x" }));
  assert.equal(starts(), 4);
});

/** An answer of so many characters. */
function answer(size: number, extra: object = {}): Transcript {
  const text = "x".repeat(size);
  const t = new Transcript();
  t.apply(parseEvent({ stream: "S", seq: 1, type: "chunk", time: "", data: { kind: "text", text, attempt: 1 } }));
  const digest = new Transcript();
  digest.apply(parseEvent({ stream: "S", seq: 1, type: "chunk", time: "", data: { kind: "text", text, attempt: 1 } }));
  t.apply(parseEvent({
    stream: "S", seq: 2, type: "completed", time: "",
    data: { finish_reason: "stop", provider: "p", model: "m", cached: false, degraded: false, events: 2, bytes: size, sha256: sha(text), ...extra },
  }));
  return t;
}

import { createHash } from "node:crypto";
import { all } from "./runs.js";
const sha = (s: string): string => createHash("sha256").update(s).digest("hex");
const asked = (code: string) => ({ hub: "h", identity: "i", request: { code }, generation: "" });

test("an answer is good for an hour", async () => {
  let now = 0;
  const cache = new AnswerCache({ indexedDB, now: () => now });
  await cache.keep(asked("a"), answer(10));
  now = 3_600_000;
  assert.ok(await cache.find(asked("a")));
  now++;
  assert.equal(await cache.find(asked("a")), undefined);
  now = 0;
  assert.equal(await cache.find(asked("a")), undefined, "it is gone");
});

test("the least recently used makes room, and what is too large is not kept", async () => {
  let now = 0;
  const cache = new AnswerCache({ indexedDB, now: () => ++now, maxSize: 4000 });
  for (const code of ["a", "b", "c"]) await cache.keep(asked(code), answer(700));
  assert.ok(await cache.find(asked("a")));
  await cache.keep(asked("d"), answer(700));
  await cache.keep(asked("e"), answer(5000));
  const there = [];
  for (const code of ["a", "b", "c", "d", "e"]) if (await cache.find(asked(code))) there.push(code);
  assert.deepEqual(there, ["a", "c", "d"]);
  await cache.clear();
  assert.equal(await cache.find(asked("a")), undefined);
});

test("a full disk loses older answers, and is no error", async (t) => {
  const cache = new AnswerCache({ indexedDB });
  await cache.keep(asked("a"), answer(10));
  const { put } = IDBObjectStore.prototype;
  let full = 1;
  const fill = t.mock.method(IDBObjectStore.prototype, "put", function (this: IDBObjectStore, ...args: Parameters<typeof put>) {
    if (full-- > 0) throw new DOMException("full", "QuotaExceededError");
    return put.apply(this, args);
  });
  await cache.keep(asked("b"), answer(20));
  assert.ok(await cache.find(asked("b")), "kept at the second try");
  full = 1000;
  await cache.keep(asked("c"), answer(20));
  await cache.keep(asked("a"), answer(30));
  full = 0;
  fill.mock.restore();
  assert.equal(await cache.find(asked("c")), undefined);
  assert.equal(await cache.find(asked("a")), undefined, "an answer that could not be replaced is given no more");
  assert.ok(await cache.find(asked("b")));
});

test("without IndexedDB, or with one that fails, there is no cache and no error", async () => {
  script();
  const broken = { open: () => { throw new DOMException("forbidden", "SecurityError"); } } as unknown as globalThis.IDBFactory;
  for (const cache of [new AnswerCache(), new AnswerCache({ indexedDB: broken })]) {
    await all(client({ cache }).analyze({ code: "x" }));
    await all(client({ cache }).analyze({ code: "x" }));
  }
  assert.equal(starts(), 4);
});

test("an IndexedDB that never answers, as WebKit's may after a start, is not waited for", async () => {
  script();
  const silent = { open: () => ({}) };
  const run = client({ cache: new AnswerCache({ indexedDB: silent }) }).analyze({ code: "x" });
  assert.equal((await Promise.race([all(run), new Promise<[]>((r) => { setTimeout(r, 10_000, []).unref(); })])).length, 7);
});

test("what isn't a whole answer of a provider's is not kept", async () => {
  const cache = new AnswerCache({ indexedDB });
  await cache.keep(asked("a"), answer(1, { degraded: true }));
  await cache.keep(asked("b"), answer(1, { stale: true }));
  await cache.keep(asked("c"), new Transcript());
  for (const code of ["a", "b", "c"]) assert.equal(await cache.find(asked(code)), undefined);
});

test("a kept answer that was damaged is asked for again", async () => {
  script();
  await all(client().analyze({ code: "x" }));
  await settled();
  await new Promise<void>((resolve) => {
    const open = indexedDB.open("athena-answers");
    open.onsuccess = () => {
      const tx = open.result.transaction("answers", "readwrite");
      const cursor = tx.objectStore("answers").openCursor();
      cursor.onsuccess = () => {
        const events = cursor.result?.value as { type: string; data: { text?: string } }[];
        for (const e of events) if (e.data.text) e.data.text += "!";
        cursor.result?.update(events);
      };
      tx.oncomplete = () => { open.result.close(); resolve(); };
    };
  });
  const run = client().analyze({ code: "x" });
  await all(run);
  assert.equal(run.text(), "An answer 😀");
  assert.equal(starts(), 2);
});

/** One caller's client. */
function mine(options: AthenaOptions = {}): Athena {
  return client({ identity: "me", ...options });
}

for (const transport of ["websocket", "sse", "long-poll"]) {
  test(`answers of a generation that is over are dropped when the server says so, over ${transport}`, async () => {
    fake.offers = [transport];
    fake.generation = "g1";
    script();
    await all(mine().analyze({ code: "x" }));
    await settled();
    const cache = new AnswerCache({ indexedDB });
    const watcher = mine({ cache });
    const running = fake.open;
    fake.add("started", { provider: "fake", model: "m", analysis: "review", attempt: 1 }, undefined, "another");
    const run = watcher.watch("another");
    await until(() => fake.open > running && run.status.cursor === 1);
    const kept = (): Promise<unknown> => cache.find({ hub: `${url}/`, identity: "me", request: { code: "x" }, generation: "" });
    assert.ok(await kept());
    fake.raise("g2");
    fake.text("so that a poll is answered", "another");
    await until(async () => (await kept()) === undefined);
    run.close();
    await all(watcher.analyze({ code: "x" }));
    assert.equal(starts(), 2);
    await settled();
    await all(mine().analyze({ code: "x" }));
    assert.equal(starts(), 2, "the new one is kept");
  });
}

test("a page that comes later learns that a generation is over before it gives an answer of it", async () => {
  fake.generation = "g1";
  script();
  await all(mine().analyze({ code: "x" }));
  await settled();
  fake.generation = "g2";
  await all(mine().analyze({ code: "x" }));
  assert.equal(starts(), 2);
});

test("an answer during which the generation ended is not kept", async () => {
  fake.generation = "g1";
  fake.add("started", { provider: "fake", model: "m", analysis: "review", attempt: 1 });
  const athena = mine();
  const run = athena.analyze({ code: "x" });
  await until(() => run.status.cursor === 1);
  fake.raise("g2");
  fake.text("t");
  fake.complete("t");
  await all(run);
  await settled();
  for (const generation of ["", "g1", "g2"]) {
    assert.equal(await new AnswerCache({ indexedDB }).find({ hub: `${url}/`, identity: "me", request: { code: "x" }, generation }), undefined);
  }
});

test("what the hub told last holds while it can't be reached, and one hub's generations are not another's", async () => {
  fake.generation = "g1";
  script();
  const athena = mine();
  await all(athena.analyze({ code: "x" }));
  await settled();
  const cache = new AnswerCache({ indexedDB });
  await cache.drop("https://another.example/", "g9");
  await fake.close();
  const again = athena.analyze({ code: "x" });
  await all(again);
  assert.equal(again.text(), "An answer 😀");
  const fresh = mine().analyze({ code: "x" });
  await all(fresh);
  assert.equal(fresh.text(), "An answer 😀");
});

test("a server that tells no generation, or nonsense, has its answers kept as before", async () => {
  fake.generation = 7 as unknown as string;
  script();
  await all(mine().analyze({ code: "x" }));
  await settled();
  await all(mine().analyze({ code: "x" }));
  assert.equal(starts(), 1);
});

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((r) => { setTimeout(r, 5); });
}
