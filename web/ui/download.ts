/** What a run can be taken away as. */
import type { Text } from "@codemirror/state";
import type { Finding, Severity } from "../client/index.js";
import { changeOf } from "./change.js";
import { texts } from "./texts.js";

export interface Outcome {
  stream: string;
  title: string;
  filename: string;
  text: string;
  findings: readonly Finding[];
  /** The code that it is about, where that is known. */
  code: Text | undefined;
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
  const artifactLocation = { uri: encodeURI(o.filename || "code") };
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
            artifactLocation,
            region: { startLine: f.range.start.line, startColumn: f.range.start.column, ...end(f) },
          },
        }],
        ...(f.replacement === undefined ? {} : {
          fixes: [{
            description: { text: f.suggestion || texts.suggestedCode },
            artifactChanges: [{ artifactLocation, replacements: [replacement(f, f.replacement, o.code)] }],
          }],
        }),
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

/** What a finding's code takes the place of. Lines go with what ends them: the last one with what ends the line before. */
function replacement(f: Finding, code: string, doc: Text | undefined): object {
  const startLine = f.range.start.line, endLine = Math.max(startLine, f.range.end.line);
  // Without columns: from the first column to the last line's end, which does not belong to it.
  if (code !== "") return { deletedRegion: { startLine, endLine }, insertedContent: { text: code } };
  const change = doc && changeOf(doc, f);
  if (!change) return { deletedRegion: { startLine, startColumn: 1, endLine: endLine + 1, endColumn: 1 } };
  const place = (at: number): [number, number] => {
    const line = doc.lineAt(at);
    return [line.number, at - line.from + 1];
  };
  const [fromLine, startColumn] = place(change.from), [toLine, endColumn] = place(change.to);
  return { deletedRegion: { startLine: fromLine, startColumn, endLine: toLine, endColumn } };
}

/** Gives the user a file. */
export function save(name: string, type: string, content: string): void {
  const a = document.createElement("a");
  a.href = URL.createObjectURL(new Blob([content], { type }));
  a.download = name;
  a.click();
  setTimeout(() => { URL.revokeObjectURL(a.href); }, 10_000); // some browsers read it only after the click
}
