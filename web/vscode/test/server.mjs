#!/usr/bin/env node
// Stands for athena: says on standard error how it was started, and what it is
// asked. It analyses nothing.
import { writeSync } from "node:fs";
const token = `t${process.pid}`; // another one for each server
const note = (what) => writeSync(2, `${JSON.stringify(what)}\n`);
note({ args: process.argv.slice(2), token: process.env.ATHENA_TOKEN ?? null, cwd: process.cwd(), home: process.env.HOME ?? null });
const send = (message) => {
  const body = JSON.stringify({ jsonrpc: "2.0", ...message });
  process.stdout.write(`Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
};
const progress = (value) => send({ method: "$/progress", params: { token, value } });
const begin = (title) => {
  send({ id: "p", method: "window/workDoneProgress/create", params: { token } });
  progress({ kind: "begin", title });
};
const answers = {
  initialize: ({ initializationOptions }) => {
    note({ options: initializationOptions });
    return { capabilities: { textDocumentSync: 2, executeCommandProvider: { commands: ["athena.analyzeFile", "athena.explain"] } } };
  },
  "workspace/executeCommand": (params) => {
    note(params);
    if (params.command === "athena.analyzeSelection") {
      begin("Athena: x.go");
      progress({ kind: "end", message: "not analysed" });
    }
    if (params.command === "athena.analyzeWorkspace") begin("Athena: workspace");
    if (params.command === "athena.analyzeFile") progress({ kind: "end", message: "2 findings" });
    return "done";
  },
  shutdown: () => null,
};
let buffered = Buffer.alloc(0);
process.stdin.on("data", (data) => {
  buffered = Buffer.concat([buffered, data]);
  for (;;) {
    const at = buffered.indexOf("\r\n\r\n");
    if (at < 0) return;
    const length = Number(/Content-Length: (\d+)/i.exec(buffered.subarray(0, at).toString())[1]);
    if (buffered.length < at + 4 + length) return;
    const message = JSON.parse(buffered.subarray(at + 4, at + 4 + length).toString());
    buffered = buffered.subarray(at + 4 + length);
    if (message.method === "exit") process.exit(0);
    if (message.method && message.id !== undefined) send({ id: message.id, result: answers[message.method]?.(message.params) ?? null });
  }
});
