/** One frame of an event stream. */
export interface Frame { event: string; data: string; id: string }

/** No line and no frame of an honest server is longer (in UTF-16 code units). */
const maxFrame = 16 << 20;

/**
 * Reads text/event-stream as the HTML standard describes it, from text that
 * arrives in pieces of any size. EventSource itself can't send headers.
 */
export class SSEParser {
  /** The newest `retry:`, in milliseconds. */
  retryMs: number | undefined;
  #rest = "";
  #begun = false;
  #event = "";
  #data: string[] = [];
  #size = 0;
  #id = "";

  /** Yields the frames that the text completes. */
  *push(text: string): Generator<Frame> {
    let s = this.#rest + text;
    if (!this.#begun && s.length > 0) {
      this.#begun = true;
      if (s.startsWith("\uFEFF")) s = s.slice(1);
    }
    let at = 0;
    for (;;) {
      const end = nextBreak(s, at);
      if (end < 0 || (s[end] === "\r" && end + 1 === s.length)) break; // a CR at the end may be half of CRLF
      const line = s.slice(at, end);
      at = end + (s[end] === "\r" && s[end + 1] === "\n" ? 2 : 1);
      const frame = this.#line(line);
      if (frame) yield frame;
    }
    this.#rest = s.slice(at);
    if (this.#rest.length + this.#size > maxFrame) throw new Error("a frame of the event stream is too long");
  }

  #line(line: string): Frame | undefined {
    if (line === "") {
      const frame = { event: this.#event || "message", data: this.#data.join("\n"), id: this.#id };
      const any = this.#data.length > 0;
      this.#event = "";
      this.#data = [];
      this.#size = 0;
      return any ? frame : undefined;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return undefined;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    switch (field) {
      case "event": this.#event = value; break;
      case "data": this.#data.push(value); this.#size += value.length; break;
      case "id": if (!value.includes("\0")) this.#id = value; break;
      case "retry": if (/^\d{1,9}$/.test(value)) this.retryMs = Number(value); break;
    }
    return undefined;
  }
}

function nextBreak(s: string, from: number): number {
  const lf = s.indexOf("\n", from);
  const cr = s.indexOf("\r", from);
  if (lf < 0) return cr;
  return cr < 0 ? lf : Math.min(lf, cr);
}
