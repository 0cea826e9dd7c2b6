// Builds the page and the client into dist/, always to the same bytes; with
// --test the tests into build/test/; with --client the npm package's files, as
// modules of their own so that a bundler takes what is used.
import { build } from "esbuild";
import { execFileSync } from "node:child_process";
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

process.chdir(fileURLToPath(new URL(".", import.meta.url)));
const common = { bundle: true, format: "esm", target: "es2022", charset: "utf8", legalComments: "none", logLevel: "warning" };

if (process.argv.includes("--test")) {
  await rm("build/test", { recursive: true, force: true });
  const tests = (await readdir("test")).filter((f) => f.endsWith(".test.ts")).sort();
  await build({ ...common, entryPoints: tests.map((f) => `test/${f}`), outdir: "build/test", platform: "node", external: ["ws", "esbuild"], outExtension: { ".js": ".mjs" } });
} else if (process.argv.includes("--client")) {
  await rm("client/dist", { recursive: true, force: true });
  execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "client"], { stdio: "inherit" });
  await copyFile("../LICENSE", "client/LICENSE");
} else {
  await rm("dist", { recursive: true, force: true });
  await mkdir("dist", { recursive: true });
  await build({ ...common, entryPoints: { app: "ui/app.ts" }, outdir: "dist", platform: "browser", minify: true });
  // For pages without a build of their own: all of the package in one file.
  const all = ["index", "cache", "tabs"].map((m) => `export * from "./client/${m}.js";`).join("");
  await build({ ...common, stdin: { contents: all, resolveDir: "." }, outfile: "dist/client.js", platform: "browser", minify: true });
  await build({ ...common, entryPoints: { app: "ui/app.css" }, outdir: "dist", minify: true });
  await copyFile("ui/favicon.svg", "dist/favicon.svg");
  await writeFile("dist/index.html", filled(await readFile("ui/index.html", "utf8"), await texts()));
}

/** What ui/texts.ts exports. */
async function texts() {
  const { outputFiles } = await build({ ...common, entryPoints: ["ui/texts.ts"], write: false });
  return (await import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`)).texts;
}

/** A page with its {{texts}}. */
function filled(page, texts) {
  return page.replace(/\{\{([\w.-]+)\}\}/g, (_, path) => {
    const text = path.split(".").reduce((o, key) => o?.[key], texts);
    if (typeof text !== "string") throw new Error(`ui/texts.ts has no ${path}`);
    return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
  });
}
