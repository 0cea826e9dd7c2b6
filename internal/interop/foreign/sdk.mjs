// sdk.mjs TRANSPORT URL STREAM, in Node or Deno: the TypeScript client, as the
// clients of watch.mjs report.
import process from "node:process";
import { Athena } from "../../../web/dist/client.js";

const [transport, url, stream] = process.argv.slice(2);
const tell = (what) => console.log(JSON.stringify(what));
const run = new Athena({ url, forceTransport: transport, backoff: { baseMs: 20, maxMs: 100 } }).watch(stream);
let reconnects = 0;
run.onStatus((s) => {
  if (s.state === "live" && s.transport !== transport) throw new Error(`it is live over ${s.transport}`);
  if (s.reconnects > reconnects) tell({ lost: true });
  reconnects = s.reconnects;
});
for await (const e of run) tell({ event: JSON.stringify(e) });
tell({ end: true, text: run.text() });
