/** What the renderer makes of answers, honest and hostile. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Highlighter } from "../ui/highlight.js";
import { languages } from "../ui/languages.js";
import { MarkdownView } from "../ui/markdown.js";
import { fakeDocument } from "./dom.js";

function render(...texts: string[]): string {
  const into = fakeDocument();
  const view = new MarkdownView(into);
  for (const t of texts) view.render(t);
  return into.inner;
}

const cases: [string, string][] = [
  ["Some text\nin two lines\n\nand <b>more</b>", "<p>Some text\nin two lines</p><p>and &lt;b>more&lt;/b></p>"],
  ["# One\n## Two ##\n###### Six", "<h2>One</h2><h3>Two</h3><h5>Six</h5>"],
  ["# About C#", "<h2>About C#</h2>"],
  ["## ##\n# \n#no\n####### seven", "<h3></h3><h2></h2><p>#no\n####### seven</p>"],
  ["# Of `code` and **weight** ###  ", "<h2>Of <code>code</code> and <strong>weight</strong></h2>"],
  ["`a` and ``b ` c`` and ` d `", "<p><code>a</code> and <code>b ` c</code> and <code>d</code></p>"],
  ["an open ` and ``` too", "<p>an open ` and ``` too</p>"],
  ["**strong *em* more** and **a*b**, *em*, _em_, snake_case_name", "<p><strong>strong <em>em</em> more</strong> and <strong>a*b</strong>, <em>em</em>, <em>em</em>, snake_case_name</p>"],
  ["2 * 3 * 4 and ** not this ** and **not\n\nthat**", "<p>2 * 3 * 4 and ** not this ** and **not</p><p>that**</p>"],
  ["**over\nlines**", "<p><strong>over\nlines</strong></p>"],
  ["[a **b**](https://example.com/x?y=1) [no](javascript:alert(1))", "<p><a href=https://example.com/x?y=1>a <strong>b</strong></a> [no](javascript:alert(1))</p>"],
  ["```go\nfmt.Print(.5)\n```", "<pre><code language=go>fmt.Print(<span class=tok-number>.5</span>)</code></pre>"],
  ["```go\nx := `1`\n\n# no heading\n```\nafter", "<pre><code language=go>x := <span class=tok-string>`1`</span>\n\n# no heading</code></pre><p>after</p>"],
  ["~~~~ c++ title\n```\n~~~~", "<pre><code language=c++>```</code></pre>"],
  ["```\nstill open", "<pre><code>still open</code></pre>"],
  ["- a\n- b\n  - c\n    more\n- d\n\ntext", "<ul><li>a</li><li>b<ul><li>c more</li></ul></li><li>d</li></ul><p>text</p>"],
  ["3. three\n4) four\n\n   more", "<ol start=3><li>three</li><li>four more</li></ol>"],
  ["> quoted\n> - a\n>> deep", "<blockquote><p>quoted</p><ul><li>a</li></ul><blockquote><p>deep</p></blockquote></blockquote>"],
  ["a\n\n---\n* * *\n ___ \n--", "<p>a</p><hr></hr><hr></hr><hr></hr><p>--</p>"],
  ["| a | **b** |\n|:--|--:|\n| 1 | 2 |\nend", "<table><tr><th>a</th><th><strong>b</strong></th></tr><tr><td>1</td><td>2</td></tr></table><p>end</p>"],
  ["a | b\n- | -\n1 | 2", "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>"],
  ["- a\n\n- b\n\n-\n\ntext\n- c", "<ul><li>a</li><li>b</li></ul><p>-</p><p>text</p><ul><li>c</li></ul>"],
  ["```go\n/* one\ntwo */ if x\n```\n\n```\nif\n```", "<pre><code language=go><span class=tok-comment>/* one</span>\n<span class=tok-comment>two */</span> <span class=tok-keyword>if</span> x</code></pre><pre><code>if</code></pre>"],
  ["```diff\n-a\n+b\n```", "<pre><code language=diff><span class=tok-deleted>-a</span>\n<span class=tok-inserted>+b</span></code></pre>"],
  ["```constructor\nx\n```", "<pre><code language=constructor>x</code></pre>"],
  ["a | b\n||\nc", "<p>a | b\n||\nc</p>"],
];

test("Markdown becomes nodes", () => {
  for (const [text, want] of cases) assert.equal(render(text), want, text);
});

test("lines that end in CRLF are lines", () => {
  assert.equal(render("# One\r\n\r\n- a\r\n- b\r\n\r\n```go\r\nx\r\n```\r\n"),
    "<h2>One</h2><ul><li>a\r</li><li>b\r</li></ul><pre><code language=go>x\r</code></pre>");
});

test("text that grows ends as text that came at once", () => {
  for (const [text, want] of cases) {
    assert.equal(render(...Array.from({ length: text.length }, (_, i) => text.slice(0, i + 1))), want, text);
  }
});

test("code that is still being written keeps its nodes", () => {
  const into = fakeDocument();
  const view = new MarkdownView(into);
  view.render("text\n\n```go\nfunc one() {\n\tret");
  const pre = into.children[1] as typeof into, line = pre.children[0];
  view.render("text\n\n```go\nfunc one() {\n\treturn\n}\n```\nmore");
  assert.equal(into.children[1], pre);
  assert.equal((pre.children[0] as typeof into).children[0], (line as typeof into).children[0]);
  assert.match(into.inner, /^<p>text<\/p><pre>.*<span class=tok-keyword>return<\/span>\n}<\/code><\/pre><p>more<\/p>$/s);
});

