/** The built extension in a window of a VS Code that is none: see fake.ts. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { chmod, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import test, { type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { Position, Range, Window } from "./fake.js";

const stand = fileURLToPath(new URL("../test/server.mjs", import.meta.url));
const athena = process.env["ATHENA"] ?? fileURLToPath(new URL("../../../bin/athena", import.meta.url));

function windowFor(t: TestContext, settings: Record<string, unknown>): Window {
  const w = new Window();
  for (const [name, value] of Object.entries({ languages: ["go"], ...settings })) w.configuration.set(`athena.${name}`, value);
  t.after(() => w.close());
  return w;
}

/** What test/server.mjs has said, in order. */
const notes = (w: Window): Record<string, unknown>[] =>
  w.logged.flatMap((l) => l.split("\n")).filter((l) => l.startsWith("{")).map((l) => JSON.parse(l) as Record<string, unknown>);

const editor = (line: number) => ({ document: { uri: "file:///x.go" }, selection: new Range(new Position(line, 1), new Position(line + 1, 0)) });

test("the server is started as the settings say, outside of the workspace", async (t) => {
  const w = windowFor(t, { path: stand, server: "https://hub.example", analysis: "security", provider: " ", model: "m", run: "save" });
  w.secrets.set("athena.token", "ak_secret");
  await w.activate();
  await w.until("the notes", () => notes(w).length >= 2);
  assert.deepEqual(notes(w), [
    { args: ["lsp", "--server", "https://hub.example"], token: "ak_secret", cwd: homedir(), home: process.env["HOME"] },
    { options: { analysis: "security", model: "m", debounce_ms: -1 } },
  ]);
  assert.equal(w.item.tooltip, "Athena: ready");
});

test("other settings and another token start another server", async (t) => {
  const w = windowFor(t, { path: stand });
  await w.activate();
  w.set("editor.tabSize", 2);
  w.set("athena.debounce", 7);
  await w.until("the second", () => notes(w).length >= 4);
  w.typed = " ak_new ";
  await w.run("athena.setToken");
  await w.until("the third", () => notes(w).length >= 6);
  w.typed = "";
  await w.run("athena.setToken");
  await w.until("the fourth", () => notes(w).length >= 8);
  await w.run("athena.restart");
  await w.until("the fifth", () => notes(w).length >= 10);
  const started = (token: string | null) => ({ args: ["lsp"], token, cwd: homedir(), home: process.env["HOME"] });
  assert.deepEqual(notes(w), [
    started(null), { options: { debounce_ms: 1500 } }, started(null), { options: { debounce_ms: 7 } },
    started("ak_new"), { options: { debounce_ms: 7 } }, started(null), { options: { debounce_ms: 7 } },
    started(null), { options: { debounce_ms: 7 } },
  ]);
  assert.equal(w.secrets.size, 0);
});

test("a program that is not there is told, with what helps", async (t) => {
  const w = windowFor(t, { path: "athena-that-is-not-there" });
  w.choice = "Set its path";
  await w.activate();
  await w.until("the settings", () => w.executed.length > 0);
  assert.match(w.messages[0] ?? "", /no program "athena-that-is-not-there"\. Install athena/);
  assert.deepEqual(w.executed, [["workbench.action.openSettings", "athena.path"]]);
  assert.equal(w.item.tooltip, "Athena: there is no program athena-that-is-not-there");
  assert.ok(w.item.backgroundColor);
  await w.run("athena.workspace");
  assert.match(w.messages[1] ?? "", /not running/);
  w.set("athena.path", stand);
  await w.until("ready", () => w.item.tooltip === "Athena: ready");
});

test("a program is looked for in PATH, not in the folder that is open", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "athena-"));
  t.after(() => rm(folder, { recursive: true }));
  await symlink(stand, join(folder, "athena-here"));
  const [cwd, path] = [process.cwd(), process.env["PATH"]];
  t.after(() => { process.chdir(cwd); process.env["PATH"] = path; });
  process.chdir(folder);
  process.env["PATH"] = `.${delimiter}${path}`;
  for (const name of ["athena-here", "./athena-here"]) {
    const w = windowFor(t, { path: name });
    await w.activate();
    assert.equal(w.item.tooltip, `Athena: there is no program ${name}`);
  }
  process.env["PATH"] = `${folder}${delimiter}${path}`;
  const w = windowFor(t, { path: "athena-here" });
  await w.activate();
  assert.equal(w.item.tooltip, "Athena: ready");
});

test("a server that ends is told", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "athena-"));
  t.after(() => rm(folder, { recursive: true }));
  const path = join(folder, "athena");
  await writeFile(path, "#!/bin/sh\necho 'no such flag' >&2\nexit 2\n");
  await chmod(path, 0o700);
  const w = windowFor(t, { path });
  await w.activate();
  await w.until("an error", () => w.item.text === "$(error) Athena");
  await w.until("its words", () => w.logged.some((l) => l.includes("no such flag")));
});

test("commands reach the server, and the item tells what it does", async (t) => {
  const w = windowFor(t, { path: stand });
  await w.activate();
  await w.run("athena.workspace");
  await w.until("work", () => w.item.tooltip === "Athena: analysing\nAthena: workspace");
  await w.run("athena.file", editor(3));
  await w.until("the end", () => w.item.tooltip === "Athena: 2 findings");
  assert.equal(w.item.text, "$(eye) Athena");
  await w.run("athena.selected", editor(3));
  await w.until("a failure", () => w.item.tooltip === "Athena: not analysed" && w.item.text === "$(warning) Athena");
  await w.run("athena.explainSelected", editor(4));
  const range = (line: number) => ({ start: { line, character: 1 }, end: { line: line + 1, character: 0 } });
  await w.until("the commands", () => notes(w).length >= 6);
  assert.deepEqual(notes(w).slice(2), [
    { command: "athena.analyzeWorkspace", arguments: [] },
    { command: "athena.analyzeFile", arguments: ["file:///x.go"] },
    { command: "athena.analyzeSelection", arguments: ["file:///x.go", range(3)] },
    { command: "athena.explain", arguments: ["file:///x.go", range(4)] },
  ]);
  assert.deepEqual(w.executed.at(-1), ["editor.action.showHover"]);
  await w.run("athena.workspace"); // which the next one knows nothing of
  await w.run("athena.restart");
  await w.run("athena.selected", editor(3));
  await w.until("its failure alone", () => w.item.tooltip === "Athena: not analysed");
  await w.run("athena.showLog");
  assert.equal(w.logged.at(-1), "shown");
});

test("athena itself finds, and finds nothing once that is mended", async (t) => {
  if (!existsSync(athena)) {
    assert.ok(!process.env["CI"], `${athena} is not there: make build`);
    return t.skip("make build, first");
  }
  const w = windowFor(t, { path: athena, server: "none", provider: "local", debounce: 50 });
  await w.activate();
  const d = w.open("/w/x.go", "go", 'package x\n\nimport "crypto/md5"\n\nvar sum = md5.New()\n');
  w.open("/w/x.txt", "plaintext", "import crypto");
  const uri = d.uri.toString();
  await w.until("findings", () => (w.diagnostics.get(uri)?.length ?? 0) > 0);
  assert.ok(w.diagnostics.get(uri)?.every((f) => f.message !== ""), JSON.stringify(w.diagnostics.get(uri)));
  for (const line of [4, 2]) w.edit(d, line, 0, d.text.split("\n")[line]?.length ?? 0, "");
  await w.until("none", () => w.diagnostics.get(uri)?.length === 0);
  assert.deepEqual([...w.diagnostics.keys()], [uri]);
});
