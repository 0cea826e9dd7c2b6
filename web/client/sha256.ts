/**
 * SHA-256 (FIPS 180-4) that takes its input in pieces. The platform's own,
 * crypto.subtle, takes only whole messages, is asynchronous, and is missing on
 * pages that came over plain HTTP, where a hub in a local network often is.
 */

const K = new Uint32Array(64);
const H0 = new Uint32Array(8);
{
  // The first 32 bits of the fractional parts of the cube and square roots of
  // the first primes. Doubles are exact enough for these.
  const frac = (x: number): number => ((x - Math.floor(x)) * 0x1_0000_0000) >>> 0;
  let found = 0;
  for (let n = 2; found < 64; n++) {
    let prime = true;
    for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
    if (!prime) continue;
    if (found < 8) H0[found] = frac(Math.sqrt(n));
    K[found++] = frac(Math.cbrt(n));
  }
}

export class SHA256 {
  /** How many bytes were added. */
  length = 0;
  readonly #h = H0.slice();
  readonly #block = new Uint8Array(64);
  readonly #w = new Uint32Array(64);
  #used = 0;

  update(bytes: Uint8Array): void {
    this.length += bytes.length;
    for (let i = 0; i < bytes.length; ) {
      const n = Math.min(64 - this.#used, bytes.length - i);
      this.#block.set(bytes.subarray(i, i + n), this.#used);
      this.#used += n;
      i += n;
      if (this.#used === 64) {
        this.#compress();
        this.#used = 0;
      }
    }
  }

  /** The digest in hexadecimal. Nothing may be added afterwards. */
  hex(): string {
    const bits = this.length * 8;
    const tail = new Uint8Array(((this.#used < 56 ? 64 : 128) - this.#used));
    tail[0] = 0x80;
    const view = new DataView(tail.buffer);
    view.setUint32(tail.length - 8, Math.floor(bits / 0x1_0000_0000));
    view.setUint32(tail.length - 4, bits >>> 0);
    this.update(tail);
    return Array.from(this.#h, (x) => x.toString(16).padStart(8, "0")).join("");
  }

  #compress(): void {
    const w = this.#w;
    const view = new DataView(this.#block.buffer);
    for (let i = 0; i < 16; i++) w[i] = view.getUint32(i * 4);
    const at = (i: number): number => w[i] ?? 0;
    const rot = (x: number, n: number): number => (x >>> n) | (x << (32 - n));
    for (let i = 16; i < 64; i++) {
      const a = at(i - 15);
      const b = at(i - 2);
      w[i] = at(i - 16) + (rot(a, 7) ^ rot(a, 18) ^ (a >>> 3)) + at(i - 7) + (rot(b, 17) ^ rot(b, 19) ^ (b >>> 10));
    }
    let [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0] = this.#h;
    for (let i = 0; i < 64; i++) {
      const t1 = (h + (rot(e, 6) ^ rot(e, 11) ^ rot(e, 25)) + ((e & f) ^ (~e & g)) + (K[i] ?? 0) + at(i)) | 0;
      const t2 = ((rot(a, 2) ^ rot(a, 13) ^ rot(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g; g = f; f = e; e = (d + t1) | 0;
      d = c; c = b; b = a; a = (t1 + t2) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((x, i) => { this.#h[i] = (this.#h[i] ?? 0) + x; });
  }
}

/** The digest of a text's UTF-8 bytes, in hexadecimal. */
export function sha256(text: string): string {
  const h = new SHA256();
  h.update(new TextEncoder().encode(text));
  return h.hex();
}
