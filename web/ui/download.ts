/** What a run can be taken away as. */
import type { Finding, Severity } from "../client/index.js";

export interface Outcome {
  stream: string;
  title: string;
  filename: string;
  text: string;
  findings: readonly Finding[];
}

/** The findings as JSON, as the protocol has them. */
export function findingsJSON(o: Outcome): string {
  return `${JSON.stringify({ stream: o.stream, filename: o.filename || undefined, findings: o.findings }, null, 2)}\n`;
}

const levels: Readonly<Record<Severity, string>> = { critical: "error", high: "error", medium: "warning", low: "note", info: "note" };
// What GitHub and others order results by, from 0 to 10.
const scores: Readonly<Record<Severity, string>> = { critical: "9.5", high: "8.0", medium: "5.5", low: "3.0", info: "0.0" };

/** The findings as SARIF 2.1.0. */
export function findingsSARIF(o: Outcome): string {
  const rules = new Map<string, Severity>();
  for (const f of o.findings) if (!rules.has(f.rule)) rules.set(f.rule, f.severity);
  const ids = [...rules.keys()];
  const log = {
    $schema: "https://json.schemastore.org/sarif-2.1.0.json",
    version: "2.1.0",
    runs: [{
      tool: { driver: { name: "Athena", rules: [...rules].map(([id, severity]) => ({ id, properties: { "security-severity": scores[severity] } })) } },
      columnKind: "utf16CodeUnits",
      results: o.findings.map((f) => ({
        ruleId: f.rule, ruleIndex: ids.indexOf(f.rule), level: levels[f.severity],
        message: { text: f.suggestion ? `${f.message}\n\n${f.suggestion}` : f.message },
        locations: [{
          physicalLocation: {
            artifactLocation: { uri: encodeURI(o.filename || "code") },
            region: { startLine: f.range.start.line, startColumn: f.range.start.column, ...end(f) },
          },
        }],
      })),
    }],
  };
  return `${JSON.stringify(log, null, 2)}\n`;
}

/** Where a finding ends; nothing where it has no extent. */
function end(f: Finding): object {
  const { start, end } = f.range;
  return end.line < start.line || (end.line === start.line && end.column <= start.column) ? {} : { endLine: end.line, endColumn: end.column };
}

/** Gives the user a file. */
export function save(name: string, type: string, content: string): void {
  const a = document.createElement("a");
  a.href = URL.createObjectURL(new Blob([content], { type }));
  a.download = name;
  a.click();
  setTimeout(() => { URL.revokeObjectURL(a.href); }, 10_000); // some browsers read it only after the click
}
