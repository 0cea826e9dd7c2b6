/**
 * A small Markdown renderer for answers that are still being written. It
 * makes DOM nodes and never parses HTML, so nothing in an answer can become
 * markup. render keeps the nodes of the blocks that have not changed: while
 * text is added, only the last block is made again, and nothing flickers.
 */

import { Highlighter } from "./highlight.js";
import { texts } from "./texts.js";

/** `at` is where in the text the block begins. */
interface Block { kind: "code" | "text" | "list" | "quote" | "heading" | "rule" | "table"; source: string; at: number }

// An answer is not to be trusted, so no pattern may take more than linear time
// on a line. Each ends where it is certain, or in a `.*` that nothing can stop:
// the s flag lets it pass U+2028 and a carriage return. The 1000 is there since
// each repetition of a group takes room on the engine's stack.
const listItem = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/s;
const heading = /^(#{1,6})\s+(.*)$/s;
const rule = /^\s{0,3}([-*_])\s*\1\s*\1(?:\s|\1){0,1000}$/;
const fence = /^\s{0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const ruleCell = /^\s*:?-+:?\s*$/;

/** What a row of a table has between its bars. */
function cells(line: string): string[] {
  return line.trim().replace(/^\||\|$/g, "").split("|");
}

function isTableRule(line: string): boolean {
  return line.includes("-") && cells(line).every((c) => ruleCell.test(c));
}

/** A heading's text without the marks that may close it. */
function unclosed(text: string): string {
  const t = text.trimEnd();
  let end = t.length;
  while (t[end - 1] === "#") end--;
  return end === 0 || /\s/.test(t[end - 1] ?? "") ? t.slice(0, end).trimEnd() : t; // "C#" stays
}

/** Cuts the text into blocks, each of which begins without regard to those before it. */
function split(text: string, from = 0): Block[] {
  const lines = text.slice(from).split("\n");
  const blocks: Block[] = [];
  let at = from;
  for (let i = 0; i < lines.length; ) {
    const line = lines[i] ?? "";
    const start = i;
    const take = (kind: Block["kind"]): void => {
      const source = lines.slice(start, i).join("\n");
      blocks.push({ kind, source, at });
      at += source.length + 1;
    };
    const open = fence.exec(line);
    if (line.trim() === "") {
      i++;
      at += line.length + 1;
    } else if (open) {
      const mark = open[1] ?? "```";
      for (i++; i < lines.length; i++) {
        const l = (lines[i] ?? "").trim();
        if (l.startsWith(mark) && l.replaceAll(mark[0] ?? "`", "") === "") { i++; break; }
      }
      take("code");
    } else if (heading.test(line)) {
      i++;
      take("heading");
    } else if (rule.test(line)) {
      i++;
      take("rule");
    } else if (line.startsWith(">")) {
      while ((lines[i] ?? "").startsWith(">")) i++;
      take("quote");
    } else if (listItem.test(line)) {
      i++;
      while (i < lines.length) {
        const l = lines[i] ?? "";
        const next = lines[i + 1] ?? "";
        if (l.trim() === "" ? !(listItem.test(next) || /^\s{2,}\S/.test(next)) : !(listItem.test(l) || /^\s{2,}\S/.test(l))) break;
        i++;
      }
      take("list");
    } else if (line.includes("|") && isTableRule(lines[i + 1] ?? "")) {
      while ((lines[i] ?? "").includes("|")) i++;
      take("table");
    } else {
      i++;
      while (i < lines.length) {
        const l = lines[i] ?? "";
        if (l.trim() === "" || fence.test(l) || heading.test(l) || rule.test(l) || l.startsWith(">") || listItem.test(l)) break;
        i++;
      }
      take("text");
    }
  }
  return blocks;
}

// What one opening mark can make the search run over is bounded: by the next
// mark of its kind, or by a number. Only a run of backticks looks through all
// of the text, and in vain at most once for each of its eight lengths.
const inlinePattern = new RegExp([
  /(?<!`)(`{1,8})(?!`)([\s\S]*?[^`])\1(?!`)/,
  /\*\*([^*\n](?:(?:(?!\*\*)[\s\S])*[^*\s])?)\*\*/,
  /\*([^*\s](?:[^*]*[^*\s])?)\*/,
  /(?<!\w)_([^_\s](?:[^_]*[^_\s])?)_(?!\w)/,
  /\[([^\]\n]{1,500})\]\((https?:\/\/[^\s)]{1,2000})\)/,
].map((p) => p.source).join("|"));

/** No honest paragraph is longer; what is stays plain. */
const maxInline = 20_000;

/** Appends text with code, strong, emphasis and links to a node. */
function inline(into: Node, text: string, depth = 0): void {
  let rest = text;
  while (rest !== "") {
    const m = depth < 6 && rest.length < maxInline ? inlinePattern.exec(rest) : null;
    if (!m) { into.appendChild(document.createTextNode(rest)); return; }
    if (m.index > 0) into.appendChild(document.createTextNode(rest.slice(0, m.index)));
    const [all, , code, strong, star, underscore, label, href] = m;
    if (code !== undefined) {
      into.appendChild(element("code", code.trim()));
    } else if (strong !== undefined) {
      inline(into.appendChild(element("strong")), strong, depth + 1);
    } else if (label !== undefined && href !== undefined) {
      const a = element("a");
      a.href = href; // the pattern allows http and https only
      a.rel = "noopener noreferrer";
      a.target = "_blank";
      inline(into.appendChild(a), label, depth + 1);
    } else {
      inline(into.appendChild(element("em")), star ?? underscore ?? "", depth + 1);
    }
    rest = rest.slice(m.index + all.length);
  }
}

function element<K extends keyof HTMLElementTagNameMap>(name: K, text?: string): HTMLElementTagNameMap[K] {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  return e;
}

/** Lists nest by indentation; lines that begin no item continue the one before. */
function list(source: string): HTMLElement {
  interface Open { indent: number; node: HTMLElement; item: HTMLElement }
  const root = element("div");
  const stack: Open[] = [];
  for (const line of source.split("\n")) {
    const m = listItem.exec(line);
    const top = stack.at(-1);
    if (!m) {
      if (top && line.trim() !== "") inline(top.item, ` ${line.trim()}`);
      continue;
    }
    const indent = (m[1] ?? "").length;
    while (stack.length > 1 && indent < (stack.at(-1)?.indent ?? 0)) stack.pop();
    const current = stack.at(-1);
    const item = element("li");
    inline(item, m[3] ?? "");
    if (current && indent < current.indent + 2) {
      current.node.append(item);
      current.item = item;
    } else {
      const numbered = /\d/.test(m[2] ?? "");
      const node = element(numbered ? "ol" : "ul");
      if (numbered) node.setAttribute("start", String(parseInt(m[2] ?? "1", 10)));
      node.append(item);
      (current?.item ?? root).append(node);
      stack.push({ indent, node, item });
    }
  }
  const only = root.firstElementChild;
  return root.childElementCount === 1 && only instanceof HTMLElement ? only : root;
}

function table(source: string): HTMLElement {
  const t = element("table");
  source.split("\n").forEach((line, i) => {
    if (i === 1) return; // the rule
    const row = t.appendChild(element("tr"));
    for (const cell of cells(line)) inline(row.appendChild(element(i === 0 ? "th" : "td")), cell.trim());
  });
  return t;
}

function make(b: Block, depth = 0): HTMLElement {
  switch (b.kind) {
    case "code": return codeBlock(b.source).pre;
    case "heading": {
      const m = heading.exec(b.source);
      const level = Math.min(5, (m?.[1] ?? "#").length + 1);
      const h = element(`h${level}` as "h2" | "h3" | "h4" | "h5");
      inline(h, unclosed(m?.[2] ?? ""));
      return h;
    }
    case "rule": return element("hr");
    case "quote": {
      const q = element("blockquote");
      const inner = b.source.replace(/^> ?/gm, "");
      if (depth < 6) q.append(...split(inner).map((i) => make(i, depth + 1)));
      else q.textContent = inner;
      return q;
    }
    case "list": return list(b.source);
    case "table": return table(b.source);
    case "text": {
      const p = element("p");
      inline(p, b.source);
      return p;
    }
  }
}

/** What a block of code says: its language, and its lines between the fences. */
function codeOf(source: string): { language: string; code: string } {
  const lines = source.split("\n");
  const open = fence.exec(lines[0] ?? "");
  const closed = lines.length > 1 && (lines.at(-1) ?? "").trim().startsWith(open?.[1] ?? "```");
  return { language: open?.[2] ?? "", code: lines.slice(1, closed ? -1 : undefined).join("\n") };
}

interface CodeBlock { pre: HTMLElement; language: string; code: string; highlighter: Highlighter }

function codeBlock(source: string): CodeBlock {
  const { language, code } = codeOf(source);
  const pre = element("pre");
  pre.tabIndex = 0; // it may have to be scrolled by keyboard
  pre.setAttribute("role", "group"); // which can have a name
  pre.setAttribute("aria-label", language === "" ? texts.code : `${texts.code}: ${language}`);
  const e = pre.appendChild(element("code"));
  if (language !== "") e.dataset["language"] = language;
  const highlighter = new Highlighter(e, language);
  highlighter.grow(code);
  return { pre, language, code, highlighter };
}

/** Renders growing text into an element that is its own. */
export class MarkdownView {
  #text = "";
  #blocks: Block[] = [];
  /** The last block, if it is code. */
  #code: CodeBlock | undefined;
  constructor(private readonly into: HTMLElement) {}

  render(text: string): void {
    if (text === this.#text) return;
    const old = this.#blocks;
    // More text can change the last block, and the one before it, which the last line may yet belong to ("-" to "- more").
    const keep = this.#text !== "" && text.startsWith(this.#text) ? Math.max(0, old.length - 2) : 0;
    const blocks = old.slice(0, keep).concat(split(text, keep > 0 ? old[keep]?.at : 0));
    let same = keep;
    while (same < blocks.length && same < old.length && blocks[same]?.source === old[same]?.source && blocks[same]?.kind === old[same]?.kind) same++;
    if (same === old.length - 1 && this.#grown(blocks[same])) same++;
    while (this.into.childElementCount > same) this.into.lastElementChild?.remove();
    if (same < blocks.length) this.#code = undefined;
    for (const b of blocks.slice(same)) {
      this.#code = b.kind === "code" ? codeBlock(b.source) : undefined;
      this.into.append(this.#code?.pre ?? make(b));
    }
    this.#blocks = blocks;
    this.#text = text;
  }

  /** Reports whether the block is the last one's code with more at its end, which is shown then. */
  #grown(b: Block | undefined): boolean {
    const last = this.#code;
    if (!last || b?.kind !== "code") return false;
    const { language, code } = codeOf(b.source);
    if (language !== last.language || !code.startsWith(last.code)) return false;
    last.highlighter.grow(code);
    last.code = code;
    return true;
  }
}
