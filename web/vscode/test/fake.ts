/** As much of VS Code as the extension and vscode-languageclient need: what was done to it can be looked at, and the user's part played. */
import { EventEmitter as Emitter, once } from "node:events";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";

const require = createRequire(import.meta.url);
const bundle = fileURLToPath(new URL("../dist/extension.js", import.meta.url));

class Disposable {
  constructor(readonly dispose: () => void) {}
}

class EventEmitter<T> {
  #listeners = new Set<(value: T) => unknown>();
  readonly event = (listener: (value: T) => unknown, self?: unknown): Disposable => {
    const bound = self === undefined ? listener : listener.bind(self);
    this.#listeners.add(bound);
    return new Disposable(() => this.#listeners.delete(bound));
  };
  fire(value: T): void { for (const listener of [...this.#listeners]) listener(value); }
  dispose(): void { this.#listeners.clear(); }
}

export class Position {
  constructor(readonly line: number, readonly character: number) {}
}

export class Range {
  constructor(readonly start: Position, readonly end: Position) {}
}

class Diagnostic {
  code?: unknown;
  constructor(readonly range: Range, readonly message: string, readonly severity: number) {}
}

class Uri {
  constructor(readonly scheme: string, readonly fsPath: string) {}
  static parse(text: string): Uri {
    const url = new URL(text);
    return new Uri(url.protocol.slice(0, -1), url.protocol === "file:" ? fileURLToPath(url) : text);
  }
  static file(path: string): Uri { return new Uri("file", path); }
  toString(): string { return this.scheme === "file" ? pathToFileURL(this.fsPath).href : this.fsPath; }
}

/** A class for each that is only extended or compared with. */
const rest = (known: object): object => new Proxy(known, {
  get: (target, name) => {
    if (name in target || typeof name !== "string" || !/^[A-Z]/.test(name)) return Reflect.get(target, name) as unknown;
    const made = class {};
    Reflect.set(target, name, made);
    return made;
  },
});

export interface Document { uri: Uri; fileName: string; languageId: string; version: number; lineCount: number; isClosed: boolean; getText(): string }
export interface Selector { language: string; scheme: string }
export interface Item { text: string; tooltip: string; backgroundColor: unknown }
export interface Change { document: Document; reason: undefined; contentChanges: { range: Range; rangeOffset: number; rangeLength: number; text: string }[] }

interface Extension { activate(context: unknown): Promise<void>; deactivate(): Promise<void> }

/** One window of VS Code with the extension in it. */
export class Window {
  readonly configuration = new Map<string, unknown>();
  readonly secrets = new Map<string, string>();
  readonly commands = new Map<string, (...args: unknown[]) => unknown>();
  readonly executed: unknown[][] = [];
  readonly messages: string[] = [];
  readonly logged: string[] = [];
  readonly documents: Document[] = [];
  readonly diagnostics = new Map<string, Diagnostic[]>();
  readonly providers = new Map<string, unknown>();
  readonly item: Item = { text: "", tooltip: "", backgroundColor: undefined };
  readonly subscriptions: Disposable[] = [];
  /** What the user chooses in a message, types into a box. */
  choice: string | undefined;
  typed: string | undefined;

  #changed = new Emitter().setMaxListeners(0);
  #configured = new EventEmitter<{ affectsConfiguration(section: string): boolean }>();
  #secret = new EventEmitter<{ key: string }>();
  #opened = new EventEmitter<Document>();
  #edited = new EventEmitter<Change>();
  #extension: Extension | undefined;

  async activate(): Promise<void> {
    const loader = require("node:module") as { _load(request: string, ...more: unknown[]): unknown };
    const load = loader._load;
    const vscode = this.#vscode();
    loader._load = (request, ...more) => request === "vscode" ? vscode : load.call(loader, request, ...more);
    try {
      delete require.cache[bundle];
      this.#extension = require(bundle) as Extension;
    } finally {
      loader._load = load;
    }
    await this.#extension.activate({
      subscriptions: this.subscriptions,
      secrets: {
        get: (key: string) => Promise.resolve(this.secrets.get(key)),
        store: (key: string, value: string) => { this.secrets.set(key, value); this.#secret.fire({ key }); return Promise.resolve(); },
        delete: (key: string) => { this.secrets.delete(key); this.#secret.fire({ key }); return Promise.resolve(); },
        onDidChange: this.#secret.event,
      },
    });
  }

  async close(): Promise<void> {
    await this.#extension?.deactivate();
    for (const s of this.subscriptions.reverse()) s.dispose();
  }

  set(name: string, value: unknown): void {
    this.configuration.set(name, value);
    this.#configured.fire({ affectsConfiguration: (section) => name.startsWith(section) });
  }

  run(command: string, ...args: unknown[]): unknown {
    const f = this.commands.get(command);
    if (!f) throw new Error(`there is no command ${command}; there are ${[...this.commands.keys()].join(" ")}`);
    return f(...args);
  }

  open(path: string, languageId: string, text: string): Document & { text: string } {
    const d = { uri: Uri.file(path), fileName: path, languageId, version: 1, isClosed: false, text, getText: () => d.text,
      get lineCount() { return d.text.split("\n").length; } };
    this.documents.push(d);
    this.#opened.fire(d);
    return d;
  }

  /** Types in place of a range of one line. */
  edit(d: Document & { text: string }, line: number, from: number, to: number, text: string): void {
    const lines = d.text.split("\n");
    const rangeOffset = lines.slice(0, line).join("\n").length + (line > 0 ? 1 : 0) + from;
    d.text = d.text.slice(0, rangeOffset) + text + d.text.slice(rangeOffset + to - from);
    d.version++;
    const range = new Range(new Position(line, from), new Position(line, to));
    this.#edited.fire({ document: d, reason: undefined, contentChanges: [{ range, rangeOffset, rangeLength: to - from, text }] });
  }

  /** Waits until something holds, which is looked at whenever something happened. */
  async until(what: string, holds: () => boolean): Promise<void> {
    const limit = AbortSignal.timeout(30_000);
    while (!holds()) {
      try {
        await once(this.#changed, "change", { signal: limit });
      } catch {
        throw new Error(`waited for ${what}; the item says ${JSON.stringify(this.item)}, the messages ${JSON.stringify(this.messages)}, the log ${JSON.stringify(this.logged)}`);
      }
    }
  }

  #happened(): void { this.#changed.emit("change"); }

  #vscode(): object {
    const happened = <T>(value: T): T => { this.#happened(); return value; };
    const never = new EventEmitter<never>().event;
    const say = (text: string) => { this.messages.push(text); return Promise.resolve(happened(this.choice)); };
    const note = (text: unknown) => { this.logged.push(String(text)); this.#happened(); };
    const item = new Proxy(this.item, { set: (target, name, value) => happened(Reflect.set(target, name, value)) });
    Object.assign(this.item, { show() {}, dispose() {} });
    const register = (id: string, f: (...args: unknown[]) => unknown) => {
      if (this.commands.has(id)) throw new Error(`command '${id}' already exists`);
      this.commands.set(id, f);
      return new Disposable(() => this.commands.delete(id));
    };
    const provider = (kind: string) => (_: unknown, p: unknown) => {
      this.providers.set(kind, p);
      return new Disposable(() => this.providers.delete(kind));
    };
    return rest({
      __esModule: true, // so that nobody takes a copy, which would have only what is named here
      Disposable, EventEmitter, Position, Range, Diagnostic, Uri,
      StatusBarAlignment: { Left: 1, Right: 2 },
      DiagnosticSeverity: { Error: 0, Warning: 1, Information: 2, Hint: 3 },
      LogLevel: { Off: 0, Trace: 1, Debug: 2, Info: 3, Warning: 4, Error: 5 },
      ProgressLocation: { Window: 10, Notification: 15 },
      CodeActionKind: { Empty: { value: "" }, QuickFix: { value: "quickfix" } },
      CancellationTokenSource: class {
        token = { isCancellationRequested: false, onCancellationRequested: never };
        cancel(): void {}
        dispose(): void {}
      },
      version: "1.91.0",
      env: { language: "en", appName: "Fake", openExternal: (uri: Uri) => { this.executed.push(["open", uri.toString()]); return Promise.resolve(happened(true)); } },
      extensions: { getExtension: () => undefined, onDidChange: never },
      commands: {
        registerCommand: register, registerTextEditorCommand: register,
        executeCommand: (...command: unknown[]) => { this.executed.push(command); return Promise.resolve(happened(undefined)); },
      },
      languages: rest({
        match: (all: Selector[] | Selector, d: Document) => [all].flat().some((s) => s.language === d.languageId && s.scheme === d.uri.scheme) ? 10 : 0,
        createDiagnosticCollection: () => ({
          set: (uri: Uri, found: Diagnostic[] = []) => { this.diagnostics.set(uri.toString(), found); this.#happened(); },
          delete: (uri: Uri) => { this.diagnostics.delete(uri.toString()); this.#happened(); },
          clear: () => this.diagnostics.clear(), dispose: () => this.diagnostics.clear(),
        }),
        registerHoverProvider: provider("hover"), registerCodeActionsProvider: provider("codeActions"),
      }),
      window: {
        tabGroups: { all: [], onDidChangeTabs: never, onDidChangeTabGroups: never }, visibleTextEditors: [], activeTextEditor: undefined,
        onDidChangeActiveTextEditor: never, onDidChangeVisibleTextEditors: never,
        createStatusBarItem: () => item,
        createOutputChannel: () => ({ logLevel: 3, onDidChangeLogLevel: never, show: () => note("shown"), append: note, appendLine: note, trace() {}, debug() {}, info: note, warn: note, error: note, dispose() {} }),
        showErrorMessage: say, showWarningMessage: say, showInformationMessage: say,
        showInputBox: () => Promise.resolve(this.typed),
        withProgress: (_: unknown, f: (p: unknown, token: unknown) => unknown) => f({ report() {} }, { onCancellationRequested: never }),
      },
      workspace: {
        workspaceFolders: undefined, textDocuments: this.documents, notebookDocuments: [],
        getConfiguration: (section?: string) => ({
          get: (name: string, otherwise: unknown) => this.configuration.get(section ? `${section}.${name}` : name) ?? otherwise,
        }),
        onDidChangeConfiguration: this.#configured.event, onDidOpenTextDocument: this.#opened.event, onDidChangeTextDocument: this.#edited.event,
        onDidCloseTextDocument: never, onDidSaveTextDocument: never, onWillSaveTextDocument: never, onDidChangeWorkspaceFolders: never,
        onDidOpenNotebookDocument: never, onDidCloseNotebookDocument: never, onDidChangeNotebookDocument: never, onDidSaveNotebookDocument: never,
      },
    });
  }
}
