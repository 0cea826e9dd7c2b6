import type { Finding } from "../client/index.js";
import type { DiffLine } from "./change.js";
import { texts } from "./texts.js";

/** Whether a finding's code can be put into the editor, and if not, why. */
export type ChangeState = "ready" | keyof typeof texts.notApplied;

/** Changes of more lines than this are shown when they are asked for. */
const maxOpen = 16;
const tags = { old: "del", new: "ins", same: "span" } as const;
const signs = { old: "−", new: "+", same: " " } as const;
let ids = 0;

/** The lines of a change. What is told by colour is told by a sign too, and by a word to who hears it. */
export function diffView(lines: readonly DiffLine[]): HTMLElement {
  const pre = document.createElement("pre");
  pre.className = "diff";
  for (const { kind, text } of lines) {
    const line = pre.appendChild(document.createElement(tags[kind]));
    line.className = kind;
    const sign = line.appendChild(document.createElement("span"));
    sign.className = "sign";
    sign.setAttribute("aria-hidden", "true");
    sign.textContent = signs[kind];
    const word = line.appendChild(document.createElement("span"));
    word.className = "unseen";
    word.textContent = `${texts.lineKinds[kind]}: `;
    const code = line.appendChild(document.createElement("code"));
    code.textContent = text;
  }
  return pre;
}

/** A finding's code as a change, and what puts it into the editor. */
export class ChangeView {
  readonly element = document.createElement("details");
  readonly #apply = document.createElement("button");
  readonly #why = document.createElement("span");
  #state: ChangeState | undefined;

  constructor(f: Finding, lines: readonly DiffLine[], apply: () => void) {
    this.element.className = "change";
    this.element.open = lines.length <= maxOpen;
    const summary = this.element.appendChild(document.createElement("summary"));
    summary.textContent = texts.suggestedLines(f.range.start.line, Math.max(f.range.start.line, f.range.end.line));
    if (lines.length > 0) this.element.append(diffView(lines));
    else this.element.appendChild(document.createElement("p")).textContent = texts.linesGo;
    const row = this.element.appendChild(document.createElement("p"));
    row.className = "do";
    this.#apply.type = "button";
    this.#apply.textContent = texts.apply;
    this.#why.className = "hint";
    this.#why.id = `why-${++ids}`;
    // Not disabled: who comes to it by Tab shall hear why it does nothing, and who pressed it shall stay on it.
    this.#apply.setAttribute("aria-describedby", this.#why.id);
    this.#apply.addEventListener("click", () => { if (this.#state === "ready") apply(); });
    row.append(this.#apply, this.#why);
  }

  set state(s: ChangeState) {
    if (s === this.#state) return;
    this.#state = s;
    this.#apply.setAttribute("aria-disabled", String(s !== "ready"));
    this.#why.textContent = s === "ready" ? "" : texts.notApplied[s];
  }
}
