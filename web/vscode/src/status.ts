import { type Disposable, StatusBarAlignment, ThemeColor, window } from "vscode";
import type { WorkDoneProgressBegin, WorkDoneProgressEnd, WorkDoneProgressReport } from "vscode-languageclient/node";

type Progress = WorkDoneProgressBegin | WorkDoneProgressReport | WorkDoneProgressEnd;

/** The status bar's item: whether Athena is ready, at work or in trouble. */
export class Status implements Disposable {
  #item = window.createStatusBarItem("athena", StatusBarAlignment.Right);
  /** What is being done, by progress token. */
  #work = new Map<string | number, string>();

  constructor() {
    this.#item.name = "Athena";
    this.#item.command = "athena.showLog";
    this.#item.show();
  }

  starting(): void {
    this.#work.clear(); // of a server that was stopped, and won't tell its end
    this.#say("$(sync~spin)", "starting");
  }

  ready(): void { this.#say("$(eye)", "ready"); }

  failed(why: string): void {
    this.#work.clear();
    this.#say("$(error)", why, new ThemeColor("statusBarItem.errorBackground"));
  }

  /** Takes the server's progress: the item says "analysing" until all of it has ended. */
  progress(token: string | number, p: Progress): void {
    switch (p.kind) {
      case "begin":
        this.#work.set(token, p.title);
        break;
      case "end":
        if (!this.#work.delete(token)) return;
        // "not analysed": the server says why in a message of its own, once.
        if (this.#work.size === 0) this.#say(p.message?.startsWith("not ") ? "$(warning)" : "$(eye)", p.message ?? "ready");
        break;
    }
    if (this.#work.size > 0) this.#say("$(sync~spin)", `analysing\n${[...this.#work.values()].join("\n")}`);
  }

  dispose(): void { this.#item.dispose(); }

  #say(icon: string, what: string, background?: ThemeColor): void {
    this.#item.text = `${icon} Athena`;
    this.#item.tooltip = `Athena: ${what}`;
    this.#item.accessibilityInformation = { label: `Athena: ${what}` };
    this.#item.backgroundColor = background;
  }
}
