/** The languages that the page knows: what they are called, how they are recognised, and how they are coloured. */
import { StreamLanguage, type StreamParser } from "@codemirror/language";
import { c, clike, cpp, csharp, java, kotlin } from "@codemirror/legacy-modes/mode/clike";
import { css } from "@codemirror/legacy-modes/mode/css";
import { diff } from "@codemirror/legacy-modes/mode/diff";
import { go as goMode } from "@codemirror/legacy-modes/mode/go";
import { javascript, json, typescript } from "@codemirror/legacy-modes/mode/javascript";
import { python } from "@codemirror/legacy-modes/mode/python";
import { ruby } from "@codemirror/legacy-modes/mode/ruby";
import { rust } from "@codemirror/legacy-modes/mode/rust";
import { shell } from "@codemirror/legacy-modes/mode/shell";
import { standardSQL } from "@codemirror/legacy-modes/mode/sql";
import { swift } from "@codemirror/legacy-modes/mode/swift";
import { html } from "@codemirror/legacy-modes/mode/xml";

// What a parser's state is, only the parser knows.
type Parser = StreamParser<unknown>;

const words = (s: string): Record<string, boolean> => Object.fromEntries(s.split(" ").map((w) => [w, true]));
const php = clike({
  name: "php",
  keywords: words("abstract and as break case catch class clone const continue declare default do echo else elseif endfor endforeach endif endswitch endwhile " +
    "enum extends final finally fn for foreach function global goto if implements include include_once instanceof insteadof interface isset list match " +
    "namespace new or print private protected public readonly require require_once return static switch throw trait try unset use var while xor yield"),
  blockKeywords: words("catch do else elseif for foreach if switch try while finally"),
  atoms: words("true false null TRUE FALSE NULL"),
  types: words("int float string bool array object mixed void never iterable callable self parent"),
  multiLineStrings: true,
  hooks: {
    "$": (stream: { eatWhile(r: RegExp): boolean }) => { stream.eatWhile(/\w/); return "variable-2"; },
    "#": (stream: { skipToEnd(): void }) => { stream.skipToEnd(); return "comment"; },
  },
});

// The dot of a selector begins no number.
const go: Parser = {
  ...goMode,
  token: (stream, state) => {
    const name = goMode.token(stream, state);
    return name === "number" && stream.current() === "." ? null : name;
  },
};

interface Language {
  label: string;
  parser: Parser;
  /** Endings of files' names, and what Markdown calls it. */
  names: readonly string[];
  /** What hardly another language has. */
  signs?: RegExp;
}

/** By what the server calls them. */
export const languages: Readonly<Record<string, Language>> = {
  go: { label: "Go", parser: go, names: ["go", "golang"], signs: /^package \w+$|^func [\w(]|:= /m },
  javascript: { label: "JavaScript", parser: javascript, names: ["js", "mjs", "cjs", "jsx"], signs: /\bconst \w+ =|=> \{|\brequire\(|\bfunction\s*\*?\s*\w*\(|^export (default|const|function)/m },
  typescript: { label: "TypeScript", parser: typescript, names: ["ts", "mts", "cts", "tsx"], signs: /^(export )?interface \w+ \{|: (string|number|boolean|unknown)[;,)=[ ]|^import type /m },
  python: { label: "Python", parser: python, names: ["py", "pyi", "py3"], signs: /^\s*(def|class) \w+.*:\s*$|^from [\w.]+ import |^import \w+$|\bself\./m },
  java: { label: "Java", parser: java, names: ["java"], signs: /^import java|\bpublic (static |final )*(class|void|interface)\b|System\.out\./m },
  c: { label: "C", parser: c, names: ["c", "h"], signs: /^#include <\w+\.h>|\bint main\(|\bmalloc\(|\bstruct \w+ \*/m },
  "c++": { label: "C++", parser: cpp, names: ["cpp", "cc", "cxx", "hpp", "hh"], signs: /^#include <\w+>|\bstd::|^using namespace |\btemplate ?</m },
  "c#": { label: "C#", parser: csharp, names: ["cs", "csharp"], signs: /^using System|^namespace [\w.]+|Console\.Write|\{ get; /m },
  rust: { label: "Rust", parser: rust, names: ["rs"], signs: /\bfn \w+.*\{|\blet mut |^use (std|crate)::|\bimpl\b.*\{|println!/m },
  php: { label: "PHP", parser: php as Parser, names: ["php"], signs: /<\?php|\$\w+->/ },
  ruby: { label: "Ruby", parser: ruby, names: ["rb"], signs: /^\s*def \w+[^:{]*$|^require ['"]|\bend$|\bputs /m },
  kotlin: { label: "Kotlin", parser: kotlin as Parser, names: ["kt", "kts"], signs: /\bfun \w+\(|\bval \w+|\bdata class /m },
  swift: { label: "Swift", parser: swift, names: ["swift"], signs: /\bfunc \w+\(.*->|\bguard let |^import (Foundation|SwiftUI|UIKit)/m },
  shell: { label: "Shell", parser: shell, names: ["sh", "bash", "zsh", "console"], signs: /^#!.*\b(ba|z|da)?sh\b|^\s*(fi|esac|done)$|\$\{\w+/m },
  sql: { label: "SQL", parser: standardSQL, names: ["sql", "mysql", "postgresql"], signs: /^\s*(select\b.*\bfrom|insert into|create table|update \w+ set)\b/im },
  html: { label: "HTML", parser: html, names: ["html", "htm", "xml", "svg", "vue"], signs: /^<!doctype html|<\/(html|body|div|script)>/im },
};

/** Languages that only answers are in. YAML is not among them: its parser takes more than linear time on a line. */
const others: Readonly<Record<string, Parser>> = { json, css, diff, patch: diff };

const byName = new Map<string, string>(Object.entries(languages).flatMap(([id, l]) => [id, ...l.names].map((n) => [n, id] as const)));

/** The parser of a language, as Markdown or the server calls it. */
export function parserOf(name: string): Parser | undefined {
  const n = name.toLowerCase();
  return languages[byName.get(n) ?? ""]?.parser ?? (Object.hasOwn(others, n) ? others[n] : undefined);
}

const made = new Map<Parser, StreamLanguage<unknown>>();

/** What the editor colours a language by. */
export function editorLanguage(name: string): StreamLanguage<unknown> | undefined {
  const p = parserOf(name);
  if (!p) return undefined;
  const l = made.get(p) ?? StreamLanguage.define(p);
  made.set(p, l);
  return l;
}

/** How much of a text is looked at to tell its language. */
const looked = 8000;

/** Tells the language of a text by its file's name, or else by what it looks like; empty where it can't. */
export function detect(filename: string, text: string): string {
  const ending = /\.(\w+)$/.exec(filename)?.[1];
  const named = ending === undefined ? undefined : byName.get(ending.toLowerCase());
  if (named !== undefined) return named;
  const head = text.slice(0, looked);
  const interpreter = /^#!.*?\b(python|node|ruby|php|bash|zsh|sh)/.exec(head)?.[1];
  if (interpreter !== undefined) return interpreter === "node" ? "javascript" : (byName.get(interpreter) ?? "");
  let best = "", most = 0;
  for (const [id, l] of Object.entries(languages)) {
    if (!l.signs) continue;
    const found = new Set(Array.from(head.matchAll(new RegExp(l.signs.source, `${l.signs.flags}g`)), (m) => m[0].trim())).size;
    if (found > most) { best = id; most = found; }
  }
  return best;
}
