import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { WebSocket } from "ws";
import { Athena, AthenaError, PromiseError, type AthenaOptions, type TransportChoice } from "../client/index.js";
import { Fake } from "./fake.js";
import { all, until } from "./runs.js";

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

/** A stream of n chunks with characters of every length. Returns its text. */
function script(n: number): string {
  let text = "";
  fake.add("started", { provider: "fake", model: "m", analysis: "review", attempt: 1 });
  for (let i = 0; i < n; i++) {
    const piece = `${i} ä€😀\n`;
    text += piece;
    fake.text(piece);
  }
  fake.complete(text);
  return text;
}

const transports: TransportChoice[] = ["websocket", "sse", "long-poll"];

for (const t of transports) {
  test(`an analysis over ${t} arrives whole and in order`, async () => {
    const text = script(20);
    const run = client({ forceTransport: t }).analyze({ code: "x" });
    const events = await all(run);
    assert.deepEqual(events.map((e) => e.seq), Array.from({ length: 22 }, (_, i) => i + 1));
    assert.equal(run.text(), text);
    assert.equal(run.terminal()?.type, "completed");
    assert.equal(run.status.transport, t);
    assert.equal(run.status.state, "ended");
  });

  test(`cuts over ${t} lose and repeat nothing`, async () => {
    fake.faults.cutEvery = 3;
    const text = script(30);
    const run = client({ forceTransport: t }).analyze({ code: "x" });
    const events = await all(run);
    assert.deepEqual(events.map((e) => e.seq), Array.from({ length: 32 }, (_, i) => i + 1));
    assert.equal(run.text(), text);
    if (t !== "long-poll") assert.ok(run.status.reconnects >= Math.ceil(32 / 3) - 1, `${run.status.reconnects} reconnects`);
  });

  test(`disconnect over ${t} resumes from the cursor`, async () => {
    fake.add("started", { provider: "fake", model: "m", analysis: "review", attempt: 1 });
    fake.text("one ");
    const run = client({ forceTransport: t }).watch(fake.stream);
    const events = all(run);
    await until(run, (s) => s.cursor === 2 && s.state === "live");
    run.disconnect();
    fake.text("two");
    await until(run, (s) => s.cursor === 3);
    fake.complete("one two");
    assert.deepEqual((await events).map((e) => e.seq), [1, 2, 3, 4]);
    assert.equal(run.text(), "one two");
    assert.equal(run.status.reconnects, 1);
  });

  test(`an unknown stream over ${t} is an error, not a wait`, async () => {
    const run = client({ forceTransport: t }).watch("01JD0000000000000000000000UNKNOWN000");
    await assert.rejects(all(run), (e) => e instanceof AthenaError && e.code === "stream_not_found");
  });

  test(`watching after the end over ${t} ends`, async () => {
    script(3);
    const run = client({ forceTransport: t }).watch(fake.stream, { after: 5 });
    assert.deepEqual(await all(run), []);
    assert.equal(run.status.state, "ended");
  });

  test(`a late watcher over ${t} gets what follows its cursor`, async () => {
    script(5);
    const run = client({ forceTransport: t }).watch(fake.stream, { after: 4 });
    assert.deepEqual((await all(run)).map((e) => e.seq), [5, 6, 7]);
  });
}

test("a WebSocket message may be an array of events", async () => {
  fake.faults.batch = 7;
  const text = script(20);
  const run = client({ forceTransport: "websocket" }).watch(fake.stream);
  assert.equal((await all(run)).length, 22);
  assert.equal(run.text(), text);
});

for (const [upgrade, sse, expected] of [
  ["refuse", "pass", "sse"], ["hang", "pass", "sse"], ["refuse", "buffer", "long-poll"], ["hang", "refuse", "long-poll"],
] as const) {
  test(`upgrades that ${upgrade} and event streams that ${sse} lead to ${expected}`, async () => {
    Object.assign(fake.faults, { upgrade, sse });
    fake.probeTimeoutMs = 1000; // is waited out, and still enough for what passes
    const text = script(5);
    const run = client().watch(fake.stream);
    await all(run);
    assert.equal(run.text(), text);
    assert.equal(run.status.transport, expected);
  });
}

test("what worked is remembered and tried first the next time", async () => {
  fake.faults.upgrade = "refuse";
  const kept = new Map<string, string>();
  const storage = { getItem: (k: string) => kept.get(k) ?? null, setItem: (k: string, v: string) => { kept.set(k, v); }, removeItem: (k: string) => { kept.delete(k); } };
  script(2);
  await all(client({ storage }).watch(fake.stream));
  fake.faults.upgrade = "pass";
  const run = client({ storage }).watch(fake.stream);
  await all(run);
  assert.equal(run.status.transport, "sse");
});

