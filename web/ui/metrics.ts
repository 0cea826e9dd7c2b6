/** Reads what a server tells Prometheus, as far as the page shows it. */

/** The sum of a family's samples, by its name. */
export type Sample = ReadonlyMap<string, number>;

const line = /^([a-zA-Z_:][\w:]*)(?:\{([^\n]*)\})? (\S+)/;

/** Sums each family over its labels. `open` of breakers is counted apart, since their numbers are states. */
export function readMetrics(text: string): Sample {
  const sums = new Map<string, number>();
  for (const l of text.split("\n")) {
    if (l.startsWith("#")) continue;
    const m = line.exec(l);
    const name = m?.[1], value = Number(m?.[3]);
    if (name === undefined || !Number.isFinite(value)) continue;
    const n = name === "athena_provider_circuit_state" ? Number(value > 0) : value;
    sums.set(name, (sums.get(name) ?? 0) + n);
  }
  return sums;
}

/** How much a counter grew a second; undefined where it began again or is not known. */
export function rate(before: Sample, after: Sample, name: string, seconds: number): number | undefined {
  const grown = (after.get(name) ?? 0) - (before.get(name) ?? 0);
  return seconds <= 0 || grown < 0 || !after.has(name) ? undefined : grown / seconds;
}

/** The mean of what a histogram got between two samples, in milliseconds; undefined where it got nothing. */
export function meanMs(before: Sample, after: Sample, name: string): number | undefined {
  const n = (after.get(`${name}_count`) ?? 0) - (before.get(`${name}_count`) ?? 0);
  const sum = (after.get(`${name}_sum`) ?? 0) - (before.get(`${name}_sum`) ?? 0);
  return n > 0 && sum >= 0 ? (sum / n) * 1000 : undefined;
}
