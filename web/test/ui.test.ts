/** What the page says of providers, attempts and failures. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { AthenaError, parseEvent, type Problem } from "../client/index.js";
import { describeAttempt } from "../ui/attempts.js";
import { describeSource, describeState, readKeys } from "../ui/keys.js";
import { describeFailure, describeProblem, needsKey } from "../ui/problems.js";
import { describeErrors, describeTime, describeTrouble, describeUsage, describeUse, readProviders } from "../ui/providers.js";

const event = (type: string, data: object) => parseEvent({ stream: "S", seq: 1, type, time: "", data });

test("the gateway's own answer is read", () => {
  const golden: unknown = JSON.parse(readFileSync(new URL("../../../internal/gateway/testdata/providers.json", import.meta.url), "utf8"));
  const list = readProviders({ providers: golden, time: "2026-11-22T21:00:00.123Z" });
  assert.equal(list.time, Date.UTC(2026, 10, 22, 21, 0, 0, 123));
  const [claude, local] = list.providers;
  assert.ok(claude && local && list.providers.length === 2);
  assert.deepEqual([claude.name, claude.dialect, claude.state, claude.models], ["claude", "claude", "degraded", ["big", "small"]]);
  assert.deepEqual([describeUse(claude), describeTime(claude.firstContentMs), describeErrors(claude.errorRate)], ["20 of 20, 7 waiting", "840 ms", "75 %"]);
  assert.equal(describeUsage(claude), `41 calls · ${(120000).toLocaleString()} tokens in, ${(9000).toLocaleString()} out · $0.2250 · 3 estimated`);
  assert.deepEqual(claude.troubles.map((t) => describeTrouble(t, list.time)), ["big: breaker open · 5 of 6 calls failed · next probe in 4 s"]);
  assert.deepEqual([local.state, describeUse(local), describeTime(local.firstContentMs), describeErrors(local.errorRate), describeUsage(local)],
    ["ok", "–", "–", "–", "–"]);
});

test("a list that is not what it should be is read as far as it goes", () => {
  for (const v of [undefined, null, 7, "x", {}, { providers: 3 }, { providers: [null, 1, {}, { name: 5 }] }]) {
    assert.deepEqual(readProviders(v), { providers: [], time: 0 });
  }
  const [p] = readProviders({ time: "soon", providers: [{ name: "p", state: "splendid", models: [1, "m"], model_info: { m: { calls: "many", breaker: 3 }, n: null }, usage: [] }] }).providers;
  assert.deepEqual(p, { name: "p", dialect: "", models: ["m"], troubles: [], firstContentMs: undefined, state: "ok", errorRate: undefined, bulkhead: undefined, usage: undefined });
});

test("a breaker's probe is counted down to, and not past", () => {
  const t = { model: "", state: "open", why: "", nextProbe: 10_000 } as const;
  assert.deepEqual([0, 9_001, 10_000, 99_000].map((now) => describeTrouble(t, now)),
    ["breaker open · next probe in 10 s", "breaker open · next probe in 1 s", "breaker open · next probe now", "breaker open · next probe now"]);
  assert.equal(describeTrouble({ ...t, model: "m", state: "half_open", why: "slow" }, 0), "m: breaker half open · slow");
});

test("times and rates are short", () => {
  assert.deepEqual([0, 999.4, 1000, 61_234].map(describeTime), ["0 ms", "999 ms", "1.0 s", "61.2 s"]);
  assert.deepEqual([0, 0.126, 1].map(describeErrors), ["0 %", "13 %", "100 %"]);
});

test("each step of the way to an answer is described", () => {
  const error = { code: "timeout", title: "t", status: 504, retryable: true };
  const usage = { input_tokens: 1, output_tokens: 1, estimated: true };
  const cases: [string, object, string | undefined][] = [
    ["started", { provider: "claude", model: "m", analysis: "bugs", attempt: 1 }, "claude (m) is asked"],
    ["started", { provider: "local", model: "", analysis: "bugs", attempt: 1 }, "local is asked"],
    ["queued", { position: 3, reason: "concurrency" }, "Waiting for a place, position 3"],
    ["queued", { position: 0, reason: "rate_limit", retry_after_ms: 1500 }, "Waiting for a rate limit, 1.5 s"],
    ["retrying", { provider: "claude", attempt: 2, after_ms: 250, error }, "claude: timeout; asked again after 250 ms"],
    ["retrying", { provider: "claude", attempt: 2, after_ms: 0 }, "claude: failed; asked again at once"],
    ["failover", { from: "claude", to: "openai", attempt: 2, reason: "hedged", discard: false }, "claude → openai: hedged"],
    ["failover", { from: "claude", to: "openai", attempt: 2, reason: "timeout", discard: true }, "claude → openai: timeout; what was said is dropped"],
    ["failover", { from: "claude", to: "claude", attempt: 2, reason: "stream_interrupted", discard: true }, "claude starts again: stream_interrupted; what was said is dropped"],
    ["failover", { from: "claude", to: "claude", attempt: 2, reason: "stream_interrupted", discard: false }, "claude goes on: stream_interrupted"],
    ["completed", { degraded: true }, "Answered by the offline analyser, since no provider did"],
    ["completed", { usage }, "Usage is estimated"],
    ["completed", { degraded: true, usage }, "Answered by the offline analyser, since no provider did; usage is estimated"],
    ["completed", {}, undefined],
    ["chunk", { kind: "text", text: "x", attempt: 1 }, undefined],
  ];
  for (const [type, data, want] of cases) assert.equal(describeAttempt(event(type, data)), want);
});

test("a failure says whose it is", () => {
  const unauthorized: Problem = { code: "unauthorized", title: "Valid credentials are needed", detail: "the provider answered 401: it refuses the API key", status: 401, retryable: false };
  const cases: [Problem, string][] = [
    [{ ...unauthorized, provider: "claude" }, "claude refuses its API key: the one that this server is configured with, not yours."],
    [{ ...unauthorized, detail: "" }, "Valid credentials are needed"],
    [{ code: "service_unavailable", title: "The provider is not available", detail: "it answered 503", status: 503, retryable: true, provider: "openai" }, "openai: The provider is not available: it answered 503"],
    [{ code: "internal", title: "Something went wrong", status: 500, retryable: false }, "Something went wrong"],
  ];
  for (const [p, want] of cases) assert.deepEqual([describeProblem(p), describeFailure(new AthenaError(p))], [want, want]);
  assert.equal(describeFailure(new TypeError("odd")), "odd");
  assert.deepEqual([unauthorized, { ...unauthorized, provider: "claude" }].map((p) => needsKey(new AthenaError(p))), [true, false]);
  assert.equal(needsKey(new TypeError("odd")), false);
});

test("the keys of a provider are read, and what is said of them", () => {
  const now = Date.UTC(2026, 10, 27, 3, 0, 0);
  const at = (s: number): string => new Date(now + s * 1000).toISOString();
  const list = readKeys({
    keys: [
      { id: "team-a", source: "stored", weight: 3, last4: "wxyz", state: "ok", checked: at(-30), calls: 12 },
      { id: "env", source: "env", weight: 1, state: "refused", checked: at(-600), error: { title: "Valid credentials are needed", detail: "401" }, calls: 0 },
      { id: "b", source: "vault", state: "limited", until: at(7) }, { id: 5 }, null, { id: "new", source: "elsewhere", state: "odd" },
    ],
    read_only: "",
  });
  assert.equal(list.readOnly, "");
  assert.deepEqual(list.keys.map((k) => [k.id, describeSource(k), describeState(k, now)]), [
    ["team-a", "set here, ends with wxyz", "OK · checked 30 s ago"],
    ["env", "variable", "Refused · Valid credentials are needed: 401 · checked 10 min ago"],
    ["b", "Vault", "Rests · for 7 s · not checked yet"],
    ["new", "elsewhere", "odd · not checked yet"],
  ]);
  for (const v of [undefined, null, 7, {}, { keys: 3, read_only: 4 }]) assert.deepEqual(readKeys(v), { keys: [], readOnly: "" });
  assert.equal(readKeys({ keys: [], read_only: "no master key" }).readOnly, "no master key");
});
