/** How long to wait between attempts. */
export interface BackoffOptions {
  /** The bound of the first wait, in milliseconds. Default 250. */
  baseMs?: number;
  /** What no bound exceeds, the server's hint aside. Default 15,000. */
  maxMs?: number;
  /** A number in [0, 1), for tests. Default Math.random. */
  random?: () => number;
}

/** No wait is shorter than this, so that no fault makes a tight loop. */
const floorMs = 20;

/**
 * Exponential backoff with full jitter: each wait is drawn evenly from 0 to a
 * bound that doubles. A server's hint is waited out first; since it has the
 * server's jitter in it, the first attempt adds none.
 */
export class Backoff {
  #failures = 0;
  readonly #base: number;
  readonly #max: number;
  readonly #random: () => number;

  constructor(options: BackoffOptions = {}) {
    this.#base = options.baseMs ?? 250;
    this.#max = options.maxMs ?? 15_000;
    this.#random = options.random ?? Math.random;
  }

  next(hintMs?: number): number {
    const bound = Math.min(this.#max, this.#base * 2 ** this.#failures);
    const first = this.#failures === 0;
    this.#failures = Math.min(this.#failures + 1, 30);
    const jitter = hintMs !== undefined && first ? 0 : this.#random() * bound;
    return Math.max(floorMs, (hintMs ?? 0) + jitter);
  }

  /** To be called when a connection has shown that it works. */
  reset(): void { this.#failures = 0; }
}

/** The promise, or the signal's reason where that fires first. */
export function unless<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = (): void => { reject(signal.reason); };
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop);
    promise.then(resolve, reject).finally(() => { signal.removeEventListener("abort", stop); });
  });
}

/** Waits; rejects with the signal's reason when that fires first, and ends early when wake does. */
export async function sleep(ms: number, signal: AbortSignal, wake?: AbortSignal): Promise<void> {
  const over = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    await unless(signal, new Promise((resolve) => {
      timer = setTimeout(resolve, ms);
      wake?.addEventListener("abort", resolve, { signal: over.signal });
    }));
  } finally {
    clearTimeout(timer);
    over.abort();
  }
}