test("no code keeps the page busy", () => {
  const odd = ["\"'`", "/* ", "((((", "<a b='", "$x->{", "#{", "R\"(", "\\\n\n", "0x1.e+", "a.b::c", "'''\n", "{{<%", "-- --", "\u2028\r\t"];
  for (const language of [...Object.keys(languages), "json", "css", "diff"]) {
    const begun = process.cpuUsage();
    for (const o of odd) assert.ok(isPlain(o.repeat(1000), language) && isPlain(`${o.repeat(100)}\n`.repeat(40), language), `${language}: ${o}`);
    const took = process.cpuUsage(begun).user / 1000;
    assert.ok(took < 3000, `${language}: ${took.toFixed(0)} ms`);
  }
});

/** Reports whether the code is shown as it is, whatever its colours. */
function isPlain(code: string, language: string): boolean {
  const into = fakeDocument();
  new Highlighter(into, language).grow(code);
  return into.inner.replaceAll(/<\/?(span|article)\b[^>]*>/g, "") === code.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

test("no answer keeps the page busy", () => {
  const n = 60_000;
  const fill = (s: string): string => s.repeat(Math.ceil(n / s.length));
  /** As many paragraphs of as much as is looked into. */
  const paragraphs = (s: string): string => Array.from({ length: 5 }, () => s.repeat(Math.floor(19_990 / s.length))).join("\n\n");
  const hostile = {
    "backticks and text": "`".repeat(4000) + "a".repeat(4000), "backticks, and much text": "`".repeat(9000) + "a".repeat(9000),
    "runs of every length": paragraphs(Array.from({ length: 190 }, (_, i) => "`".repeat(i + 1)).join("a")),
    "odd backticks": paragraphs("a`b``c```d````e`````"),
    "strong that never ends": paragraphs("**a "), "strong over nothing": paragraphs("**a" + " ".repeat(500)), "stars": fill("*"), "stars and letters": paragraphs("*a"), "stars and spaces": paragraphs("*a "),
    "em that never ends": paragraphs("_a "), "low lines": paragraphs("_"), "low lines and letters": paragraphs(" _a"), "nested marks": paragraphs("**_*a"),
    "brackets": paragraphs("["), "links that never end": paragraphs("[a](http://x"), "labels that never end": paragraphs("[a "), "one long link": `[a](http://${"x".repeat(19_900)}`,
    "a heading with spaces": "# " + " ".repeat(n) + "x\u2028y", "a mark and spaces": "#" + " ".repeat(30_000) + "x\u2028y", "a heading with marks": "# " + "#".repeat(n) + "x", "marks and spaces": "# " + fill("# ") + "x", "only marks": fill("#"),
    "an item with spaces": "-" + " ".repeat(n) + "x\u2028y", "items": fill("- a\n"), "deep items": Array.from({ length: 400 }, (_, i) => " ".repeat(i) + "- a").join("\n"), "spaces": " ".repeat(n) + "x",
    "almost a rule": fill("- ") + "x", "a rule with gaps": `-${" ".repeat(n)}-${" ".repeat(n)}-${" ".repeat(n)}x`, "lines of almost rules": fill("---------x\n"),
    "a fence": "`".repeat(n) + "\u2028x", "a fence with spaces": "```" + " ".repeat(n) + "\u2028x", "a fence with a word": "~~~" + "a".repeat(n) + "\u2028x", "many fences": fill("```\n"),
    "a table's rule of spaces": "a|b\n" + " ".repeat(n) + "x", "a table's rule that isn't": "a|b\n-" + " ".repeat(n) + "x", "a table's rule with bars": "a|b\n" + fill("|-") + "x", "a table's rule with gaps": "a|b\n" + fill("| - ") + "x",
    "many tables": fill("a|b\n|-|-|\n\n"), "a wide table": "a|b\n-|-\n" + fill("|"), "quotes": fill(">"), "quoted lines": fill(">>>>>>>> a\n"), "empty lines": fill("\n"),
  };
  let sum = 0;
  for (const [name, text] of Object.entries(hostile)) {
    const begun = process.cpuUsage(); // on a busy machine the clock shows the others' time too
    render(text);
    const took = process.cpuUsage(begun).user / 1000;
    sum += took;
    assert.ok(took < 1000, `${name}: ${took.toFixed(0)} ms`);
  }
  assert.ok(sum < 2000, `${sum.toFixed(0)} ms in all`);
});