test("a better transport that works again is moved to without loss", async () => {
  fake.faults.upgrade = "refuse";
  fake.add("started", { provider: "fake", model: "m", analysis: "review", attempt: 1 });
  const run = client({ retryBetterMs: 50 }).watch(fake.stream);
  const events = all(run);
  await until(run, (s) => s.transport === "sse" && s.cursor === 1);
  fake.faults.upgrade = "pass";
  await until(run, (s) => s.transport === "websocket");
  fake.text("late");
  fake.complete("late");
  assert.deepEqual((await events).map((e) => e.seq), [1, 2, 3]);
});

test("moving to another transport keeps the cursor", async () => {
  fake.text("a");
  const run = client().watch(fake.stream);
  const events = all(run);
  for (const t of ["sse", "long-poll", "websocket"] as const) {
    run.useTransport(t);
    await until(run, (s) => s.transport === t && s.state === "live");
    fake.text(t);
    await until(run, (s) => s.cursor === fake.log.length);
  }
  fake.complete("asselong-pollwebsocket");
  assert.deepEqual((await events).map((e) => e.seq), [1, 2, 3, 4, 5]);
  assert.equal(run.text(), "asselong-pollwebsocket");
});

test("a poll that is asked to move comes back after the time it is told", async () => {
  fake.text("a");
  fake.faults.move = 30;
  const run = client({ forceTransport: "long-poll" }).watch(fake.stream);
  const events = all(run);
  await until(run, (s) => s.state === "waiting" && s.cursor === 1);
  assert.equal(run.status.reason, "the server asks to move");
  assert.ok(run.status.waitMs >= 30, `waits ${run.status.waitMs} ms`);
  await until(run, (s) => s.state === "live");
  fake.text("b");
  fake.complete("ab");
  assert.deepEqual((await events).map((e) => e.seq), [1, 2, 3]);
});

test("moving to the best transport leaves the chosen one", async () => {
  fake.text("a");
  const run = client({ forceTransport: "long-poll" }).watch(fake.stream);
  const events = all(run);
  await until(run, (s) => s.transport === "long-poll" && s.cursor === 1);
  run.useTransport("auto");
  await until(run, (s) => s.transport === "websocket" && s.state === "live");
  fake.text("b");
  fake.complete("ab");
  assert.deepEqual((await events).map((e) => e.seq), [1, 2, 3]);
});

test("a transport that was chosen is kept when a better one works", async () => {
  fake.faults.upgrade = "refuse";
  fake.text("a");
  const run = client({ retryBetterMs: 50 }).watch(fake.stream);
  const events = all(run);
  await until(run, (s) => s.transport === "sse" && s.cursor === 1);
  run.useTransport("sse"); // in use already
  fake.faults.upgrade = "pass";
  while (!fake.seen.includes("websocket 1")) await setTimeout(10); // the try of the better one
  fake.text("b");
  fake.complete("ab");
  await events;
  assert.deepEqual([run.status.transport, run.status.reconnects], ["sse", 0]);
});

test("in place of a transport that isn't offered another is used", async () => {
  fake.offers = ["sse", "long-poll"];
  fake.text("a");
  const athena = client({ forceTransport: "websocket" });
  assert.deepEqual(await athena.transports(), ["sse", "long-poll"]);
  const run = athena.watch(fake.stream);
  const events = all(run);
  await until(run, (s) => s.transport === "sse" && s.cursor === 1);
  for (const [choice, used] of [["long-poll", "long-poll"], ["auto", "sse"], ["websocket", "sse"]] as const) {
    const before = run.status.reconnects;
    run.useTransport(choice);
    await until(run, (s) => s.reconnects > before && s.transport === used && s.state === "live");
  }
  fake.complete("a");
  assert.deepEqual((await events).map((e) => e.seq), [1, 2]);
});

test("missed heartbeats make the client reconnect", async () => {
  fake.heartbeatMs = 200;
  fake.faults.silent = true;
  for (const t of ["websocket", "sse"] as const) {
    const run = client({ forceTransport: t }).watch(fake.stream);
    const events = all(run);
    await until(run, (s) => s.reason === "heartbeats stopped");
    run.close();
    await assert.rejects(events, { name: "AbortError" });
  }
});

