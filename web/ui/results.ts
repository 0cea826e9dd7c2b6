import type { AthenaEvent, Finding, Usage } from "../client/index.js";
import { Attempts, describeAttempt } from "./attempts.js";
import { MarkdownView } from "./markdown.js";
import type { DiffLine } from "./change.js";
import { ChangeView, type ChangeState } from "./changeview.js";
import { byID } from "./dom.js";
import { describeProblem } from "./problems.js";
import { texts } from "./texts.js";

/** What there is to show: a run, or what the history has of one. */
export interface Shown {
  text(): string;
  reasoning(): string;
  findings(): readonly Finding[];
  usage(): Usage | undefined;
}

/** What results ask of the code that a run is about. */
export interface CodeOfRun {
  /** Leads to what a finding is about. */
  jump(f: Finding): void;
  /** Is told when there are other findings. */
  found(all: readonly Finding[]): void;
  /** What a finding's code changes. */
  diff(f: Finding): DiffLine[];
  /** Whether it can be put in. */
  state(f: Finding): ChangeState;
  apply(f: Finding): void;
}

/** Shows a run: findings, reasoning, answer and how it ended. */
export class Results {
  readonly #panel = byID("results", HTMLElement);
  readonly #scroll = byID("scroll", HTMLElement);
  readonly #announce = byID("announce", HTMLElement);
  readonly #problem = byID("problem", HTMLElement);
  readonly #findingsBox = byID("findings-box", HTMLElement);
  readonly #findings = byID("findings", HTMLElement);
  readonly #count = byID("findings-count", HTMLElement);
  readonly #reasoningBox = byID("reasoning-box", HTMLElement);
  readonly #reasoning = byID("reasoning", HTMLElement);
  readonly #empty = byID("empty", HTMLElement);
  readonly #summary = byID("summary", HTMLElement);
  readonly #markdown = new MarkdownView(byID("answer", HTMLElement));
  readonly #attempts = new Attempts();
  #run: Shown | undefined;
  #shown: readonly Finding[] = [];
  readonly #changes = new Map<Finding, ChangeView>();
  #frame = 0;
  #said = "";

  constructor(private readonly code: CodeOfRun) {}

