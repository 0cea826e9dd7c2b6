import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { Backoff, parseEvent, PromiseError, remedyFor, SHA256, SSEParser, Transcript, type Severity } from "../client/index.js";

const event = (seq: number, type: string, data: object, first?: number) =>
  parseEvent({ stream: "S", seq, type, time: "", data, ...(first === undefined ? {} : { first }) });
const chunk = (seq: number, text: string, kind = "text", first?: number) => event(seq, "chunk", { kind, text, attempt: 1 }, first);
const digest = (text: string) => ({ bytes: Buffer.byteLength(text), sha256: createHash("sha256").update(text).digest("hex") });

test("SHA-256 agrees with the platform's for every length and split", () => {
  for (let n = 0; n < 200; n++) {
    const bytes = Uint8Array.from({ length: n }, (_, i) => (i * 7 + n) & 255);
    const h = new SHA256();
    h.update(bytes.subarray(0, n % 67));
    h.update(bytes.subarray(n % 67));
    assert.equal(h.hex(), createHash("sha256").update(bytes).digest("hex"), `length ${n}`);
  }
});

test("a transcript folds every kind of event", () => {
  const t = new Transcript();
  t.apply(event(1, "started", { provider: "p", model: "m", analysis: "bugs", attempt: 1 }));
  t.apply(chunk(2, "hm", "reasoning"));
  t.apply(chunk(4, "wrong", "text", 3));
  t.apply(event(5, "finding", { rule: "r", severity: "high", message: "x", range: { start: { line: 1, column: 1 }, end: { line: 1, column: 2 } } }));
  t.apply(event(6, "failover", { from: "p", to: "q", attempt: 2, reason: "timeout", discard: true }));
  assert.deepEqual([t.text, t.reasoning, t.findings], ["", "", []]);
  t.apply(event(7, "from_the_future", { what: 1 }));
  t.apply(chunk(8, "right 😀"));
  t.apply(event(9, "usage", { input_tokens: 3, output_tokens: 4 }));
  t.apply(event(10, "completed", { finish_reason: "stop", provider: "q", model: "m", cached: false, degraded: false, events: 10, ...digest("right 😀") }));
  assert.equal(t.text, "right 😀");
  assert.deepEqual(t.usage, { input_tokens: 3, output_tokens: 4 });
  assert.equal(t.cursor, 10);
  assert.equal(t.terminal?.type, "completed");
});

test("a transcript refuses what breaks a promise, and stays as it was", () => {
  const t = new Transcript();
  t.apply(chunk(1, "a"));
  t.apply(chunk(2, "b"));
  const cases: [string, () => void][] = [
    ["P1", () => { t.apply(chunk(4, "hole")); }],
    ["P1", () => { t.apply(chunk(2, "again")); }],
    ["P1", () => { t.apply(chunk(3, "overlap", "text", 2)); }],
    ["P1", () => { t.apply(event(3, "failover", { from: "p", to: "q", attempt: 2, reason: "", discard: false }, 1)); }],
    ["P5", () => { t.apply(event(3, "completed", { events: 3, ...digest("ax") })); }],
    ["P5", () => { t.apply(event(3, "completed", { events: 4, ...digest("ab") })); }],
  ];
  for (const [promise, apply] of cases) assert.throws(apply, (e) => e instanceof PromiseError && e.promise === promise);
  assert.deepEqual([t.text, t.cursor, t.terminal], ["ab", 2, undefined]);
  t.apply(event(9, "failed", { error: { code: "owner_lost", title: "Lost", status: 502, retryable: true } }, 1)); // covers what was seen
  assert.throws(() => { t.apply(chunk(10, "after")); }, (e) => e instanceof PromiseError && e.promise === "P4");
});

test("an unknown severity counts as info", () => {
  const e = event(1, "finding", { rule: "r", severity: "dreadful", message: "m", range: {} });
  assert.equal(e.type === "finding" && e.data.severity, "info" satisfies Severity);
});

test("the event stream parser doesn't care where the bytes are cut", () => {
  const text = "\uFEFFretry: 1500\r\n: padding\r\nid: 3\r\nevent: welcome\r\ndata: {}\r\n\r\n:\n\nid: 4\ndata: a\ndata: b\n\ndata:c\r\rdata\n\nevent: none\n\n";
  const want = [
    { event: "welcome", data: "{}", id: "3" }, { event: "message", data: "a\nb", id: "4" },
    { event: "message", data: "c", id: "4" }, { event: "message", data: "", id: "4" },
  ];
  for (let size = 1; size <= text.length; size++) {
    const p = new SSEParser();
    const got = [];
    for (let i = 0; i < text.length; i += size) got.push(...p.push(text.slice(i, i + size)));
    assert.deepEqual(got, want, `pieces of ${size}`);
    assert.equal(p.retryMs, 1500);
  }
});

test("backoff stays within its bounds and jitters fully", () => {
  for (const [random, want] of [[0, [20, 20, 20, 20]], [0.5, [50, 100, 200, 200]], [0.999999, [100, 200, 400, 400]]] as const) {
    const b = new Backoff({ baseMs: 100, maxMs: 400, random: () => random });
    assert.deepEqual(want.map(() => Math.round(b.next())), [...want]);
  }
});

test("a server's hint is waited out, and grows only when it fails", () => {
  const b = new Backoff({ baseMs: 100, maxMs: 400, random: () => 0.5 });
  assert.deepEqual([b.next(700), b.next(700)], [700, 800]);
  b.reset();
  assert.equal(b.next(0), 20);
});

test("close codes say what to do", () => {
  const want = { 1000: "stop", 1001: "reconnect", 1006: "reconnect", 1008: "stop", 1009: "stop", 4000: "reconnect", 4099: "reconnect",
    4100: "credentials", 4199: "credentials", 4200: "stop", 4299: "stop" };
  for (const [code, remedy] of Object.entries(want)) assert.equal(remedyFor(Number(code)), remedy, code);
});
