import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { delimiter, isAbsolute, join } from "node:path";

/**
 * The absolute path of the program that `path` names, undefined if there is
 * none. A name is looked for in PATH, and never in the folder that is open,
 * where Windows would look first: what lies there may be anybody's.
 */
export async function findProgram(path: string, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  if (path.startsWith("~/")) path = join(homedir(), path.slice(2));
  const endings = process.platform === "win32" ? ["", ".exe"] : [""];
  const folders = isAbsolute(path) ? [""] : /[\\/]/.test(path) ? [] : (env["PATH"] ?? env["Path"] ?? "").split(delimiter).filter(isAbsolute);
  for (const folder of folders) {
    for (const ending of endings) {
      const file = join(folder, path + ending);
      if (await runs(file)) return file;
    }
  }
  return undefined;
}

async function runs(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return (await stat(file)).isFile();
  } catch {
    return false; // not there, or not ours to run: either way not it
  }
}
