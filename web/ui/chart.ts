import { texts } from "./texts.js";

const svg = "http://www.w3.org/2000/svg";
/** How many values a chart shows, which is three minutes of them. */
const shown = 90;
const width = 180, height = 44;

/** A small chart of one number over time. */
export class Chart {
  readonly element = document.createElement("figure");
  readonly #now = document.createElement("strong");
  readonly #svg = document.createElementNS(svg, "svg");
  readonly #line = document.createElementNS(svg, "path");
  readonly #area = document.createElementNS(svg, "path");
  readonly #values: (number | undefined)[] = [];

  constructor(private readonly name: string, private readonly format: (n: number) => string) {
    const caption = document.createElement("figcaption");
    caption.append(name, this.#now);
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#svg.setAttribute("preserveAspectRatio", "none");
    this.#svg.setAttribute("role", "img");
    this.#area.setAttribute("class", "area");
    this.#line.setAttribute("class", "line");
    this.#svg.append(this.#area, this.#line);
    this.element.append(caption, this.#svg);
  }

  /** Adds a value; undefined where there was none to be had, which is a gap. */
  add(value: number | undefined): void {
    this.#values.push(value);
    if (this.#values.length > shown) this.#values.shift();
    const known = this.#values.filter((v) => v !== undefined);
    const most = Math.max(0, ...known);
    const now = value ?? known.at(-1);
    this.#now.textContent = now === undefined ? texts.none : this.format(now);
    this.#svg.setAttribute("aria-label", texts.chart(this.name, now === undefined ? texts.none : this.format(now), this.format(most)));
    const [line, area] = paths(this.#values, most);
    this.#line.setAttribute("d", line);
    this.#area.setAttribute("d", area);
  }
}

/** The line through values, the newest at the right, and the area below it. What lies in between two known ones is drawn straight. */
export function paths(values: readonly (number | undefined)[], most: number): [line: string, area: string] {
  const points = values.flatMap((v, i) => {
    if (v === undefined) return [];
    const x = width - ((values.length - 1 - i) * width) / (shown - 1);
    const y = height - 2 - (most > 0 ? (v / most) * (height - 6) : 0);
    return [[x.toFixed(1), y.toFixed(1)] as const];
  });
  const first = points[0], last = points.at(-1);
  if (!first || !last) return ["", ""];
  const line = `M${points.map((p) => p.join(" ")).join("L")}`;
  return [line, `${line}L${last[0]} ${height}L${first[0]} ${height}Z`];
}
