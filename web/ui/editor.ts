import type { Finding } from "../client/index.js";

const lineHeight = 20; // as in app.css
const maxFileBytes = 4 << 20;

/** The textarea with its line numbers and its text's name, and files that are dropped on it. */
export class Editor {
  #lines = 0;

  constructor(
    private readonly area: HTMLTextAreaElement, private readonly gutter: HTMLElement, box: HTMLElement,
    private readonly named: (name: string) => void, private readonly refused: (why: string) => void,
  ) {
    area.addEventListener("beforeinput", () => { // whatever takes the place of all the text is another text
      if (area.selectionStart === 0 && area.selectionEnd === area.value.length && area.value !== "") this.named("");
    });
    area.addEventListener("input", () => {
      if (area.value === "") this.named("");
      this.#number();
    });
    area.addEventListener("scroll", () => { gutter.scrollTop = area.scrollTop; });
    box.addEventListener("dragover", (e) => {
      if (!e.dataTransfer?.types.includes("Files")) return;
      e.preventDefault();
      box.classList.add("over");
    });
    box.addEventListener("dragleave", (e) => {
      if (!(e.relatedTarget instanceof Node && box.contains(e.relatedTarget))) box.classList.remove("over");
    });
    box.addEventListener("drop", (e) => {
      box.classList.remove("over");
      const file = e.dataTransfer?.files[0];
      if (!file) return;
      e.preventDefault();
      void this.open(file);
    });
    this.#number();
  }

  get code(): string { return this.area.value; }

  set(code: string, name: string): void {
    this.area.value = code;
    this.area.scrollTop = 0;
    this.#number();
    this.named(name);
  }

  async open(file: File): Promise<void> {
    if (file.size > maxFileBytes) { this.refused(`${file.name} is larger than 4 MiB.`); return; }
    try {
      this.set(new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer()), file.name);
    } catch {
      this.refused(`${file.name} can't be read as text in UTF-8.`);
    }
  }

  /** Selects what a finding is about and brings it into view. */
  select(f: Finding): void {
    const start = this.#offset(f.range.start.line, f.range.start.column);
    let end = this.#offset(f.range.end.line, f.range.end.column);
    if (end <= start) { // no extent: the whole line
      const next = this.area.value.indexOf("\n", start);
      end = next < 0 ? this.area.value.length : next;
    }
    this.area.focus({ preventScroll: true });
    this.area.setSelectionRange(start, end);
    this.area.scrollTop = Math.max(0, (f.range.start.line - 1) * lineHeight - this.area.clientHeight / 3);
    this.area.scrollLeft = 0;
    this.area.scrollIntoView({ block: "nearest" });
  }

  #offset(line: number, column: number): number {
    let at = 0;
    for (let n = 1; n < line; n++) {
      const next = this.area.value.indexOf("\n", at);
      if (next < 0) return this.area.value.length;
      at = next + 1;
    }
    const end = this.area.value.indexOf("\n", at);
    return Math.min(at + Math.max(0, column - 1), end < 0 ? this.area.value.length : end);
  }

  #number(): void {
    const lines = this.area.value.split("\n").length;
    if (lines === this.#lines) return;
    this.#lines = lines;
    // A line more than there is, so that the gutter scrolls as far as the text.
    this.gutter.textContent = Array.from({ length: lines }, (_, i) => i + 1).join("\n") + "\n\n";
    this.gutter.scrollTop = this.area.scrollTop;
  }
}
