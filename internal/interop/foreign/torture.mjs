// node torture.mjs RUNS SEED URL URL: the TypeScript client, under torture.
// Exits with 0 when every run's text is the one that the model said.
import { connect, createServer } from "node:net";
import WebSocket from "ws";
import { Athena, AthenaError } from "../../../web/dist/client.js";

const [runs, seed] = process.argv.slice(2, 4).map(Number);
const targets = process.argv.slice(4).map((u) => new URL(u));

// mulberry32: what is drawn depends on the seed, though not when.
let state = seed >>> 0;
const random = () => {
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), state | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};
const chance = (p) => random() < p;
const between = (a, b) => a + Math.floor(random() * (b - a));
const pick = (list) => list[between(0, list.length)];
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const counts = { connections: 0, cuts: 0, refused: 0, held: 0, moves: 0, reconnects: 0, joined: 0, startsLost: 0 };

// A network: each connection goes to either node, most of them are cut, and
// some lead through a proxy that refuses upgrades or holds event streams back.
const network = createServer((client) => {
  counts.connections++;
  const { hostname, port } = pick(targets);
  const server = connect(Number(port), hostname);
  let held = false;
  const end = () => { client.destroy(); server.destroy(); };
  for (const s of [client, server]) s.on("error", end).on("close", end);
  client.on("data", (data) => {
    const head = data.toString("latin1");
    if (/^upgrade: websocket/im.test(head) && chance(0.1)) {
      counts.refused++;
      client.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
      return;
    }
    if (/^accept: text\/event-stream/im.test(head) && chance(0.05)) {
      counts.held++;
      held = true;
    }
    server.write(data);
  });
  server.on("data", (data) => { if (!held) client.write(data); });
  if (chance(0.8)) {
    const timer = setTimeout(() => {
      if (!client.destroyed) counts.cuts++;
      if (chance(0.5)) client.resetAndDestroy();
      end();
    }, between(10, 200));
    client.on("close", () => { clearTimeout(timer); });
  }
});
await new Promise((resolve) => { network.listen(0, "127.0.0.1", resolve); });
const url = `http://127.0.0.1:${network.address().port}`;

/** Takes a run's events by rules of its own, and returns the text. */
async function follow(run, name) {
  let cursor = 0;
  let text = "";
  for await (const e of run) {
    const replaces = e.type === "failover" && e.data.discard;
    if (e.seq <= cursor || (e.first !== cursor + 1 && !replaces)) throw new Error(`${name}: event ${e.first}..${e.seq} after ${cursor}`);
    cursor = e.seq;
    if (replaces) text = "";
    if (e.type === "chunk" && e.data.kind === "text") text += e.data.text;
    if (e.type === "failed" || e.type === "cancelled") throw new Error(`${name}: ${e.type} ${JSON.stringify(e.data)}`);
  }
  if (run.terminal()?.type !== "completed") throw new Error(`${name}: it did not complete`);
  if (run.text() !== text) throw new Error(`${name}: text() is not what the events say`);
  counts.reconnects += run.status.reconnects;
  return text;
}

/** Does to a run what users and networks do, until it ends. */
async function disturb(run) {
  while (run.status.state !== "ended" && run.status.state !== "failed") {
    await sleep(between(5, 80));
    if (chance(0.3)) run.disconnect();
    if (chance(0.3)) {
      counts.moves++;
      run.useTransport(pick(["auto", "websocket", "sse", "long-poll"]));
    }
  }
}

const client = () => new Athena({ url, WebSocket, backoff: { baseMs: 5, maxMs: 60 }, retryBetterMs: 100 });
const clients = Array.from({ length: 4 }, client);

async function analyze(i) {
  const pieces = between(5, 60);
  const wanted = Array.from({ length: pieces }, (_, k) => `run ${i}, piece ${k}: ä世😀\n`).join("");
  for (let lost = 0; ; lost++) {
    const run = pick(clients).analyze({ code: `torture run ${i} of ${pieces} pieces`, provider: "openai", cache: "bypass" });
    try {
      await run.started();
    } catch (e) { // six attempts in a row were cut
      if (!(e instanceof AthenaError) || e.code !== "connection_failed" || lost === 3) throw e;
      counts.startsLost++;
      continue;
    }
    const watched = [follow(run, `run ${i}`)];
    if (chance(0.3)) void disturb(run);
    if (chance(0.3)) { // somebody joins in the middle, in this client or another
      counts.joined++;
      await sleep(between(0, 100));
      const id = await run.started();
      watched.push(follow(pick(clients).watch(id), `watcher of run ${i}`));
    }
    for (const text of await Promise.all(watched)) {
      if (text !== wanted) throw new Error(`run ${i}: text\n got ${JSON.stringify(text)}\nwant ${JSON.stringify(wanted)}`);
    }
    return;
  }
}

let next = 0;
await Promise.all(Array.from({ length: 20 }, async () => {
  while (next < runs) await analyze(next++);
}));
console.log(`${runs} runs in ${Math.round(performance.now())} ms:`, JSON.stringify(counts));
if (counts.cuts === 0 || counts.moves === 0 || counts.reconnects === 0) throw new Error("that was no torture");
process.exit(0);