test("an idle connection with heartbeats stays", async () => {
  fake.heartbeatMs = 800; // what comes may be late by as much on a busy machine
  fake.text("a");
  // As many pongs, and empty polls, as come in three heartbeats: a silent connection is dead after two and a half.
  await Promise.all(([["websocket", 2], ["long-poll", 3]] as const).map(async ([t, beats]) => {
    const run = client({ forceTransport: t }).watch(fake.stream);
    const events = all(run);
    await until(run, (s) => s.cursor === 1);
    for (let i = 0; i < beats; i++) {
      const { bytes } = run.status;
      await until(run, (s) => s.bytes > bytes);
    }
    assert.equal(run.status.reconnects, 0);
    run.close();
    await assert.rejects(events, { name: "AbortError" });
  }));
});

test("a close code from 4200 on stops the client", async () => {
  fake.faults.closeWith = 4201;
  await assert.rejects(all(client().watch(fake.stream)), (e) => e instanceof AthenaError && /4201/.test(e.message));
  assert.deepEqual(fake.seen.filter((s) => s.startsWith("websocket")), ["websocket 0"]);
});

test("a close code from 4000 on makes the client come again", async () => {
  fake.faults.closeWith = 4001;
  script(2);
  const run = client().watch(fake.stream);
  await until(run, (s) => s.reconnects === 2);
  fake.faults.closeWith = 0;
  assert.equal((await all(run)).length, 4);
});

test("a close code from 4100 on asks for new credentials first", async () => {
  fake.faults.closeWith = 4100;
  script(2);
  const asked: boolean[] = [];
  const run = client({ token: (renew) => { if (renew) { asked.push(renew); fake.faults.closeWith = 0; } return "new"; } }).watch(fake.stream);
  assert.equal((await all(run)).length, 4);
  assert.deepEqual(asked, [true]);
});

test("a 401 without a way to new credentials is an error", async () => {
  fake.faults.token = "secret";
  await assert.rejects(all(client({ token: "wrong" }).analyze({ code: "x" })), (e) => e instanceof AthenaError && e.problem.status === 401);
  script(1);
  assert.equal((await all(client({ token: "secret", forceTransport: "sse" }).analyze({ code: "x" }))).length, 3);
});

test("each WebSocket gets a fresh ticket", async () => {
  Object.assign(fake.faults, { ticket: true, cutEvery: 2 });
  script(4);
  const run = client({ forceTransport: "websocket" }).watch(fake.stream);
  assert.equal((await all(run)).length, 6);
  assert.equal(fake.seen.filter((s) => s === "negotiate").length, 3);
});

test("a start whose answer is lost is repeated with the same key", async () => {
  fake.faults.loseStarts = 2;
  script(1);
  await all(client().analyze({ code: "x" }));
  assert.deepEqual([...fake.keys.values()], [3]);
});

test("cancel ends the stream with its cancelled event", async () => {
  fake.text("a");
  const run = client().analyze({ code: "x" });
  await until(run, (s) => s.cursor === 1);
  await run.cancel();
  await run.finished();
  assert.equal(run.terminal()?.type, "cancelled");
});

test("a cancel before the job has an id waits for it", async () => {
  fake.text("a");
  const run = client().analyze({ code: "x" });
  assert.equal(run.id, undefined);
  await run.cancel();
  await run.finished();
  assert.equal(run.terminal()?.type, "cancelled");
  assert.deepEqual(fake.seen.filter((s) => s === "start" || s === "cancel"), ["start", "cancel"]);
});

test("leaving the loop stops watching and cancels nothing", async () => {
  fake.text("a");
  const run = client().watch(fake.stream);
  for await (const e of run) { assert.equal(e.seq, 1); break; }
  await assert.rejects(run.finished(), { name: "AbortError" });
  assert.ok(!fake.seen.includes("cancel"));
});

test("an AbortSignal ends the run with its reason", async () => {
  const stop = new AbortController();
  const run = client().watch(fake.stream, { signal: stop.signal });
  const events = all(run);
  await until(run, (s) => s.state === "live");
  stop.abort(new Error("enough"));
  await assert.rejects(events, /enough/);
});

test("a hole in the stream is said loudly", async () => {
  fake.text("a");
  fake.log.push({ stream: fake.stream, seq: 3, type: "chunk", time: "", data: { kind: "text", text: "c", attempt: 1 } });
  await assert.rejects(all(client().watch(fake.stream)), (e) => e instanceof PromiseError && e.promise === "P1");
});

test("a digest that is not the text's is said loudly", async () => {
  fake.text("a");
  fake.complete("b");
  await assert.rejects(all(client().watch(fake.stream)), (e) => e instanceof PromiseError && e.promise === "P5");
});

test("a transport that this version doesn't know is passed over", async () => {
  fake.offers = ["quic", "sse"];
  script(1);
  const run = client().watch(fake.stream);
  assert.equal((await all(run)).length, 3);
  assert.equal(run.status.transport, "sse");
});
