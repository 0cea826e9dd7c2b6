/** Athena in VS Code: starts `athena lsp`, which does the work, and gives its commands names. */
import { commands, type ExtensionContext, type TextEditor, window, workspace } from "vscode";
import { Server } from "./server.js";
import { Status } from "./status.js";

const secret = "athena.token";

let server: Server | undefined;

export async function activate(context: ExtensionContext): Promise<void> {
  const log = window.createOutputChannel("Athena", { log: true });
  const status = new Status();
  const own = (server = new Server(status, log, () => context.secrets.get(secret)));
  const selection = (editor: TextEditor): [string, unknown] => {
    const { start, end } = editor.selection;
    const at = ({ line, character }: typeof start) => ({ line, character });
    return [editor.document.uri.toString(), { start: at(start), end: at(end) }];
  };
  context.subscriptions.push(
    log, status, own,
    // The server's own commands have the names athena.analyzeFile …, which
    // vscode-languageclient registers.
    commands.registerTextEditorCommand("athena.file", (editor) => own.execute("athena.analyzeFile", editor.document.uri.toString())),
    commands.registerTextEditorCommand("athena.selected", (editor) => own.execute("athena.analyzeSelection", ...selection(editor))),
    commands.registerCommand("athena.workspace", () => own.execute("athena.analyzeWorkspace")),
    commands.registerTextEditorCommand("athena.explainSelected", async (editor) => {
      if (await own.execute("athena.explain", ...selection(editor))) await commands.executeCommand("editor.action.showHover");
    }),
    commands.registerCommand("athena.setToken", async () => {
      const token = await window.showInputBox({ title: "Athena: API key of the server", password: true, ignoreFocusOut: true,
        prompt: "Kept by VS Code's secret storage. Empty: none." });
      if (token === undefined) return;
      await (token.trim() ? context.secrets.store(secret, token.trim()) : context.secrets.delete(secret));
    }),
    commands.registerCommand("athena.restart", () => own.restart()),
    commands.registerCommand("athena.showLog", () => log.show()),
    context.secrets.onDidChange(({ key }) => key === secret ? own.restart() : undefined),
    workspace.onDidChangeConfiguration((change) => change.affectsConfiguration("athena") ? own.restart() : undefined),
  );
  await own.restart();
}

/** VS Code waits for this before it goes on: the server ends with it. */
export async function deactivate(): Promise<void> {
  await server?.stop();
  server = undefined;
}
