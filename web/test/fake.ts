import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { WebSocket, WebSocketServer } from "ws";

export interface WireEvent { stream: string; seq: number; first?: number; type: string; time: string; data: Record<string, unknown> }

/** How the fake misbehaves; all of it may be changed while it runs. */
export interface Faults {
  /** What a proxy does to WebSocket upgrades. */
  upgrade: "pass" | "refuse" | "hang";
  /** Buffer: no byte of an event stream arrives. */
  sse: "pass" | "buffer" | "refuse";
  /** Cut each connection after this many events; 0 for never. */
  cutEvery: number;
  /** Say nothing after the welcome, not even heartbeats. */
  silent: boolean;
  /** Close WebSockets with this code in the place of the first event. */
  closeWith: number;
  /** Refuse this many POST /v1/analyses after having started the job. */
  loseStarts: number;
  /** Group this many events into one array. */
  batch: number;
  token: string | undefined;
  ticket: boolean;
  /** The next answer to a poll asks the client to come back after so many milliseconds. */
  move: number | undefined;
}

const id = "01JDZZZZZZZZZZZZZZZZZZZZZZ0123456789";

/** A server that speaks the protocol over one stream that is written by hand. */
export class Fake {
  readonly stream = id;
  readonly log: WireEvent[] = [];
  readonly faults: Faults = {
    upgrade: "pass", sse: "pass", cutEvery: 0, silent: false, closeWith: 0, loseStarts: 0, batch: 1, token: undefined, ticket: false, move: undefined,
  };
  heartbeatMs = 1000;
  probeTimeoutMs = 2000; // more than a handshake takes on a busy machine
  offers = ["websocket", "sse", "long-poll"];
  /** What was asked, in order: "negotiate", "websocket 5", "sse 0", "poll 3", "start KEY", "cancel". */
  readonly seen: string[] = [];
  readonly keys = new Map<string, number>();
  readonly #tickets = new Set<string>();
  readonly #watchers = new Set<() => void>();
  readonly #sockets = new Set<Socket>();
  readonly #ws = new WebSocketServer({ noServer: true, handleProtocols: () => "athena.v1" });
  readonly #http: Server;

