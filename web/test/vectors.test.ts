/** The golden vectors of the protocol, which every implementation runs. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { cacheKey, canonical } from "../client/answers.js";
import { type AnalysisRequest, parseEvent, PromiseError, remedyFor, SSEParser, Transcript } from "../client/index.js";

function vectors<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`../../../protocol/testdata/${name}.json`, import.meta.url), "utf8")) as T;
}

interface Case {
  name: string;
  events: unknown[];
  /** Which promise the event at this index breaks. */
  breaks?: string;
  at?: number;
  holds: { cursor: number; text: string; reasoning: string; findings: string[]; usage: object | null; attempt: number; terminal: string | null };
}

for (const c of vectors<Case[]>("transcripts")) {
  test(`transcript: ${c.name}`, () => {
    const t = new Transcript();
    c.events.forEach((v, i) => {
      if (c.breaks !== undefined && i === c.at) {
        assert.throws(() => { t.apply(parseEvent(v)); }, (e) => e instanceof PromiseError && e.promise === c.breaks);
      } else {
        t.apply(parseEvent(v));
      }
    });
    assert.deepEqual({
      cursor: t.cursor, text: t.text, reasoning: t.reasoning, findings: t.findings.map((f) => f.rule), usage: t.usage ?? null,
      attempt: t.started?.attempt ?? 0, terminal: t.terminal?.type ?? null,
    }, c.holds);
  });
}

test("close codes", () => {
  for (const c of vectors<{ codes: { code: number; action: string }[] }>("closes").codes) {
    assert.equal(remedyFor(c.code).replace("credentials", "authenticate"), c.action, String(c.code));
  }
});

test("event streams", () => {
  interface Response { name: string; body: string; retry: number; events: { event: string; id: string; data: string }[] }
  for (const r of vectors<{ responses: Response[] }>("sse").responses) {
    const p = new SSEParser();
    assert.deepEqual([...p.push(r.body)], r.events, r.name);
    assert.equal(p.retryMs ?? 0, r.retry ?? 0, r.name);
  }
});

test("cache keys", () => {
  for (const c of vectors<{ name: string; json: string; canonical: string; key: string }[]>("cachekeys")) {
    const request = JSON.parse(c.json) as AnalysisRequest;
    assert.equal(Buffer.from(canonical(request)).toString(), c.canonical, c.name);
    assert.equal(cacheKey(request), c.key, c.name);
  }
});
