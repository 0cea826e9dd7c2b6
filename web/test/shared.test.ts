/** What a client's streams share: connections, credentials, and what the page tells of itself. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { WebSocket } from "ws";
import { Athena, AthenaError, type AthenaOptions, type Run, type TransportChoice } from "../client/index.js";
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

const name = (i: number): string => `STREAM${i}`;

/** Writes all of a stream's text but its end. */
function write(stream: string, n: number): string {
  let text = "";
  for (let i = 0; i < n; i++) {
    const piece = `${stream} ${i} ä😀\n`;
    text += piece;
    fake.text(piece, stream);
  }
  return text;
}

for (const t of ["websocket", "sse", "long-poll"] as const satisfies TransportChoice[]) {
  test(`twelve streams over ${t} share one connection, through cuts`, async () => {
    fake.faults.cutEvery = 7;
    const athena = client({ forceTransport: t });
    const texts = new Map<string, string>();
    const runs: Run[] = [];
    for (let i = 0; i < 12; i++) {
      texts.set(name(i), write(name(i), 5));
      runs.push(athena.watch(name(i)));
      if (i % 4 === 3) await setTimeout(15); // some join a connection that is there
    }
    const received = runs.map(all);
    await Promise.all(runs.map((r) => until(r, (s) => s.cursor === 5)));
    for (let i = 0; i < 12; i++) fake.complete(texts.get(name(i)) ?? "", name(i));
    for (const [i, events] of (await Promise.all(received)).entries()) {
      assert.deepEqual(events.map((e) => [e.stream, e.seq]), [1, 2, 3, 4, 5, 6].map((seq) => [name(i), seq]));
      assert.equal(runs[i]?.text(), texts.get(name(i)));
    }
    // A server may notice the end of one connection after the beginning of the next.
    assert.ok(fake.mostOpen <= 2, `${fake.mostOpen} connections at a time`);
  });

  test(`an unknown stream among others over ${t} fails alone`, async () => {
    const athena = client({ forceTransport: t });
    const text = write(name(0), 3);
    const good = athena.watch(name(0));
    const bad = athena.watch("UNKNOWN");
    const events = all(good);
    await assert.rejects(all(bad), (e) => e instanceof AthenaError && e.code === "stream_not_found");
    await until(good, (s) => s.cursor === 3);
    fake.complete(text, name(0));
    assert.deepEqual((await events).map((e) => e.seq), [1, 2, 3, 4]);
  });

  test(`a stream that has ended ends over ${t} while others go on`, async () => {
    const athena = client({ forceTransport: t });
    fake.complete(write(name(0), 2), name(0));
    const text = write(name(1), 2);
    const other = athena.watch(name(1));
    const rest = all(other);
    assert.deepEqual(await all(athena.watch(name(0), { after: 3 })), []);
    await until(other, (s) => s.cursor === 2 && s.state === "live");
    assert.deepEqual(await all(athena.watch(name(0), { after: 3 })), [], "one that joins");
    fake.complete(text, name(1));
    assert.equal((await rest).length, 3);
  });

  test(`a run that leaves ${t} takes no other with it`, async () => {
    const athena = client({ forceTransport: t });
    const text = write(name(0), 1);
    write(name(1), 1);
    const [a, b] = [athena.watch(name(0)), athena.watch(name(1))];
    const events = all(a);
    await Promise.all([a, b].map((r) => until(r, (s) => s.cursor === 1)));
    b.close();
    await assert.rejects(b.finished(), { name: "AbortError" });
    fake.text("more", name(1));
    fake.complete(text, name(0));
    assert.equal((await events).length, 2);
    while (t === "websocket" && !fake.seen.includes("unsubscribe")) await setTimeout(5);
  });
}

test("two runs of one stream have each all of it over one connection", async () => {
  const athena = client();
  let text = write(name(0), 3);
  const first = athena.watch(name(0));
  const events = [all(first)];
  await until(first, (s) => s.cursor === 3);
  events.push(all(athena.watch(name(0))), all(athena.watch(name(0), { after: 2 })));
  await setTimeout(20);
  text += write(name(0), 2);
  fake.complete(text, name(0));
  assert.deepEqual((await Promise.all(events)).map((l) => l.map((e) => e.seq)), [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], [3, 4, 5, 6]]);
  assert.equal(fake.mostOpen, 1);
});

test("more streams than a connection takes go over a second one", async () => {
  fake.maxStreams = 3;
  for (const t of ["websocket", "sse"] as const) {
    fake.logs.clear();
    fake.mostOpen = 0;
    const athena = client({ forceTransport: t });
    const texts = Array.from({ length: 5 }, (_, i) => write(name(i), 2));
    const runs = texts.map((_, i) => athena.watch(name(i)));
    const events = runs.map(all);
    await Promise.all(runs.map((r) => until(r, (s) => s.cursor === 2)));
    assert.equal(fake.mostOpen, 2);
    texts.forEach((text, i) => { fake.complete(text, name(i)); });
    for (const list of await Promise.all(events)) assert.equal(list.length, 3);
  }
});

