/**
 * Colours code that grows: each line is read once, from the state that the one
 * before it left, so that a long answer costs no more for each piece than a
 * short one.
 */
import { StringStream, type StreamParser } from "@codemirror/language";
import { parserOf } from "./languages.js";

// What parsers call a token, and the class that it has in app.css, which is also that of the editor.
const classes: Readonly<Record<string, string>> = {
  keyword: "keyword", string: "string", "string-2": "string2", comment: "comment", number: "number", atom: "atom", bool: "bool", def: "definition",
  "variable-2": "variableName2", "variable-3": "typeName", type: "typeName", typeName: "typeName", builtin: "keyword", meta: "meta", tag: "typeName", attribute: "propertyName",
  property: "propertyName", positive: "inserted", negative: "deleted", inserted: "inserted", deleted: "deleted", error: "invalid",
};
const tabSize = 4;
/** No line of code that was written by hand is longer; what is stays plain. */
const maxLine = 2000;
/** How often in a row a parser may read nothing. */
const maxIdle = 20;

export class Highlighter {
  readonly #parser: StreamParser<unknown> | undefined;
  #state: unknown;
  /** How much of the code has been read for good, whole lines only. */
  #done = 0;
  /** The nodes of what was read since, which may still grow. */
  #open: ChildNode[] = [];

  constructor(private readonly into: HTMLElement, language: string) {
    this.#parser = parserOf(language);
    this.#state = this.#parser?.startState?.(tabSize);
  }

  /** Shows the code, of which what was shown before must be the beginning. */
  grow(code: string): void {
    for (const n of this.#open) n.remove();
    const end = code.lastIndexOf("\n") + 1;
    for (const line of code.slice(this.#done, end).split("\n").slice(0, -1)) {
      this.#line(line, this.#state);
      this.#add("\n", "");
    }
    this.#done = end;
    this.#open = [];
    const rest = code.slice(end);
    if (rest === "") return;
    const p = this.#parser;
    // Its state is thrown away: the line will be read again when there is more of it.
    this.#line(rest, p?.copyState ? p.copyState(this.#state) : structured(this.#state));
  }

  #line(line: string, state: unknown): void {
    const p = this.#parser;
    if (!p || line.length > maxLine) { this.#add(line, ""); return; }
    if (line === "") { p.blankLine?.(state, tabSize); return; }
    const stream = new StringStream(line, tabSize, tabSize);
    for (let idle = 0; !stream.eol() && idle < maxIdle; stream.start = stream.pos) {
      const name = p.token(stream, state);
      idle = stream.pos > stream.start ? 0 : idle + 1; // it may change its state only
      this.#add(stream.current(), name ?? "");
    }
    this.#add(line.slice(stream.pos), "");
  }

  #add(text: string, name: string): void {
    if (text === "") return;
    const known = name.split(/[ .]/).map((n) => (Object.hasOwn(classes, n) ? classes[n] : undefined)).find((c) => c !== undefined);
    let node: Text | HTMLElement = document.createTextNode(text);
    if (known !== undefined) {
      const span = document.createElement("span");
      span.className = `tok-${known}`;
      span.append(node);
      node = span;
    }
    this.into.append(node);
    this.#open.push(node);
  }
}

/** A copy of the state of a parser that doesn't say how to copy it, as the editor does it. */
function structured(state: unknown): unknown {
  if (typeof state !== "object" || state === null) return state;
  return Object.fromEntries(Object.entries(state as Record<string, unknown>).map(([k, v]) => [k, Array.isArray(v) ? (v as unknown[]).slice() : v]));
}
