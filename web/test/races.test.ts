/** What may come between a client's steps: a close, a renewal, a page that leaves, a platform that lacks something. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { WebSocket } from "ws";
import { Athena, type AnswerStore, type AthenaOptions, type Transcript } from "../client/index.js";
import { Fake } from "./fake.js";
import { all, inPage, until } from "./runs.js";

let fake: Fake;
let url: string;
beforeEach(async () => {
  fake = new Fake();
  url = await fake.listen();
});
afterEach(() => fake.close());

function client(options: AthenaOptions = {}): Athena {
  return new Athena({ url, WebSocket, backoff: { baseMs: 10, maxMs: 40 }, ...options });
}

const never = new Promise<never>(() => undefined);

test("a run that is closed while its page is in the back-forward cache keeps nothing busy", () => inPage(async ({ window }) => {
  const run = client().watch(fake.stream);
  await until(run, (s) => s.state === "live");
  window.dispatchEvent(new Event("pagehide"));
  while (fake.open > 0) await setTimeout(5);
  await setTimeout(100); // it waits for the page now
  run.close();
  await assert.rejects(run.finished(), { name: "AbortError" });
  await setTimeout(1); // what is busy never gets here
}));

test("a run that is closed while its token or a kept answer is waited for has ended", async () => {
  const store: AnswerStore = { find: () => never, keep: () => never, drop: () => never };
  for (const options of [{ token: () => never }, { cache: store }]) {
    const run = client(options).analyze({ code: "x" });
    await setTimeout(50);
    run.close();
    const outcome = await Promise.race([run.finished().catch((e: unknown) => e), setTimeout(2000, "nothing")]);
    assert.ok(outcome instanceof DOMException && outcome.name === "AbortError", String(outcome));
    await assert.rejects(run.started(), { name: "AbortError" });
  }
});

test("an answer is kept for what was asked, whatever becomes of the request's object", async () => {
  const kept: string[] = [];
  let done: () => void = () => undefined;
  const keeping = new Promise<void>((resolve) => { done = resolve; });
  const store: AnswerStore = {
    find: () => Promise.resolve(undefined), drop: () => Promise.resolve(),
    keep: (asked, answer: Transcript) => { kept.push(`${asked.request.code} ${asked.request.options?.max_tokens} ${answer.text}`); done(); return Promise.resolve(); },
  };
  const request = { code: "one", options: { max_tokens: 1 } };
  const run = client({ cache: store }).analyze(request);
  await run.started();
  request.code = "two";
  request.options.max_tokens = 2;
  fake.text("of one");
  fake.complete("of one");
  await Promise.all([run.finished(), keeping]);
  assert.deepEqual(kept, ["one 1 of one"]);
});

for (const t of ["websocket", "sse", "long-poll"] as const) {
  test(`a stream that is left and watched again at once over ${t} begins at its new cursor`, async () => {
    const athena = client({ forceTransport: t });
    fake.text("x", "OTHER");
    const other = athena.watch("OTHER");
    fake.text("one ");
    fake.text("two ");
    const first = athena.watch(fake.stream);
    const left = all(first);
    left.catch(() => undefined);
    await until(first, (s) => s.cursor === 2);
    first.close();
    await assert.rejects(left);
    const again = athena.watch(fake.stream);
    const events = all(again);
    await Promise.resolve(); // it is on the line
    fake.text("three"); // the connection of before delivers it
    await setTimeout(30);
    fake.complete("one two three");
    assert.deepEqual((await events).map((e) => e.seq), [1, 2, 3, 4]);
    assert.equal(other.status.state, "live");
    other.close();
  });
}

test("credentials are renewed also while old ones are being asked for", async () => {
  fake.faults.token = "new";
  let release: (token: string) => void = () => undefined;
  const slow = new Promise<string>((resolve) => { release = resolve; });
  const asked: boolean[] = [];
  let renewed = false;
  const athena = client({
    token: (renew) => {
      asked.push(renew);
      renewed ||= renew;
      if (renewed) return "new";
      return asked.length === 2 ? slow : "old";
    },
    // When the first refusal arrives, another request has begun to ask.
    fetch: async (input, init) => {
      const r = await fetch(input, init);
      if (r.status === 401 && asked.length === 1) void athena.providers().catch(() => undefined);
      return r;
    },
  });
  fake.text("a");
  fake.complete("a");
  const run = athena.watch(fake.stream, { forceTransport: "sse" });
  const events = all(run);
  await Promise.race([events, setTimeout(500)]);
  release("old");
  assert.equal((await events).length, 2);
});

test("a listener that throws takes nothing from others, and is reported", async (t) => {
  const reported: unknown[] = [];
  Object.assign(globalThis, { reportError: (e: unknown) => { reported.push(e); } });
  t.after(() => { Reflect.deleteProperty(globalThis, "reportError"); });
  const athena = client();
  const bad = athena.watch(fake.stream);
  const good = athena.watch(fake.stream);
  bad.onStatus((s) => { if (s.cursor > 0) throw new Error("of the listener"); });
  const received = Promise.all([all(bad), all(good)]);
  await until(good, (s) => s.state === "live");
  fake.text("a");
  fake.text("b");
  fake.complete("ab");
  for (const events of await received) assert.deepEqual(events.map((e) => e.seq), [1, 2, 3]);
  assert.equal(good.status.reconnects, 0);
  assert.match(String(reported[0]), /of the listener/);
});

test("an iterator that is left wakes who waits for its next event", async () => {
  const run = client().watch(fake.stream);
  const iterator = run[Symbol.asyncIterator]();
  const next = iterator.next();
  await iterator.return?.();
  assert.deepEqual(await Promise.race([next, setTimeout(1000)]), { done: true, value: undefined });
});

for (const [what, answer] of [["asks to come back at once", { retry_after_ms: 0 }], ["answers at once with nothing", {}]] as const) {
  test(`a server that ${what}, again and again, is not pestered`, async () => {
    let polls = 0;
    const run = client({
      forceTransport: "long-poll", backoff: {},
      fetch: (input, init) => {
        if (!String(input).includes("wait=")) return fetch(input, init);
        polls++;
        return Promise.resolve(Response.json({ events: [], cursor: "", done: false, ...answer }));
      },
    }).watch(fake.stream);
    await setTimeout(500);
    run.close();
    assert.ok(polls > 0 && polls < 25, `${polls} polls in half a second`);
  });
}

test("where there is no WebSocket others are used without a word, and insisting on one is an error at once", async (t) => {
  const platform = Object.getOwnPropertyDescriptor(globalThis, "WebSocket");
  Reflect.deleteProperty(globalThis, "WebSocket");
  t.after(() => { if (platform) Object.defineProperty(globalThis, "WebSocket", platform); });
  const athena = new Athena({ url, retryBetterMs: 20 });
  assert.deepEqual(await athena.transports(), ["sse", "long-poll"]);
  fake.text("a");
  const run = athena.watch(fake.stream);
  const events = all(run);
  await until(run, (s) => s.cursor === 1);
  const negotiated = fake.seen.length;
  await setTimeout(100);
  assert.deepEqual(fake.seen.slice(negotiated), [], "it looks for what can't be");
  const missing = { name: "TypeError", message: /WebSocket/ };
  assert.throws(() => { run.useTransport("websocket"); }, missing);
  fake.complete("a");
  assert.equal((await events).length, 2);
  assert.equal(run.status.transport, "sse");
  const asked = fake.seen.length;
  assert.throws(() => athena.analyze({ code: "x" }, { forceTransport: "websocket" }), missing);
  assert.throws(() => new Athena({ url, forceTransport: "websocket" }).watch(fake.stream), missing);
  assert.deepEqual(fake.seen.slice(asked), []);
});

test("a WebSocket that refuses what is sent while it closes, as Deno's does, is one connection that is over", async () => {
  let closing = false;
  class Strict extends WebSocket {
    override send(data: string): void {
      if (closing) throw new DOMException("readyState is not OPEN", "InvalidStateError");
      super.send(data);
    }
  }
  fake.heartbeatMs = 40;
  fake.text("a");
  fake.text("b", "OTHER");
  const athena = client({ WebSocket: Strict });
  const run = athena.watch(fake.stream);
  const events = all(run);
  await until(run, (s) => s.cursor === 1);
  closing = true;
  const other = athena.watch("OTHER"); // subscribes
  await setTimeout(70); // pings
  closing = false;
  await until(other, (s) => s.cursor === 1);
  other.close();
  fake.complete("a");
  assert.equal((await events).length, 2);
});

test("a window without a document, as React Native's, tells nothing and breaks nothing", async (t) => {
  Object.assign(globalThis, { window: {} });
  t.after(() => { Reflect.deleteProperty(globalThis, "window"); });
  fake.text("a");
  fake.complete("a");
  assert.equal((await all(client().watch(fake.stream))).length, 2);
});
