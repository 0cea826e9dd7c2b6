/** The npm package, as those who install it have it. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { WebSocket } from "ws";
import type * as client from "../client/index.js";
import { Fake } from "./fake.js";

const run = promisify(execFile);
const web = fileURLToPath(new URL("../..", import.meta.url));
const consumer = join(web, "build", "consumer");
const installed = join(consumer, "node_modules", "athena-client");
let tarball: string;

const bin = (name: string, ...args: string[]) => run(join(web, "node_modules", ".bin", name), args, { cwd: consumer }).catch((e: { stdout?: string; stderr?: string }) => {
  assert.fail(`${name} ${args.join(" ")}\n${e.stdout ?? ""}${e.stderr ?? ""}`);
});

before(async () => {
  await rm(consumer, { recursive: true, force: true });
  await mkdir(installed, { recursive: true });
  const { stdout } = await run("npm", ["pack", "--json", "--pack-destination", consumer], { cwd: join(web, "client") });
  const [packed] = JSON.parse(stdout.slice(stdout.indexOf("["))) as { filename: string; files: { path: string }[] }[];
  assert.ok(packed);
  const names = packed.files.map((f) => f.path);
  for (const name of ["LICENSE", "README.md", "package.json", "dist/index.js", "dist/index.d.ts"]) assert.ok(names.includes(name), `${name} is missing`);
  assert.deepEqual(names.filter((n) => !/^(LICENSE|README\.md|package\.json|dist\/[a-z0-9]+\.(js|d\.ts))$/.test(n)), []);
  tarball = join(consumer, packed.filename);
  await run("tar", ["-xzf", tarball, "-C", installed, "--strip-components=1"]);
});

test("publint and arethetypeswrong find nothing", async () => {
  await bin("publint", tarball, "--strict");
  await bin("attw", tarball, "--profile", "esm-only");
});

test("its types need neither the browser's nor Node's, and say what they should", async () => {
  await writeFile(join(consumer, "use.ts"), `
    import { Athena, type AthenaEvent, type Finding, type Run } from "athena-client";
    import { AnswerCache } from "athena-client/cache";
    import { Tabs } from "athena-client/tabs";
    const athena = new Athena({ url: "https://hub.example", token: async () => "t", cache: new AnswerCache(), share: new Tabs() });
    export async function use(): Promise<readonly Finding[]> {
      const run: Run = athena.analyze({ code: "x", analysis: "security" }, { signal: AbortSignal.timeout(1000) });
      for await (const e of run) take(e);
      // @ts-expect-error an analysis that there isn't
      athena.analyze({ code: "x", analysis: "magic" });
      await athena.watch("ID", { after: 3 }).cancel();
      return run.findings();
    }
    function take(e: AthenaEvent): string {
      return e.type === "chunk" ? e.data.text : e.type === "completed" ? e.data.sha256 : e.type;
    }`);
  const strict = ["--noEmit", "--strict", "--target", "es2022", "--skipLibCheck", "false", "use.ts"];
  await bin("tsc", ...strict, "--module", "nodenext", "--lib", "es2023", "--types", "node", "--typeRoots", join(web, "node_modules", "@types"));
  await bin("tsc", ...strict, "--module", "esnext", "--moduleResolution", "bundler", "--lib", "es2023,dom,dom.asynciterable", "--typeRoots", join(consumer, "none"));
});

test("Node imports it, and its modules share their classes", async () => {
  const { Athena, LinkError } = await import(pathToFileURL(join(installed, "dist", "index.js")).href) as typeof client;
  const fake = new Fake();
  try {
    const url = await fake.listen();
    fake.text("a");
    fake.complete("a");
    const run = new Athena({ url, WebSocket }).analyze({ code: "x" });
    await run.finished();
    assert.equal(run.text(), "a");
    const { LinkError: same } = await import(pathToFileURL(join(installed, "dist", "errors.js")).href) as typeof client;
    assert.equal(same, LinkError);
  } finally {
    await fake.close();
  }
});

test("it weighs less than 12 kB", async () => {
  const { build } = await import("esbuild");
  const bundle = async (source: string): Promise<number> => {
    const { outputFiles } = await build({
      stdin: { contents: source, resolveDir: consumer }, bundle: true, format: "esm", target: "es2022", minify: true, write: false,
    });
    return gzipSync(outputFiles[0]?.contents ?? "", { level: 9 }).length;
  };
  const all = await bundle(`export * from "athena-client";`);
  assert.ok(all < 12_000, `${all} bytes, gzipped`);
  const more = await bundle(`export * from "athena-client"; export * from "athena-client/cache"; export * from "athena-client/tabs";`);
  assert.ok(more < 16_000, `${more} bytes, gzipped, with the cache and tabs`);
});
