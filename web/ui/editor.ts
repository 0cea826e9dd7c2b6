import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { bracketMatching, syntaxHighlighting } from "@codemirror/language";
import { lintGutter, nextDiagnostic, previousDiagnostic, setDiagnostics, type Diagnostic } from "@codemirror/lint";
import { highlightSelectionMatches, search, searchKeymap } from "@codemirror/search";
import { Annotation, ChangeSet, Compartment, EditorState, Prec, type ChangeDesc, type Text } from "@codemirror/state";
import {
  drawSelection, EditorView, highlightActiveLine, highlightActiveLineGutter, highlightSpecialChars, keymap, lineNumbers, placeholder, type ViewUpdate,
} from "@codemirror/view";
import { classHighlighter } from "@lezer/highlight";
import type { Finding, Severity } from "../client/index.js";
import "./stylesheets.js";
import { changeOf, changeSince, diff, linesSince } from "./change.js";
import { diffView, type ChangeState } from "./changeview.js";
import { editorTheme } from "./editortheme.js";
import { detect, editorLanguage } from "./languages.js";
import { texts } from "./texts.js";

const maxFileBytes = 4 << 20;
/** How long after a change the language is looked for again. */
const detectMs = 300;
const maxMarks = 500;
const lintSeverities: Readonly<Record<Severity, Diagnostic["severity"]>> = { critical: "error", high: "error", medium: "warning", low: "info", info: "hint" };

const another = Annotation.define<boolean>();

export interface EditorOptions {
  box: HTMLElement;
  /** The text has another name now; empty where it has none. */
  named(name: string): void;
  /** What the text's language looks like; empty where nobody knows. */
  detected(language: string): void;
  refused(why: string): void;
  /** The text is another, or has been changed; told at most once a frame. */
  changed(): void;
}

/** The code, its name and the marks of what was found in it; and files that are dropped on it. */
export class Editor {
  readonly #view: EditorView;
  readonly #language = new Compartment();
  #name = "";
  #chosen = "";
  #detecting: ReturnType<typeof setTimeout> | undefined;
  /** The text that the marks are about, and what has been changed since. */
  #marked: { doc: Text; since: ChangeDesc } | undefined;
  /** What the marks are of. */
  #marks: readonly Finding[] = [];
  #frame = 0;

  constructor(private readonly options: EditorOptions) {
    const { box } = options;
    this.#view = new EditorView({
      parent: box,
      extensions: [
        lintGutter(), lineNumbers(), history(), drawSelection(), highlightSpecialChars(), bracketMatching(), highlightActiveLine(), highlightActiveLineGutter(),
        highlightSelectionMatches(), search({ top: true }), syntaxHighlighting(classHighlighter), editorTheme, this.#language.of([]),
        EditorState.tabSize.of(4), placeholder(texts.placeholder),
        EditorView.contentAttributes.of({ id: "code", "aria-labelledby": "code-title", "aria-describedby": "keys", autocapitalize: "off", tabindex: "0" }),
        // The page's own key, which would add a line here. Tab leaves the editor, as it does a field.
        Prec.highest(keymap.of([{ key: "Mod-Enter", run: () => true }])),
        keymap.of([{ key: "F8", run: nextDiagnostic, shift: previousDiagnostic }, ...searchKeymap, ...historyKeymap, ...defaultKeymap]),
        EditorView.updateListener.of((u) => { if (u.docChanged) this.#changed(u); }),
      ],
    });
    box.addEventListener("dragover", (e) => {
      if (!e.dataTransfer?.types.includes("Files")) return;
      e.preventDefault();
      box.classList.add("over");
    });
    box.addEventListener("dragleave", (e) => {
      if (!(e.relatedTarget instanceof Node && box.contains(e.relatedTarget))) box.classList.remove("over");
    });
    box.addEventListener("drop", (e) => {
      box.classList.remove("over");
      const file = e.dataTransfer?.files[0];
      if (!file) return;
      e.preventDefault();
      e.stopPropagation(); // the editor would put its text where it was dropped
      void this.open(file);
    }, { capture: true });
  }

  get code(): string { return this.#view.state.doc.toString(); }
  get doc(): Text { return this.#view.state.doc; }
  get empty(): boolean { return this.code.trim() === ""; }

  focus(): void { this.#view.focus(); }

  set(code: string, name: string): void {
    const { state } = this.#view;
    this.#view.dispatch({
      changes: { from: 0, to: state.doc.length, insert: code }, selection: { anchor: 0 }, scrollIntoView: true, annotations: another.of(true),
    });
    this.mark(undefined, []);
    this.#rename(name);
    this.#detect();
  }

  async open(file: File): Promise<void> {
    if (file.size > maxFileBytes) { this.options.refused(texts.fileTooLarge(file.name)); return; }
    try {
      this.set(new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer()), file.name);
    } catch {
      this.options.refused(texts.fileNotText(file.name));
    }
  }

  /** Colours the text as this language; with none, as what it looks like. */
  use(language: string): void {
    this.#chosen = language;
    this.#detect();
  }

