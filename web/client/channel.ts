/** A queue from one producer to one consumer, which iterates over it. */
export class Channel<T> implements AsyncIterableIterator<T> {
  readonly #items: T[] = [];
  readonly #onReturn: () => void;
  #ended = false;
  #error: unknown;
  #failed = false;
  #wake: (() => void) | undefined;

  /** onReturn is called when the consumer leaves its loop early. */
  constructor(onReturn: () => void) { this.#onReturn = onReturn; }

  push(item: T): void {
    if (this.#ended) return;
    this.#items.push(item);
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  fail(error: unknown): void {
    if (this.#ended) return;
    this.#error = error;
    this.#failed = true;
    this.end();
  }

  async next(): Promise<IteratorResult<T>> {
    for (;;) {
      const item = this.#items.shift();
      if (item !== undefined) return { done: false, value: item };
      if (this.#failed) {
        this.#failed = false;
        throw this.#error;
      }
      if (this.#ended) return { done: true, value: undefined };
      await new Promise<void>((resolve) => { this.#wake = resolve; });
    }
  }

  return(): Promise<IteratorResult<T>> {
    this.#items.length = 0;
    this.#failed = false;
    this.end();
    this.#onReturn();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this { return this; }
}
