/** What a finding's code would change in a text. */
import type { ChangeDesc, Text } from "@codemirror/state";
import type { Finding } from "../client/index.js";

/** A line of a change: taken out, put in, or beside it. */
export interface DiffLine { kind: "old" | "new" | "same"; text: string }

/** A change of a text at these places. */
export interface Change { from: number; to: number; insert: string }

/** How many lines that stay are shown before and behind those that don't. */
const beside = 2;

/** The lines that a finding's code takes the place of, from the first to the last. */
function span(f: Finding): { first: number; last: number } {
  return { first: f.range.start.line, last: Math.max(f.range.start.line, f.range.end.line) };
}

/** Whether a text has the lines that a finding's code takes the place of. */
function has(doc: Text, f: Finding): boolean {
  const { first, last } = span(f);
  return first >= 1 && last <= doc.lines;
}

/** What a finding's code changes in the text that it is about: whole lines, and without code what ends them too. Undefined where it has none. */
export function changeOf(doc: Text, f: Finding): Change | undefined {
  if (f.replacement === undefined || !has(doc, f)) return undefined;
  const { first, last } = span(f);
  let { from } = doc.line(first), { to } = doc.line(last);
  if (f.replacement === "") {
    if (to < doc.length) to++;
    else if (from > 0) from--;
  }
  return { from, to, insert: f.replacement };
}

/**
 * The same in the text as it is now. It is "applied" where the code is there
 * already, and "changed" where its lines are not those that the finding is about.
 */
export function changeSince(doc: Text, f: Finding, now: Text, since: ChangeDesc): Change | "applied" | "changed" {
  const was = changeOf(doc, f);
  if (!was) return "changed";
  const kept = linesSince(doc, was, now, since);
  if (kept) return { ...kept, insert: was.insert };
  const places = placesSince(doc, was, now, since);
  const applied = was.insert === "" ? places.every((p) => p.from === p.to) : places.some((p) => p.whole && now.sliceString(p.from, p.to) === was.insert);
  return applied ? "applied" : "changed";
}

/** Where whole lines of a text are in the text as it is now; undefined where they have been changed. */
export function linesSince(doc: Text, was: { from: number; to: number }, now: Text, since: ChangeDesc): { from: number; to: number } | undefined {
  const lines = doc.sliceString(was.from, was.to);
  const kept = placesSince(doc, was, now, since).find((p) => p.whole && now.sliceString(p.from, p.to) === lines);
  return kept && { from: kept.from, to: kept.to };
}

/** Where lines can be now: what stands right beside their place may be new ones, or they themselves that went and came back. */
function placesSince(doc: Text, was: { from: number; to: number }, now: Text, since: ChangeDesc): { from: number; to: number; whole: boolean }[] {
  const begins = isEdge(doc, was.from, "from") ? "from" : "to", ends = isEdge(doc, was.to, "to") ? "to" : "from";
  return [1, -1].map((inwards) => {
    const from = since.mapPos(was.from, inwards), to = Math.max(from, since.mapPos(was.to, -inwards));
    return { from, to, whole: isEdge(now, from, begins) && isEdge(now, to, ends) };
  });
}

/** Whether a place is where a line begins or ends. */
const isEdge = (text: Text, at: number, edge: "from" | "to"): boolean => text.lineAt(at)[edge] === at;

/** What a finding's code changes, as lines; only what is put in, where nobody knows the text. */
export function diff(f: Finding, doc: Text | undefined): DiffLine[] {
  const put = f.replacement === undefined || f.replacement === "" ? [] : f.replacement.split("\n");
  const taken: string[] = [];
  const { first, last } = span(f);
  if (doc && has(doc, f)) for (let n = first; n <= last; n++) taken.push(doc.line(n).text);
  let head = 0, tail = 0;
  while (head < taken.length && head < put.length && taken[head] === put[head]) head++;
  while (tail < taken.length - head && tail < put.length - head && taken.at(-1 - tail) === put.at(-1 - tail)) tail++;
  const lines = (kind: DiffLine["kind"], of: readonly string[]): DiffLine[] => of.map((text) => ({ kind, text }));
  return [
    ...lines("same", taken.slice(Math.max(0, head - beside), head)),
    ...lines("old", taken.slice(head, taken.length - tail)),
    ...lines("new", put.slice(head, put.length - tail)),
    ...lines("same", taken.slice(taken.length - tail, taken.length - tail + Math.min(beside, tail))),
  ];
}
