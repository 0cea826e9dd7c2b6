import { isObject } from "./events.js";
import { sleep } from "./backoff.js";
import { sha256 } from "./sha256.js";

/** A credential, and where that is known when it ends. The end of a JWT is read from it. */
export type Token = string | { token: string; expiresAt: number | Date } | undefined;

/** Gets a credential. `renew` says that the last one has ended, or will soon. */
export type TokenSource = (renew: boolean) => Token | Promise<Token>;

/** A token is renewed this long before it ends, or when a fifth of its time is left. */
const marginMs = 60_000;

/** The caller's credential. Where its end is known it is kept, and asked for again in time; else it is asked for each time. */
export class Credentials {
  #kept: { token: string; until: number } | undefined;
  /** The newest question, which others join; not those who need another credential than it may give. */
  #asking: { again: boolean; answer: Promise<string | undefined> } | undefined;

  constructor(private readonly source: string | TokenSource | undefined) {}

  get renewable(): boolean { return typeof this.source === "function"; }

  get(renew = false): Promise<string | undefined> {
    if (typeof this.source !== "function") return Promise.resolve(this.source);
    if (this.#kept && !renew && Date.now() < this.#kept.until) return Promise.resolve(this.#kept.token);
    const { source } = this;
    const again = renew || this.#kept !== undefined;
    if (this.#asking && this.#asking.again >= again) return this.#asking.answer;
    const answer = (async () => source(again))().then((t) => {
      const token = typeof t === "object" ? t.token : t;
      const ends = typeof t === "object" ? Number(t.expiresAt) : expiryOf(t);
      const left = (ends ?? 0) - Date.now();
      if (this.#asking === asking) this.#kept = token !== undefined && ends !== undefined ? { token, until: ends - Math.min(marginMs, left / 5) } : undefined;
      return token;
    }).finally(() => { if (this.#asking === asking) this.#asking = undefined; });
    const asking = this.#asking = { again, answer };
    return answer;
  }

  /** Calls use with each new token, before the last one ends. */
  async fresh(use: (token: string) => void, signal: AbortSignal): Promise<void> {
    while (this.#kept) {
      const was = this.#kept.token;
      await sleep(Math.min(Math.max(this.#kept.until - Date.now(), 1000), 2 ** 31 - 1), signal);
      const now = await this.get();
      signal.throwIfAborted();
      if (now !== undefined && now !== was) use(now);
    }
  }
}

/** When a JWT ends, in milliseconds since 1970. */
function expiryOf(token: string | undefined): number | undefined {
  const claims = claimsOf(token);
  return typeof claims?.["exp"] === "number" ? claims["exp"] * 1000 : undefined;
}

/** What a JWT says, unproven. */
function claimsOf(token: string | undefined): { readonly [key: string]: unknown } | undefined {
  try {
    const v: unknown = JSON.parse(atob((token?.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/")));
    return isObject(v) ? v : undefined;
  } catch {
    return undefined; // another kind of credential
  }
}

/** Who asks, as far as the credential tells: tokens of one person differ, what is theirs doesn't. */
export function identityOf(token: string | undefined): string {
  const c = claimsOf(token);
  return sha256(JSON.stringify(c?.["sub"] === undefined ? [token] : [c["iss"], c["sub"], c["tenant"], c["scope"]]));
}
