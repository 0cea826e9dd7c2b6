import type { AthenaEvent, Finding, Run } from "../client/index.js";
import { Attempts, describeAttempt } from "./attempts.js";
import { MarkdownView } from "./markdown.js";
import { byID } from "./dom.js";
import { describeProblem } from "./problems.js";

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
  #run: Run | undefined;
  #shown: readonly Finding[] = [];
  #frame = 0;

  constructor(private readonly jump: (f: Finding) => void) {}

  begin(run: Run): void {
    this.#run = run;
    this.#shown = [];
    this.#findings.replaceChildren();
    this.#attempts.clear();
    this.#problem.hidden = true;
    this.#summary.hidden = true;
    this.#empty.hidden = true;
    this.#markdown.render("");
    this.#scroll.scrollTop = 0;
    this.draw();
  }

  /** Brings itself into view, where it is below what the user looks at. */
  reveal(): void {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.#panel.scrollIntoView({ block: "start", behavior: calm ? "instant" : "smooth" });
  }

  /** Says something politely, for screen readers too. */
  say(text: string): void { this.#announce.textContent = text; }

  fail(text: string): void {
    this.#problem.textContent = text;
    this.#problem.hidden = false;
    this.#empty.hidden = true;
  }

  /** Takes an event that the run has applied; draws at the next frame. */
  event(e: AthenaEvent): void {
    this.#attempts.event(e);
    switch (e.type) {
      case "started": this.say(`${e.data.provider}${e.data.model ? ` (${e.data.model})` : ""} is at work.`); break;
      case "failover":
        if (e.data.discard) this.#findings.replaceChildren(); // new ones may follow before the next frame
        this.say(`${describeAttempt(e) ?? ""}.`);
        break;
      case "queued": case "retrying": this.say(`${describeAttempt(e) ?? ""}.`); break;
      case "progress": this.say(e.data.stage + (e.data.percent === undefined ? "" : `, ${Math.round(e.data.percent)} %`)); break;
      case "completed": {
        const d = e.data;
        const n = this.#run?.findings().length ?? 0;
        this.say(`Finished${n > 0 ? ` with ${n} finding${n === 1 ? "" : "s"}` : ""}.`);
        const u = d.usage ?? this.#run?.usage();
        this.#summary.textContent = [
          `${d.provider}${d.model ? ` · ${d.model}` : ""}`, d.stale ? "an earlier answer: no provider could be reached" : d.cached ? "from the cache" : "", d.degraded ? "degraded: the offline analyser answered" : "",
          u ? `${u.estimated ? "about " : ""}${u.input_tokens.toLocaleString()} tokens in, ${u.output_tokens.toLocaleString()} out${u.estimated ? " (estimated)" : ""}` : "",
          u?.cost_usd === undefined ? "" : `$${u.cost_usd.toFixed(4)}`,
          d.finish_reason === "length" ? "cut off at the model's limit" : "", `complete: sha256 ${d.sha256.slice(0, 12)}… checked`,
        ].filter(Boolean).join(" · ");
        this.#summary.hidden = false;
        break;
      }
      case "failed":
        this.say("The analysis failed.");
        this.fail(describeProblem(e.data.error));
        break;
      case "cancelled": this.say(e.data.by === "client" ? "Stopped." : `Cancelled (${e.data.by}).`); break;
    }
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => { this.#frame = 0; this.draw(); });
  }

  draw(): void {
    const run = this.#run;
    if (!run) return;
    // Who has scrolled to the end follows the text; who reads the findings on top is left there.
    const atEnd = this.#scroll.scrollTop > 0 && this.#scroll.scrollHeight - this.#scroll.scrollTop - this.#scroll.clientHeight < 40;
    const findings = run.findings();
    if (this.#shown.length > findings.length) this.#findings.replaceChildren(); // a failover discarded them
    const from = this.#findings.childElementCount;
    for (const f of findings.slice(from)) this.#findings.append(this.#item(f));
    this.#shown = findings.slice();
    this.#findingsBox.hidden = findings.length === 0;
    this.#count.textContent = `(${findings.length})`;
    this.#reasoning.textContent = run.reasoning();
    this.#reasoningBox.hidden = run.reasoning() === "";
    this.#markdown.render(run.text());
    if (atEnd) this.#scroll.scrollTop = this.#scroll.scrollHeight;
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
    b.dataset["sev"] = f.severity;
    b.append(part("sev", f.severity), part("msg", f.message), part("where", `line ${f.range.start.line}`));
    const more = part("more", f.suggestion ?? "");
    if (f.suggestion) more.append(" ");
    more.append(part("rule", f.rule));
    b.append(more);
    b.addEventListener("click", () => { this.jump(f); });
    li.append(b);
    return li;
  }
}