  /** Marks what was found in a text. Reports whether the editor has it: what was changed since then is minded, another text is not marked. */
  mark(doc: Text | undefined, findings: readonly Finding[]): boolean {
    if (!doc) this.#marked = undefined;
    else if (this.#marked?.doc !== doc) this.#marked = doc.eq(this.doc) ? { doc, since: ChangeSet.empty(doc.length) } : undefined;
    const m = this.#marked;
    const marks = m ? findings.filter((f) => this.change(m.doc, f) !== "applied").slice(0, maxMarks) : [];
    if (marks.length === this.#marks.length && marks.every((f, i) => f === this.#marks[i])) return m !== undefined; // they have moved with the text
    this.#marks = marks;
    this.#view.dispatch(setDiagnostics(this.#view.state, m ? marks.map((f) => this.#mark(f, m)) : []));
    return m !== undefined;
  }

  /** Whether a finding's code can be put in the place of its lines, in the text that it is about. */
  change(doc: Text | undefined, f: Finding): ChangeState {
    if (!doc) return "unknown";
    if (this.#marked?.doc !== doc) return "other";
    const change = changeSince(doc, f, this.doc, this.#marked.since);
    return typeof change === "string" ? change : "ready";
  }

  /** Puts it there, as one step to undo. Reports whether it could. */
  apply(doc: Text, f: Finding): boolean {
    if (this.#marked?.doc !== doc) return false;
    const changes = changeSince(doc, f, this.doc, this.#marked.since);
    if (typeof changes === "string") return false;
    this.#view.dispatch({
      changes, selection: { anchor: changes.from }, userEvent: "input.complete",
      effects: EditorView.scrollIntoView(changes.from, { y: "nearest", yMargin: 40 }),
    });
    return true;
  }

  /** Selects what a finding is about and brings it into view. */
  select(f: Finding): void {
    const doc = this.doc;
    const range = this.#range(f, this.#marked ?? { doc, since: ChangeSet.empty(doc.length) });
    if (range.to === range.from) range.to = doc.lineAt(range.from).to;
    this.#view.dispatch({ selection: { anchor: range.from, head: range.to }, effects: EditorView.scrollIntoView(range.from, { y: "center" }), userEvent: "select" });
    this.#view.focus();
    this.options.box.scrollIntoView({ block: "nearest" });
  }

  #range(f: Finding, m: { doc: Text; since: ChangeDesc }): { from: number; to: number } {
    const at = (line: number, column: number): number => {
      if (line > m.doc.lines) return m.doc.length;
      const l = m.doc.line(Math.max(1, line));
      return Math.min(l.from + Math.max(0, column - 1), l.to);
    };
    const from = at(f.range.start.line, f.range.start.column);
    let to = at(f.range.end.line, f.range.end.column);
    if (to <= from) to = m.doc.lineAt(from).to; // no extent: the line from there
    // Its own change that was taken back leaves it where it was.
    const lines = changeOf(m.doc, f) ?? { from: m.doc.lineAt(from).from, to: m.doc.lineAt(to).to };
    const kept = linesSince(m.doc, lines, this.doc, m.since);
    if (kept) return { from: kept.from + from - lines.from, to: kept.from + to - lines.from };
    const start = m.since.mapPos(from, 1);
    return { from: start, to: Math.max(start, m.since.mapPos(to, -1)) };
  }

  #mark(f: Finding, m: { doc: Text; since: ChangeDesc }): Diagnostic {
    return {
      ...this.#range(f, m), severity: lintSeverities[f.severity], message: f.message, source: f.rule, markClass: `sev-${f.severity}`,
      ...(this.change(m.doc, f) === "ready" ? { actions: [{ name: texts.apply, apply: () => { this.apply(m.doc, f); } }] } : {}),
      renderMessage: () => {
        const e = document.createElement("div");
        const head = e.appendChild(document.createElement("strong"));
        head.textContent = `${texts.severities[f.severity]}: `;
        e.append(f.message);
        if (f.suggestion) {
          const more = e.appendChild(document.createElement("div"));
          more.className = "more";
          more.textContent = f.suggestion;
        }
        if (f.replacement !== undefined) e.append(diffView(diff(f, m.doc)));
        return e;
      },
    };
  }

  #changed(u: ViewUpdate): void {
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => { this.#frame = 0; this.options.changed(); });
    if (u.transactions.some((t) => t.annotation(another))) return;
    if (this.#marked) this.#marked.since = this.#marked.since.composeDesc(u.changes);
    // Whatever takes the place of all the text is another text.
    const all = u.startState.selection.main;
    if (u.state.doc.length === 0 || (all.from === 0 && all.to === u.startState.doc.length && all.to > 0)) this.#rename("");
    clearTimeout(this.#detecting);
    this.#detecting = setTimeout(() => { this.#detect(); }, detectMs);
  }

  #rename(name: string): void {
    this.#name = name;
    this.options.named(name);
  }

  #detect(): void {
    clearTimeout(this.#detecting);
    const found = detect(this.#name, this.#view.state.sliceDoc(0, 8000));
    this.options.detected(found);
    const language = editorLanguage(this.#chosen || found) ?? [];
    if (this.#language.get(this.#view.state) !== language) this.#view.dispatch({ effects: this.#language.reconfigure(language) });
  }
}
