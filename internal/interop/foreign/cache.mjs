// node cache.mjs URL STREAM: the TypeScript client and its cache of answers, with
// IndexedDB by fake-indexeddb. STREAM runs meanwhile, so that the client is
// connected when the cache is cleared. Each report is {cached, text}.
import { IDBFactory } from "fake-indexeddb";
import WebSocket from "ws";
import { AnswerCache, Athena } from "../../../web/dist/client.js";

const [url, stream] = process.argv.slice(2);
const indexedDB = new IDBFactory();
let settled = [];
let dropped = () => {};

/** A page, in a manner of speaking: they have the database in common. */
function page() {
  const cache = new AnswerCache({ indexedDB });
  const watched = {
    find: (asked) => cache.find(asked),
    keep: (...args) => { const done = cache.keep(...args); settled.push(done); return done; },
    drop: async (...args) => { await cache.drop(...args); dropped(); },
  };
  return new Athena({ url, WebSocket, cache: watched });
}

async function ask(athena) {
  settled = [];
  const run = athena.analyze({ code: "package main", provider: "openai" });
  await run.finished();
  const { cached } = run.terminal().data;
  while (!cached && settled.length === 0) await new Promise((resolve) => { setTimeout(resolve, 1); });
  await Promise.all(settled);
  console.log(JSON.stringify({ cached, text: run.text() }));
}

const athena = page();
const held = athena.watch(stream);
await new Promise((resolve) => { held.onStatus((s) => { if (s.cursor > 0) resolve(); }); });
await ask(athena);
await ask(athena);

const clearing = new Promise((resolve) => { dropped = resolve; });
const res = await fetch(new URL("/v1/cache", url), { method: "DELETE" });
if (!res.ok) throw new Error(`DELETE /v1/cache: ${res.status}`);
await clearing;
await ask(athena);
await ask(page());
held.close(); // nothing keeps the process alive now
