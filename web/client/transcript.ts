import { PromiseError } from "./errors.js";
import { isTerminal, type AthenaEvent, type Finding, type KnownEvent, type Started, type Usage } from "./events.js";
import { SHA256 } from "./sha256.js";

export type TerminalEvent = Extract<KnownEvent, { type: "completed" | "failed" | "cancelled" }>;

const encoder = new TextEncoder();

/**
 * What a client knows of one stream: where it is, what the answer says so far
 * and how it ended. apply checks the promises that a client can check: P1, the
 * single terminal event of P4, and P5 where the stream was read from its start.
 */
export class Transcript {
  text = "";
  reasoning = "";
  findings: Finding[] = [];
  usage: Usage | undefined;
  started: Started | undefined;
  terminal: TerminalEvent | undefined;
  /** The last seq that was applied. */
  cursor: number;
  #digest: SHA256 | undefined = new SHA256();

  /** A transcript that begins after a cursor can't check the digest of P5. */
  constructor(after = 0) {
    this.cursor = after;
    if (after > 0) this.#digest = undefined;
  }

  /** Takes the next event. An event that is refused changes nothing. */
  apply(e: AthenaEvent): void {
    const name = e.type === "unknown" ? e.name : e.type;
    const range = e.first === e.seq ? `${e.seq}` : `${e.first}..${e.seq}`;
    if (this.terminal) {
      throw new PromiseError("P4", e.stream, `event ${range} (${name}) follows the terminal event ${this.terminal.seq}`);
    }
    if (e.first > this.cursor + 1 || e.seq < this.cursor + 1 || e.first > e.seq || e.first < 1) {
      throw new PromiseError("P1", e.stream, `event ${range} (${name}) does not follow cursor ${this.cursor}`);
    }
    const replaces = e.type === "failed" || (e.type === "failover" && e.data.discard);
    if (e.first < this.cursor + 1 && !replaces) {
      throw new PromiseError("P1", e.stream, `event ${range} (${name}) covers cursor ${this.cursor} but neither ends nor replaces the text`);
    }
    switch (e.type) {
      case "started":
        this.started = e.data;
        break;
      case "chunk":
        if (e.data.kind === "text") {
          this.text += e.data.text;
          this.#digest?.update(encoder.encode(e.data.text));
        } else if (e.data.kind === "reasoning") {
          this.reasoning += e.data.text;
        }
        break;
      case "failover":
        if (e.data.discard) {
          this.text = "";
          this.reasoning = "";
          this.findings = [];
          this.#digest = new SHA256(); // all the text that will count is still to come
        }
        break;
      case "finding":
        this.findings.push(e.data);
        break;
      case "usage":
        this.usage = e.data;
        break;
      case "completed": {
        const d = e.data;
        if (d.events !== e.seq) throw new PromiseError("P5", e.stream, `completed says ${d.events} events; received were ${e.seq}`);
        if (this.#digest) {
          const bytes = this.#digest.length;
          const sum = this.#digest.hex();
          if (d.bytes !== bytes || d.sha256 !== sum) {
            throw new PromiseError("P5", e.stream,
              `completed says ${d.bytes} bytes, sha256 ${d.sha256.slice(0, 12)}…; received were ${bytes}, ${sum.slice(0, 12)}…`);
          }
        }
        if (d.usage) this.usage = d.usage;
        break;
      }
    }
    this.cursor = e.seq;
    if (isTerminal(e)) this.terminal = e;
  }
}