test("a subscription that is refused for now is asked for again, on the same connection", async () => {
  fake.faults.refuseSubscribes = 3;
  fake.complete(write(name(0), 2), name(0));
  assert.equal((await all(client().watch(name(0)))).length, 3);
  assert.equal(fake.seen.filter((s) => s.startsWith("websocket")).length, 4);
  assert.equal(fake.mostOpen, 1);
});

test("one of several runs may move to another transport alone", async () => {
  const athena = client();
  const texts = [write(name(0), 1), write(name(1), 1)];
  const [a, b] = [athena.watch(name(0)), athena.watch(name(1))];
  const events = [all(a), all(b)];
  await Promise.all([a, b].map((r) => until(r, (s) => s.cursor === 1 && s.transport === "websocket")));
  b.useTransport("sse");
  await until(b, (s) => s.transport === "sse" && s.state === "live");
  assert.equal(a.status.transport, "websocket");
  texts.forEach((text, i) => { fake.complete(text, name(i)); });
  assert.deepEqual((await Promise.all(events)).map((l) => l.length), [2, 2]);
  assert.equal(a.status.reconnects, 0);
});

test("a token is asked for again before it ends, and told to the WebSocket", async () => {
  fake.text("a");
  const asked: boolean[] = [];
  const run = client({
    token: (renew) => {
      asked.push(renew);
      return { token: `t${asked.length}`, expiresAt: Date.now() + (asked.length === 1 ? 1500 : 3_600_000) };
    },
  }).watch(fake.stream);
  const events = all(run);
  await until(run, (s) => s.cursor === 1);
  while (!fake.seen.includes("authenticate t2")) await setTimeout(10);
  assert.deepEqual(asked, [false, true]);
  assert.equal(run.status.reconnects, 0);
  fake.complete("a");
  assert.equal((await events).length, 2);
});

test("the end of a JWT is read from it", async () => {
  const jwt = (n: number, seconds: number): string =>
    ["{}", JSON.stringify({ sub: `ü${n}`, exp: Date.now() / 1000 + seconds }), "s"].map((s) => Buffer.from(s).toString("base64url")).join(".");
  const tokens = [jwt(1, 1.5), jwt(2, 3600)];
  fake.text("a");
  let asked = 0;
  const run = client({ token: () => tokens[asked++] }).watch(fake.stream);
  const events = all(run);
  while (!fake.seen.includes(`authenticate ${tokens[1]}`)) await setTimeout(10);
  fake.complete("a");
  assert.equal((await events).length, 2);
  assert.equal(asked, 2);
});

test("a page in the back-forward cache has no connection, and goes on when it is back", () => inPage(async ({ window }) => {
  const text = write(name(0), 2);
  const run = client().watch(name(0));
  const events = all(run);
  await until(run, (s) => s.cursor === 2 && s.state === "live");
  window.dispatchEvent(new Event("pagehide"));
  await until(run, (s) => s.state === "waiting");
  while (fake.open > 0) await setTimeout(5);
  fake.complete(text, name(0));
  await setTimeout(50);
  assert.equal(run.status.cursor, 2);
  assert.equal(fake.open, 0);
  window.dispatchEvent(new Event("pageshow"));
  assert.deepEqual((await events).map((e) => e.seq), [1, 2, 3]);
}));

test("the network's return ends a wait, and gives the better transport another chance", () => inPage(async ({ window }) => {
  fake.faults.upgrade = "refuse";
  fake.text("a");
  const run = client().watch(fake.stream); // tries the better one in three minutes
  const events = all(run);
  await until(run, (s) => s.transport === "sse" && s.cursor === 1);
  fake.faults.upgrade = "pass";
  while (run.status.transport !== "websocket") {
    window.dispatchEvent(new Event("online"));
    await setTimeout(20);
  }
  fake.complete("a");
  assert.equal((await events).length, 2);
}));

test("after sleep a connection that has long been silent is not waited for", (t) => inPage(async ({ document }) => {
  fake.text("a");
  const run = client().watch(fake.stream);
  const events = all(run);
  await until(run, (s) => s.cursor === 1 && s.state === "live");
  document.dispatchEvent(new Event("visibilitychange"));
  assert.equal(run.status.state, "live", "it was not silent");
  const { now } = Date;
  t.mock.method(Date, "now", () => now() + 3_600_000);
  document.dispatchEvent(new Event("visibilitychange"));
  await until(run, (s) => s.reason === "heartbeats stopped");
  await until(run, (s) => s.state === "live");
  fake.complete("a");
  assert.equal((await events).length, 2);
}));
