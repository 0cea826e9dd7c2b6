// Builds the extension into dist/, with the licences of what is bundled; with
// --test the tests into build/, too.
import { build } from "esbuild";
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

process.chdir(fileURLToPath(new URL(".", import.meta.url)));
const common = { bundle: true, platform: "node", target: "node20", charset: "utf8", external: ["vscode"], logLevel: "warning" };

await rm("dist", { recursive: true, force: true });
await mkdir("dist");
const { metafile } = await build({ ...common, entryPoints: ["src/extension.ts"], outfile: "dist/extension.js", format: "cjs", minify: true, metafile: true });
const packages = new Set(Object.keys(metafile.inputs).map((file) => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(file)?.[1]).filter(Boolean));
const licenses = await Promise.all([...packages].sort().map(async (name) => {
  const folder = `node_modules/${name}`;
  const file = (await readdir(folder)).find((f) => /^licen[cs]e/i.test(f));
  if (!file) throw new Error(`${name} has no licence`);
  return `${name} ${JSON.parse(await readFile(`${folder}/package.json`, "utf8")).version}\n\n${await readFile(`${folder}/${file}`, "utf8")}`;
}));
await writeFile("dist/licenses.txt", licenses.join("\n\n"));
await copyFile("../../LICENSE", "LICENSE");

if (process.argv.includes("--test")) {
  await rm("build", { recursive: true, force: true });
  const tests = (await readdir("test")).filter((f) => f.endsWith(".test.ts")).map((f) => `test/${f}`);
  await build({ ...common, entryPoints: tests, outdir: "build", format: "esm", outExtension: { ".js": ".mjs" } });
}
