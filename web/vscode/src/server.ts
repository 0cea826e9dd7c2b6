import { homedir } from "node:os";
import { commands, type Disposable, env, type LogOutputChannel, Uri, window } from "vscode";
import { ExecuteCommandRequest, LanguageClient, State } from "vscode-languageclient/node";
import { findProgram } from "./program.js";
import { settings } from "./settings.js";
import type { Status } from "./status.js";

const installing = "https://github.com/athena-hub/athena#readme";

/** The one `athena lsp` of this window, started and stopped one after the other. */
export class Server implements Disposable {
  #client: LanguageClient | undefined;
  #turn: Promise<void> = Promise.resolve();
  readonly #status: Status;
  readonly #log: LogOutputChannel;
  readonly #token: () => Thenable<string | undefined>;

  constructor(status: Status, log: LogOutputChannel, token: () => Thenable<string | undefined>) {
    this.#status = status;
    this.#log = log;
    this.#token = token;
  }

  /** Starts with the settings of now, ending what ran with others. */
  restart(): Promise<void> {
    return this.#next(async () => {
      await this.#end();
      await this.#start();
    });
  }

  stop(): Promise<void> {
    return this.#next(() => this.#end());
  }

  /** Has the server execute one of its commands. Undefined if it doesn't run, which was said when it failed. */
  async execute(command: string, ...args: unknown[]): Promise<unknown> {
    await this.#turn;
    if (this.#client?.state !== State.Running) {
      void window.showWarningMessage("Athena is not running: see its log.");
      return undefined;
    }
    return this.#client.sendRequest(ExecuteCommandRequest.type, { command, arguments: args });
  }

  dispose(): void { void this.stop(); }

  #next(step: () => Promise<void>): Promise<void> {
    this.#turn = this.#turn.then(step).catch((problem: unknown) => this.#fail(problem));
    return this.#turn;
  }

  #fail(problem: unknown): void {
    const why = problem instanceof Error ? problem.message : String(problem);
    this.#log.error(why);
    this.#status.failed(why);
  }

  async #end(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    try {
      await client?.dispose();
    } catch (problem) { // it had ended by itself, or won't now
      this.#log.warn(String(problem));
    }
  }

  async #start(): Promise<void> {
    const { path, server, languages, options } = settings();
    this.#status.starting();
    const program = await findProgram(path, process.env);
    if (!program) {
      this.#status.failed(`there is no program ${path}`);
      void this.#offerHelp(path);
      return;
    }
    const token = await this.#token();
    const client = new LanguageClient("athena", "Athena", {
      command: program,
      args: server ? ["lsp", "--server", server] : ["lsp"],
      // Not in the workspace, whose files are not the user's word. The token
      // goes by the environment, since others of the machine see arguments.
      options: { cwd: homedir(), env: { ...process.env, ...(token && { ATHENA_TOKEN: token }) } },
    }, {
      documentSelector: languages.flatMap((language) => [{ scheme: "file", language }, { scheme: "untitled", language }]),
      initializationOptions: options,
      outputChannel: this.#log,
      middleware: {
        handleWorkDoneProgress: (token, progress, next) => {
          this.#status.progress(token, progress);
          next(token, progress);
        },
      },
    });
    this.#client = client;
    client.onDidChangeState(({ newState }) => {
      if (this.#client !== client) return;
      if (newState === State.Running) this.#status.ready();
      if (newState === State.Stopped) this.#status.failed("the server has ended");
    });
    await client.start();
  }

  async #offerHelp(path: string): Promise<void> {
    const choose = "Set its path", install = "How to install it";
    const choice = await window.showErrorMessage(
      `Athena: there is no program "${path}". Install athena so that it is in PATH, or set athena.path to its full path.`, choose, install);
    if (choice === choose) await commands.executeCommand("workbench.action.openSettings", "athena.path");
    if (choice === install) await env.openExternal(Uri.parse(installing));
  }
}
