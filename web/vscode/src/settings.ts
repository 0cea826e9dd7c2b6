import { workspace } from "vscode";

/** What the user has set; package.json documents each. */
export interface Settings {
  path: string;
  server: string;
  languages: string[];
  /** What `athena lsp` takes as initializationOptions. */
  options: { analysis?: string; provider?: string; model?: string; debounce_ms?: number };
}

export function settings(): Settings {
  const c = workspace.getConfiguration("athena");
  const text = (name: string): string => c.get<string>(name, "").trim();
  const options: Settings["options"] = {};
  for (const name of ["analysis", "provider", "model"] as const) {
    const value = text(name);
    if (value) options[name] = value;
  }
  options.debounce_ms = c.get("run") === "save" ? -1 : Math.max(1, c.get("debounce", 1500));
  return { path: text("path") || "athena", server: text("server"), languages: c.get<string[]>("languages", []), options };
}