  constructor() {
    this.#http = createServer((q, r) => { this.#handle(q, r); });
    this.#http.on("connection", (s: Socket) => {
      this.#sockets.add(s);
      s.on("close", () => { this.#sockets.delete(s); });
    });
    this.#http.on("upgrade", (q: IncomingMessage, s: Socket, head: Buffer) => { this.#upgrade(q, s, head); });
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => { this.#http.listen(0, "127.0.0.1", resolve); });
    return `http://127.0.0.1:${(this.#http.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    for (const c of this.#ws.clients) c.terminate();
    for (const s of this.#sockets) s.destroy();
    await new Promise<void>((resolve) => { this.#http.close(() => { resolve(); }); });
  }

  add(type: string, data: Record<string, unknown>, first?: number): void {
    const seq = this.log.length === 0 ? 1 : (this.log.at(-1)?.seq ?? 0) + 1;
    this.log.push({ stream: id, seq, ...(first === undefined ? {} : { first }), type, time: "2026-11-22T21:00:00.000Z", data });
    for (const w of [...this.#watchers]) w();
  }

  text(s: string): void { this.add("chunk", { kind: "text", text: s, attempt: 1 }); }

  complete(text: string): void {
    this.add("completed", {
      finish_reason: "stop", provider: "fake", model: "m", cached: false, degraded: false, events: (this.log.at(-1)?.seq ?? 0) + 1,
      bytes: Buffer.byteLength(text), sha256: createHash("sha256").update(text).digest("hex"),
    });
  }

  get ended(): boolean { return ["completed", "failed", "cancelled"].includes(this.log.at(-1)?.type ?? ""); }

  /** Calls deliver with what follows the cursor, in batches, until it returns false or the connection is gone. */
  #follow(after: number, gone: AbortSignal, deliver: (list: WireEvent[]) => boolean): void {
    let cursor = after;
    const pump = (): void => {
      while (!gone.aborted) {
        const list = this.log.filter((e) => e.seq > cursor).slice(0, this.faults.batch);
        const last = list.at(-1);
        if (!last) return;
        cursor = last.seq;
        if (!deliver(list)) { this.#watchers.delete(pump); return; }
      }
      this.#watchers.delete(pump);
    };
    this.#watchers.add(pump);
    pump();
  }

  #allowed(q: IncomingMessage): boolean {
    return this.faults.token === undefined || q.headers.authorization === `Bearer ${this.faults.token}`;
  }

  #upgrade(q: IncomingMessage, s: Socket, head: Buffer): void {
    if (this.faults.upgrade === "hang") return;
    const url = new URL(q.url ?? "", "http://x");
    const ticket = url.searchParams.get("ticket");
    if (this.faults.upgrade === "refuse" || (this.faults.ticket && !this.#tickets.delete(ticket ?? ""))) {
      s.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
      return;
    }
    this.#ws.handleUpgrade(q, s, head, (ws) => { this.#socket(ws); });
  }

  #socket(ws: WebSocket): void {
    const gone = new AbortController();
    ws.on("close", () => { gone.abort(); });
    ws.send(JSON.stringify({ type: "welcome", node: "fake-1", heartbeat_ms: this.heartbeatMs, max_streams: 64 }));
    let sent = 0;
    ws.on("message", (m: Buffer) => {
      const c = JSON.parse(m.toString()) as { type: string; id: string; stream: string; after: number };
      if (this.faults.silent) return;
      if (c.type === "ping") ws.send('{"type":"pong"}');
      if (c.type !== "subscribe") return;
      this.seen.push(`websocket ${c.after}`);
      if (this.faults.closeWith) { ws.close(this.faults.closeWith, "told to"); return; }
      if (c.stream !== id) {
        ws.send(JSON.stringify({ type: "error", id: c.id, error: { code: "stream_not_found", title: "There is no such stream", status: 404, retryable: false } }));
        return;
      }
      ws.send(JSON.stringify({ type: "subscribed", id: c.id, stream: id, head: this.log.at(-1)?.seq ?? 0 }));
      this.#follow(c.after, gone.signal, (list) => {
        ws.send(JSON.stringify(list.length === 1 ? list[0] : list));
        sent += list.length;
        if (this.faults.cutEvery === 0 || sent < this.faults.cutEvery) return true;
        gone.abort();
        setImmediate(() => { ws.terminate(); });
        return false;
      });
    });
  }

  #handle(q: IncomingMessage, r: ServerResponse): void {
    const url = new URL(q.url ?? "", "http://x");
    const json = (status: number, v: unknown): void => {
      r.writeHead(status, { "Content-Type": status < 400 ? "application/json" : "application/problem+json" }).end(JSON.stringify(v));
    };
    if (!this.#allowed(q)) {
      json(401, { code: "unauthorized", title: "Valid credentials are needed", status: 401, retryable: false });
      return;
    }
    if (url.pathname === "/v1/negotiate") {
      this.seen.push("negotiate");
      const ticket = `t${this.seen.length}`;
      this.#tickets.add(ticket);
      const urls: Record<string, string> = { websocket: "/v1/ws", sse: "/v1/events", "long-poll": "/v1/events" };
      json(200, {
        protocol: "athena.v1", transports: this.offers.map((name) => ({ name, url: urls[name] ?? "/v1/quic" })),
        heartbeat_ms: this.heartbeatMs, probe_timeout_ms: this.probeTimeoutMs, max_streams: 64, ...(this.faults.ticket ? { ticket } : {}),
      });
      return;
    }
    if (url.pathname === "/v1/analyses") {
      const key = String(q.headers["idempotency-key"]);
      this.seen.push("start");
      this.keys.set(key, (this.keys.get(key) ?? 0) + 1);
      q.resume().on("end", () => {
        if (this.faults.loseStarts-- > 0) r.destroy();
        else json(201, { id, state: "running", head: this.log.length, viewers: 0 });
      });
      return;
    }
    if (q.method === "DELETE") {
      this.seen.push("cancel");
      json(202, { id });
      this.add("cancelled", { by: "client" });
      return;
    }
    if (url.pathname === "/v1/events") { this.#events(q, r, url, json); return; }
    if (url.pathname === `/v1/streams/${id}`) { json(200, { id, state: this.ended ? "completed" : "running", head: this.log.at(-1)?.seq ?? 0 }); return; }
    json(404, { code: "stream_not_found", title: "There is no such stream", status: 404, retryable: false });
  }

  #events(q: IncomingMessage, r: ServerResponse, url: URL, json: (status: number, v: unknown) => void): void {
    const after = Number((url.searchParams.get("after") ?? "").split(":")[1]);
    if (url.searchParams.get("stream") !== id || Number.isNaN(after)) {
      json(404, { code: "stream_not_found", title: "There is no such stream", status: 404, retryable: false });
      return;
    }
    const gone = new AbortController();
    r.on("close", () => { gone.abort(); });
    const atEnd = this.ended && after >= (this.log.at(-1)?.seq ?? 0);
    if (q.headers.accept !== "text/event-stream") {
      this.seen.push(`poll ${after}`);
      const answer = (): void => {
        clearTimeout(timer);
        this.#watchers.delete(answer);
        const max = this.faults.cutEvery || 1000;
        const events = this.log.filter((e) => e.seq > after).slice(0, max);
        const cursor = events.at(-1)?.seq ?? after;
        const { move } = this.faults;
        this.faults.move = undefined;
        json(200, {
          events, cursor: `${id}:${cursor}`, done: this.ended && cursor === this.log.at(-1)?.seq,
          ...(move !== undefined ? { retry_after_ms: move } : {}),
        });
      };
      const timer = setTimeout(answer, parseInt(url.searchParams.get("wait") ?? "0", 10));
      gone.signal.addEventListener("abort", () => { clearTimeout(timer); this.#watchers.delete(answer); });
      if (atEnd || this.log.some((e) => e.seq > after)) answer();
      else this.#watchers.add(answer);
      return;
    }
    this.seen.push(`sse ${after}`);
    if (this.faults.sse === "refuse") { r.writeHead(502).end("<h1>Bad gateway</h1>"); return; }
    if (this.faults.sse === "buffer") return;
    if (atEnd) { r.writeHead(204).end(); return; }
    r.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store, no-transform" });
    r.write(`retry: 30\n:${" ".repeat(2048)}\nid: ${id}:${after}\nevent: welcome\ndata: {"node":"fake-1","heartbeat_ms":${this.heartbeatMs},"max_streams":64}\n\n`);
    if (this.faults.silent) return;
    let sent = 0;
    this.#follow(after, gone.signal, (list) => {
      for (const e of list) r.write(`id: ${id}:${e.seq}\ndata: ${JSON.stringify(e)}\n\n`);
      sent += list.length;
      if (this.faults.cutEvery > 0 && sent >= this.faults.cutEvery) {
        setImmediate(() => { r.destroy(); });
        return false;
      }
      if (["completed", "failed", "cancelled"].includes(list.at(-1)?.type ?? "")) { r.end(); return false; }
      return true;
    });
  }
}
