import { Chart } from "./chart.js";
import { byID } from "./dom.js";
import { meanMs, rate, readMetrics, type Sample } from "./metrics.js";
import { describeTime } from "./providers.js";
import { texts } from "./texts.js";

const refreshMs = 2000;
const family = "athena_";

type Name = keyof typeof texts.charts;
const whole = (n: number): string => Math.round(n).toLocaleString();
const formats: Readonly<Record<Name, (n: number) => string>> = {
  connections: whole, chunks: (n) => texts.perSecond(n < 10 && n > 0 ? n.toFixed(1) : whole(n)), first: describeTime, running: whole, breakers: whole, waiting: whole,
};

/** Live charts of the node that the page came from, for administrators: asked for while they are open and looked at. */
export class Operations {
  readonly #box = byID("operations-box", HTMLDetailsElement);
  readonly #note = byID("operations-note", HTMLElement);
  readonly #charts = new Map<Name, Chart>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #last: { sample: Sample; at: number } | undefined;
  #asking = false;

  constructor(private readonly key: () => string | undefined) {
    this.#box.addEventListener("toggle", () => { this.#changed(); });
    document.addEventListener("visibilitychange", () => { this.#changed(); });
  }

  #changed(): void {
    clearTimeout(this.#timer);
    if (!this.#box.open || document.hidden || this.#asking) return;
    void this.#ask();
  }

  async #ask(): Promise<void> {
    this.#asking = true;
    const again = await this.#refresh();
    this.#asking = false;
    if (again && this.#box.open && !document.hidden) this.#timer = setTimeout(() => { this.#changed(); }, refreshMs);
  }

  /** Reports whether it is worth asking again. */
  async #refresh(): Promise<boolean> {
    const key = this.key();
    try {
      const r = await fetch("metrics", { headers: key === undefined ? {} : { Authorization: `Bearer ${key}` }, cache: "no-store", signal: AbortSignal.timeout(10_000) });
      if (r.status === 401 || r.status === 403 || r.status === 404) {
        this.#note.textContent = r.status === 404 ? texts.operationsNone : texts.operationsForAdmins;
        return false;
      }
      if (!r.ok) throw new Error(String(r.status));
      this.#draw(readMetrics(await r.text()), performance.now());
      this.#note.textContent = "";
    } catch (e) {
      this.#note.textContent = texts.notUpToDate(e instanceof Error ? e.message : String(e));
    }
    return true;
  }

  #draw(sample: Sample, at: number): void {
    const of = (name: string): number => sample.get(family + name) ?? 0;
    const last = this.#last;
    const values: Record<Name, number | undefined> = {
      connections: of("connections"), running: of("analyses_running"), breakers: of("provider_circuit_state"), waiting: of("provider_bulkhead_busy") + of("provider_bulkhead_queued"),
      chunks: last && rate(last.sample, sample, `${family}events_written_total`, (at - last.at) / 1000),
      first: last && meanMs(last.sample, sample, `${family}provider_first_content_seconds`),
    };
    for (const [name, value] of Object.entries(values) as [Name, number | undefined][]) {
      let chart = this.#charts.get(name);
      if (!chart) {
        chart = new Chart(texts.charts[name], formats[name]);
        this.#charts.set(name, chart);
        byID("charts", HTMLElement).append(chart.element);
        chart.element.dataset["chart"] = name;
      }
      chart.add(value);
    }
    this.#last = { sample, at };
  }
}
