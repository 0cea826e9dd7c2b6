import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFile, stat } from "node:fs/promises";
import test from "node:test";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("..", import.meta.url));

interface Manifest {
  capabilities: { untrustedWorkspaces: { supported: string; restrictedConfigurations: string[] } };
  contributes: { commands: { command: string }[]; configuration: { properties: Record<string, { scope: string }> } };
}

test("the package holds the extension, its licences and its readme, and nothing else", async () => {
  const vsix = `${folder}build/athena.vsix`;
  execFileSync(process.execPath, ["node_modules/@vscode/vsce/vsce", "package", "--no-dependencies", "--out", vsix], { cwd: folder, encoding: "utf8" });
  const { size } = await stat(vsix);
  assert.ok(size < 150_000, `${size} bytes`);
  const zip = await readFile(vsix);
  // The central directory's entries: APPNOTE.TXT 4.3.12.
  const names: string[] = [];
  for (let at = zip.indexOf("PK\x01\x02"); at >= 0; at = zip.indexOf("PK\x01\x02", at + 4)) {
    names.push(zip.toString("utf8", at + 46, at + 46 + zip.readUInt16LE(at + 28)));
  }
  assert.deepEqual(names.sort(), [
    "[Content_Types].xml", "extension.vsixmanifest", "extension/LICENSE.txt", "extension/dist/extension.js", "extension/dist/licenses.txt",
    "extension/package.json", "extension/readme.md",
  ]);
  assert.match(await readFile(`${folder}dist/licenses.txt`, "utf8"), /^vscode-languageclient 11\.[\s\S]*Permission is hereby granted/m);
});

test("no workspace says what is run or who is asked, and every command and setting is one", async () => {
  const { capabilities, contributes } = JSON.parse(await readFile(`${folder}package.json`, "utf8")) as Manifest;
  const { supported, restrictedConfigurations } = capabilities.untrustedWorkspaces;
  assert.deepEqual([supported, restrictedConfigurations], ["limited", ["athena.path", "athena.server"]]);
  for (const name of restrictedConfigurations) assert.equal(contributes.configuration.properties[name]?.scope, "machine", name);
  const sources = (await Promise.all(["extension", "settings"].map((f) => readFile(`${folder}src/${f}.ts`, "utf8")))).join("");
  for (const { command } of contributes.commands) assert.ok(sources.includes(`Command("${command}"`), command);
  for (const name of Object.keys(contributes.configuration.properties)) assert.ok(sources.includes(`"${name.replace("athena.", "")}"`), name);
});
