/** What the page reads, tells and hands out. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ChangeSet, EditorState, Text, type ChangeDesc, type ChangeSpec } from "@codemirror/state";
import type { Finding } from "../client/index.js";
import { changeSince, diff } from "../ui/change.js";
import { paths } from "../ui/chart.js";
import { findingsJSON, findingsSARIF } from "../ui/download.js";
import { example } from "../ui/example.js";
import { detect, languages, parserOf } from "../ui/languages.js";
import { meanMs, rate, readMetrics } from "../ui/metrics.js";
import { linkTo, readFragment } from "../ui/share.js";

test("a language is told by the file's name, or by its text", () => {
  const texts: Record<string, string> = {
    go: "package main\n\nfunc main() {\n\tx := 1\n}\n", javascript: "const x = require('fs');\nfunction f() { return () => { x(); } }\n",
    typescript: "export interface A {\n  b: string;\n  c: number;\n}\nimport type { X } from 'y';\n", python: "import os\n\ndef f(self):\n    return self.x\n",
    java: "import java.util.List;\npublic class A {\n  public static void main(String[] a) { System.out.println(1); }\n}\n",
    c: "#include <stdio.h>\nint main(void) { return *(int *)malloc(4); }\n", "c++": "#include <vector>\nusing namespace std;\nint f() { std::vector<int> v; return v[0]; }\n",
    "c#": "using System;\nnamespace A.B;\nclass C { public int X { get; set; } }\n", rust: "use std::fs;\nfn main() {\n    let mut x = 1;\n    println!(\"{}\", x);\n}\n",
    php: "<?php\n$a->b();\n", ruby: "require 'set'\ndef f\n  puts 1\nend\n", kotlin: "data class A(val x: Int)\nfun main() { val y = 1 }\n",
    swift: "import Foundation\nfunc f() -> Int {\n  guard let x = y else { return 1 }\n}\n", shell: "#!/bin/bash\nif true; then echo ${X}; fi\n", sql: "SELECT a FROM b;\n", html: "<!DOCTYPE html>\n<html><body></body></html>\n",
  };
  assert.deepEqual(Object.keys(texts).sort(), Object.keys(languages).sort());
  for (const [want, text] of Object.entries(texts)) assert.equal(detect("", text), want, text);
  assert.deepEqual([detect("a/b.TSX", ""), detect("x.py", texts["go"] ?? ""), detect(example.filename, example.code), detect("notes.txt", "Dear all,\n"), detect("", ""), detect("", "#!/usr/bin/env node\n")],
    ["typescript", "python", "go", "", "", "javascript"]);
  for (const name of ["golang", "TS", "bash", "json", "diff", "c++", "csharp"]) assert.ok(parserOf(name), name);
  for (const name of ["", "klingon", "constructor", "__proto__"]) assert.equal(parserOf(name), undefined, name);
});

const findings: Finding[] = [
  { rule: "sql", severity: "critical", message: "Injected", range: { start: { line: 3, column: 2 }, end: { line: 3, column: 9 } }, suggestion: "Bind it." },
  { rule: "style", severity: "info", message: "Odd", range: { start: { line: 1, column: 1 }, end: { line: 1, column: 1 } } },
  { rule: "sql", severity: "high", message: "Again", range: { start: { line: 5, column: 1 }, end: { line: 6, column: 1 } } },
];

const suggesting = (start: number, end: number, replacement: string): Finding =>
  ({ rule: "r", severity: "low", message: "m", range: { start: { line: start, column: 1 }, end: { line: end, column: 1 } }, replacement });

test("findings can be taken away as JSON and SARIF", () => {
  const o = { stream: "S", title: "t", filename: "a b.go", text: "", findings, code: undefined };
  assert.deepEqual(JSON.parse(findingsJSON(o)), { stream: "S", filename: "a b.go", findings });
  const log = JSON.parse(findingsSARIF(o)) as { version: string; runs: { columnKind: string; tool: { driver: { rules: { id: string }[] } }; results: unknown[] }[] };
  const [run] = log.runs;
  assert.deepEqual([log.version, run?.columnKind, run?.tool.driver.rules.map((r) => r.id)], ["2.1.0", "utf16CodeUnits", ["sql", "style"]]);
  const result = (ruleId: string, ruleIndex: number, level: string, text: string, region: object): object =>
    ({ ruleId, ruleIndex, level, message: { text }, locations: [{ physicalLocation: { artifactLocation: { uri: "a%20b.go" }, region } }] });
  assert.deepEqual(run?.results, [
    result("sql", 0, "error", "Injected\n\nBind it.", { startLine: 3, startColumn: 2, endLine: 3, endColumn: 9 }),
    result("style", 1, "note", "Odd", { startLine: 1, startColumn: 1 }),
    result("sql", 0, "error", "Again", { startLine: 5, startColumn: 1, endLine: 6, endColumn: 1 }),
  ]);
});

test("suggested code is a fix in SARIF", () => {
  const code = Text.of(["a", "b", "c"]);
  const fix = (start: number, end: number, replacement: string, code: Text | undefined, suggestion?: string): unknown => {
    const f: Finding = { rule: "r", severity: "low", message: "m", range: { start: { line: start, column: 1 }, end: { line: end, column: 2 } }, replacement, ...(suggestion ? { suggestion } : {}) };
    const log = JSON.parse(findingsSARIF({ stream: "S", title: "t", filename: "a b.go", text: "", findings: [f], code })) as { runs: { results: { fixes: unknown[] }[] }[] };
    return log.runs[0]?.results[0]?.fixes;
  };
  const want = (text: string, replacement: object): object[] => [{ description: { text }, artifactChanges: [{ artifactLocation: { uri: "a%20b.go" }, replacements: [replacement] }] }];
  assert.deepEqual(fix(1, 2, "x\ny", code, "Do it."), want("Do it.", { deletedRegion: { startLine: 1, endLine: 2 }, insertedContent: { text: "x\ny" } }));
  const out = (startLine: number, startColumn: number, endLine: number, endColumn: number): object[] => want("Suggested code", { deletedRegion: { startLine, startColumn, endLine, endColumn } });
  assert.deepEqual(fix(2, 2, "", code), out(2, 1, 3, 1));
  assert.deepEqual(fix(2, 3, "", code), out(1, 2, 3, 2)); // the file's last lines
  assert.deepEqual(fix(1, 3, "", code), out(1, 1, 3, 2));
  assert.deepEqual(fix(2, 3, "", undefined), out(2, 1, 4, 1)); // of a run of the history
});

test("a change is shown as the lines that it takes out and puts in", () => {
  const code = Text.of(["one", "two", "three", "four", "five", "six"]);
  const shown = (start: number, end: number, replacement: string, doc: Text | undefined = code): string[] =>
    diff(suggesting(start, end, replacement), doc).map((l) => `${{ old: "-", new: "+", same: " " }[l.kind]}${l.text}`);
  assert.deepEqual(shown(2, 2, "2"), ["-two", "+2"]);
  assert.deepEqual(shown(2, 3, ""), ["-two", "-three"]);
  assert.deepEqual(shown(1, 6, "one\ntwo\nthree\n4\nfive\nsix"), [" two", " three", "-four", "+4", " five", " six"]);
  assert.deepEqual(shown(1, 2, "one\nmore\ntwo"), [" one", "+more", " two"]);
  assert.deepEqual(shown(1, 3, "one\nthree"), [" one", "-two", " three"]);
  assert.deepEqual(shown(1, 2, "one\none\ntwo"), [" one", "+one", " two"]);
  assert.deepEqual(diff(suggesting(2, 2, "2"), undefined), [{ kind: "new", text: "2" }]);
  assert.deepEqual(shown(6, 9, "x"), ["+x"]); // not of this text
});

test("a change can be made while its lines are what they were", () => {
  const doc = Text.of(["one", "two", "three"]);
  const after = (f: Finding, ...changes: ChangeSpec[]): string => afterIn(doc, f, ...changes);
  const afterIn = (doc: Text, f: Finding, ...changes: ChangeSpec[]): string => {
    let state = EditorState.create({ doc }), since = ChangeSet.empty(doc.length) as ChangeDesc;
    for (const c of changes) {
      const t = state.update({ changes: c });
      since = since.composeDesc(t.changes);
      state = t.state;
    }
    const change = changeSince(doc, f, state.doc, since);
    return typeof change === "string" ? change : state.update({ changes: change }).state.doc.toString();
  };
  const second = suggesting(2, 2, "2"), gone = suggesting(2, 2, "");
  assert.equal(after(second), "one\n2\nthree");
  assert.equal(after(gone), "one\nthree");
  assert.equal(after(suggesting(2, 3, "")), "one");
  assert.equal(after(suggesting(1, 3, "")), "");
  assert.equal(after(suggesting(1, 3, "x\ny")), "x\ny");
  // Elsewhere there may be changes: above, with more lines, right before it and right behind.
  assert.equal(after(second, { from: 0, to: 3, insert: "1\n1.5" }), "1\n1.5\n2\nthree");
  assert.equal(after(second, { from: 4, insert: "new\n" }, { from: 11, insert: "\nmore" }), "one\nnew\n2\nmore\nthree");
  assert.equal(after(gone, { from: 8, to: 13 }), "one\n");
  const blank = Text.of(["a", "", "b"]);
  assert.equal(afterIn(blank, suggesting(2, 2, "x")), "a\nx\nb");
  assert.equal(afterIn(blank, suggesting(2, 2, "x"), { from: 2, insert: "x" }), "applied");
  assert.equal(afterIn(blank, suggesting(2, 2, "x"), { from: 2, insert: "y" }), "changed");
  // Its lines may not.
  for (const c of [{ from: 5, insert: "x" }, { from: 4, insert: "x" }, { from: 7, insert: "x" }, { from: 4, to: 7, insert: "other" }, { from: 3, to: 4 }, { from: 7, to: 8 }]) {
    assert.equal(after(second, c), "changed", JSON.stringify(c));
  }
  assert.equal(after(suggesting(3, 4, "x")), "changed");
  assert.equal(after(suggesting(0, 0, "x")), "changed");
  // Once it is made there is nothing to do, until it is taken back.
  const undo = { from: 4, to: 5, insert: "two" };
  assert.equal(after(second, { from: 4, to: 7, insert: "2" }), "applied");
  assert.equal(after(second, { from: 4, to: 7, insert: "2" }, undo), "one\n2\nthree");
  assert.equal(after(gone, { from: 4, to: 8 }), "applied");
  assert.equal(after(gone, { from: 4, to: 8 }, { from: 4, insert: "two\n" }), "one\nthree");
  assert.equal(after(gone, { from: 4, to: 8 }, { from: 4, insert: "two\n" }, { from: 5, insert: "x" }), "changed");
});

test("a link leads to a stream, with a token where there is one", () => {
  for (const s of [{ id: "01ABC", token: undefined }, { id: "01ABC", token: "ath_x.Y-z~1" }]) {
    const link = linkTo("https://hub.example/sub/?x=1#stream=OLD", s);
    assert.match(link, /^https:\/\/hub\.example\/sub\/\?x=1#stream=01ABC/);
    assert.deepEqual(readFragment(new URL(link).hash), s);
  }
  for (const hash of ["", "#", "#results", "#stream=", "#stream=abc", "#stream=01A&token=", "#stream=01A&token=a b", "#stream=01A&more=1"]) assert.equal(readFragment(hash), undefined, hash);
});

test("metrics are summed, and compared with the ones before", () => {
  const before = readMetrics("# HELP athena_x y\nathena_connections{transport=\"sse\"} 2\nathena_connections{transport=\"websocket\"} 3\nathena_events_written_total 10\nodd line\nh_sum 1\nh_count 2\nnan NaN\n" +
    "athena_provider_circuit_state{model=\"a} 9\",provider=\"p\"} 2\nathena_provider_circuit_state{model=\"b\"} 1\nathena_provider_circuit_state{model=\"c\"} 0\n");
  const after = readMetrics("athena_events_written_total 40 1700000000000\nh_sum 1.5\nh_count 4\n");
  assert.deepEqual([before.get("athena_connections"), before.get("athena_provider_circuit_state"), before.get("nan")], [5, 2, undefined]);
  assert.deepEqual([rate(before, after, "athena_events_written_total", 2), rate(after, before, "athena_events_written_total", 2), rate(before, after, "none", 2), rate(before, after, "h_sum", 0)], [15, undefined, undefined, undefined]);
  assert.deepEqual([meanMs(before, after, "h"), meanMs(after, after, "h")], [250, undefined]);
});

test("a chart's line ends at the right, as high as its value", () => {
  assert.deepEqual(paths([], 0), ["", ""]);
  assert.deepEqual(paths([undefined, 0, undefined, 5, 10], 10), ["M173.9 42.0L178.0 23.0L180.0 4.0", "M173.9 42.0L178.0 23.0L180.0 4.0L180.0 44L173.9 44Z"]);
  assert.equal(paths([0, 0], 0)[0], "M178.0 42.0L180.0 42.0");
});