  /** The findings that are shown. */
  get shown(): readonly Finding[] { return this.#shown; }

  /** Shows another run from here on, with the events so far that tell of its way. */
  begin(run: Shown, notable: readonly AthenaEvent[] = []): void {
    this.clear();
    this.#run = run;
    this.#empty.hidden = true;
    for (const e of notable) this.event(e);
    this.draw();
  }

  /** Shows nothing. */
  clear(): void {
    this.#run = undefined;
    this.#shown = [];
    this.#dropItems();
    this.#attempts.clear();
    this.#problem.hidden = true;
    this.#summary.hidden = true;
    this.#findingsBox.hidden = true;
    this.#reasoningBox.hidden = true;
    this.#empty.hidden = false;
    this.#markdown.render("");
    this.#scroll.scrollTop = 0;
    this.say("");
    this.code.found([]);
  }

  /** Brings itself into view, where it is below what the user looks at. */
  reveal(): void {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.#panel.scrollIntoView({ block: "start", behavior: calm ? "instant" : "smooth" });
  }

  /** Says something politely, for screen readers too; of what is said again and again with other numbers, they hear the first only. */
  say(text: string, again = ""): void {
    if (again === "" || again !== this.#said) {
      this.#announce.textContent = text;
    } else {
      const silent = document.createElement("span");
      silent.setAttribute("aria-hidden", "true");
      silent.textContent = text;
      this.#announce.replaceChildren(silent);
    }
    this.#said = again;
  }

  fail(text: string): void {
    this.#problem.textContent = text;
    this.#problem.hidden = false;
    this.#empty.hidden = true;
  }

  /** Takes an event that the run has applied; draws at the next frame. */
  event(e: AthenaEvent): void {
    this.#attempts.event(e);
    switch (e.type) {
      case "started": this.say(texts.atWork(`${e.data.provider}${e.data.model ? ` (${e.data.model})` : ""}`)); break;
      case "failover":
        if (e.data.discard) this.#dropItems(); // new ones may follow before the next frame
        this.say(`${describeAttempt(e) ?? ""}.`);
        break;
      case "queued": case "retrying": this.say(`${describeAttempt(e) ?? ""}.`, e.type); break;
      case "progress": this.say(e.data.stage + (e.data.percent === undefined ? "" : `, ${texts.percent(e.data.percent)}`), `progress ${e.data.stage}`); break;
      case "completed": {
        const d = e.data;
        this.say(texts.finished(this.#run?.findings().length ?? 0));
        const u = d.usage ?? this.#run?.usage();
        this.#summary.textContent = [
          `${d.provider}${d.model ? ` · ${d.model}` : ""}`, d.stale ? texts.summaryStale : d.cached ? texts.summaryCached : "", d.degraded ? texts.summaryDegraded : "",
          u ? texts.summaryTokens(u.input_tokens, u.output_tokens, u.estimated ?? false) : "",
          u?.cost_usd === undefined ? "" : `$${u.cost_usd.toFixed(4)}`,
          d.finish_reason === "length" ? texts.summaryLength : "", texts.summaryChecked(d.sha256.slice(0, 12)),
        ].filter(Boolean).join(" · ");
        this.#summary.hidden = false;
        break;
      }
      case "failed":
        this.say(texts.analysisFailed);
        this.fail(describeProblem(e.data.error));
        break;
      case "cancelled": this.say(e.data.by === "client" ? `${texts.stopped}.` : texts.cancelledBy(e.data.by)); break;
    }
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => { this.#frame = 0; this.draw(); });
  }

  draw(): void {
    const run = this.#run;
    if (!run) return;
    // Who has scrolled to the end follows the text; who reads the findings on top is left there.
    const atEnd = this.#scroll.scrollTop > 0 && this.#scroll.scrollHeight - this.#scroll.scrollTop - this.#scroll.clientHeight < 40;
    const findings = run.findings();
    const from = this.#shown.length > findings.length ? 0 : this.#findings.childElementCount;
    if (from === 0) this.#dropItems(); // a failover discarded them
    if (findings.length !== this.#shown.length || from < findings.length) {
      for (const f of findings.slice(from)) this.#findings.append(this.#item(f));
      this.#shown = findings.slice();
      this.#findingsBox.hidden = findings.length === 0;
      this.#count.textContent = `(${findings.length})`;
      this.code.found(this.#shown);
      this.refreshChanges();
    }
    const reasoning = run.reasoning();
    if (this.#reasoning.textContent.length !== reasoning.length || reasoning === "") this.#reasoning.textContent = reasoning;
    this.#reasoningBox.hidden = reasoning === "";
    this.#markdown.render(run.text());
    if (atEnd) this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }

  /** Asks again which changes can be made. */
  refreshChanges(): void {
    for (const [f, view] of this.#changes) view.state = this.code.state(f);
  }

  #dropItems(): void {
    this.#findings.replaceChildren();
    this.#changes.clear();
  }

  #item(f: Finding): HTMLElement {
    const part = (name: string, text: string): HTMLElement => {
      const s = document.createElement("span");
      s.className = name;
      s.textContent = text;
      return s;
    };
    const li = document.createElement("li");
    const b = document.createElement("button");
    b.type = "button";
    b.append(part("sev", texts.severities[f.severity]), part("msg", f.message), part("where", texts.line(f.range.start.line)));
    const more = part("more", f.suggestion ?? "");
    if (f.suggestion) more.append(" ");
    more.append(part("rule", f.rule));
    b.append(more);
    b.addEventListener("click", () => { this.code.jump(f); });
    li.append(b);
    li.dataset["sev"] = f.severity;
    if (f.replacement !== undefined) {
      const view = new ChangeView(f, this.code.diff(f), () => { this.code.apply(f); });
      this.#changes.set(f, view);
      li.append(view.element);
    }
    return li;
  }
}
