/** What the page reads, tells and hands out. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Finding } from "../client/index.js";
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

test("findings can be taken away as JSON and SARIF", () => {
  const o = { stream: "S", title: "t", filename: "a b.go", text: "", findings };
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
