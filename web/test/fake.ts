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
  /** Refuse this many subscriptions for the time being. */
  refuseSubscribes: number;
  /** Group this many events into one array. */
  batch: number;
  token: string | undefined;
  ticket: boolean;
  /** The next answer to a poll asks the client to come back after so many milliseconds. */
  move: number | undefined;
}

const id = "01JDZZZZZZZZZZZZZZZZZZZZZZ0123456789";

const terminals = ["completed", "failed", "cancelled"];

/** A server that speaks the protocol over streams that are written by hand. */
export class Fake {
  readonly stream = id;
  readonly log: WireEvent[] = [];
  /** More streams; the first is written by add, text and complete without one. */
  readonly logs = new Map<string, WireEvent[]>([[id, this.log]]);
  maxStreams = 64;
  /** The generation of cached answers, told where it isn't undefined. */
  generation: string | undefined;
  readonly #tellers = new Set<() => void>();
  /** How many connections there are now, and were at most. */
  open = 0;
  mostOpen = 0;
  readonly faults: Faults = {
    upgrade: "pass", sse: "pass", cutEvery: 0, silent: false, closeWith: 0, loseStarts: 0, refuseSubscribes: 0, batch: 1, token: undefined, ticket: false, move: undefined,
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

  /** Changes the generation, and tells those who are connected. */
  raise(generation: string): void {
    this.generation = generation;
    for (const tell of this.#tellers) tell();
  }

  #told(tell: () => void, gone: AbortSignal): void {
    this.#tellers.add(tell);
    gone.addEventListener("abort", () => { this.#tellers.delete(tell); });
  }

  add(type: string, data: Record<string, unknown>, first?: number, stream = id): void {
    let log = this.logs.get(stream);
    if (!log) this.logs.set(stream, log = []);
    const seq = (log.at(-1)?.seq ?? 0) + 1;
    log.push({ stream, seq, ...(first === undefined ? {} : { first }), type, time: "2026-11-22T21:00:00.000Z", data });
    for (const w of [...this.#watchers]) w();
  }

  text(s: string, stream = id): void { this.add("chunk", { kind: "text", text: s, attempt: 1 }, undefined, stream); }

  complete(text: string, stream = id): void {
    this.add("completed", {
      finish_reason: "stop", provider: "fake", model: "m", cached: false, degraded: false, events: (this.logs.get(stream)?.at(-1)?.seq ?? 0) + 1,
      bytes: Buffer.byteLength(text), sha256: createHash("sha256").update(text).digest("hex"),
    }, undefined, stream);
  }

  get ended(): boolean { return this.#ended(id); }
  #ended(stream: string): boolean { return terminals.includes(this.logs.get(stream)?.at(-1)?.type ?? ""); }
  #head(stream: string): number { return this.logs.get(stream)?.at(-1)?.seq ?? 0; }

  /** Counts a connection that delivers until it is gone. */
  #count(gone: AbortSignal): void {
    this.mostOpen = Math.max(this.mostOpen, ++this.open);
    gone.addEventListener("abort", () => { this.open--; });
  }

  /** Calls deliver with what follows the cursor, in batches, until it returns false or the connection is gone. */
  #follow(stream: string, after: number, gone: AbortSignal, deliver: (list: WireEvent[]) => boolean): void {
    let cursor = after;
    const pump = (): void => {
      while (!gone.aborted) {
        const list = (this.logs.get(stream) ?? []).filter((e) => e.seq > cursor).slice(0, this.faults.batch);
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
    this.#count(gone.signal);
    ws.send(JSON.stringify({ type: "welcome", node: "fake-1", heartbeat_ms: this.heartbeatMs, max_streams: this.maxStreams, cache: this.generation }));
    this.#told(() => { ws.send(JSON.stringify({ type: "cache", cache: this.generation })); }, gone.signal);
    let sent = 0;
    const subscriptions = new Map<string, AbortController>();
    ws.on("message", (m: Buffer) => {
      const c = JSON.parse(m.toString()) as { type: string; id: string; stream: string; after: number; token: string };
      if (this.faults.silent) return;
      if (c.type === "ping") ws.send('{"type":"pong"}');
      if (c.type === "authenticate") {
        this.seen.push(`authenticate ${c.token}`);
        ws.send(JSON.stringify({ type: "accepted", id: c.id }));
      }
      if (c.type === "unsubscribe") {
        this.seen.push("unsubscribe");
        subscriptions.get(c.stream)?.abort();
        subscriptions.delete(c.stream);
        ws.send(JSON.stringify({ type: "unsubscribed", id: c.id, stream: c.stream }));
      }
      if (c.type !== "subscribe") return;
      this.seen.push(`websocket ${c.after}`);
      if (this.faults.closeWith) { ws.close(this.faults.closeWith, "told to"); return; }
      const refuse = (code: string, status: number, retryable: boolean): void => {
        ws.send(JSON.stringify({ type: "error", id: c.id, stream: c.stream, error: { code, title: code, status, retryable } }));
      };
      if (!this.logs.has(c.stream)) { refuse("stream_not_found", 404, false); return; }
      if (this.faults.refuseSubscribes-- > 0) { refuse("overloaded", 503, true); return; }
      if (subscriptions.has(c.stream)) { refuse("invalid_request", 400, false); return; }
      ws.send(JSON.stringify({ type: "subscribed", id: c.id, stream: c.stream, head: Math.max(this.#head(c.stream), c.after) }));
      if (this.#ended(c.stream) && c.after >= this.#head(c.stream)) return;
      const over = new AbortController();
      subscriptions.set(c.stream, over);
      this.#follow(c.stream, c.after, AbortSignal.any([gone.signal, over.signal]), (list) => {
        ws.send(JSON.stringify(list.length === 1 ? list[0] : list));
        sent += list.length;
        if (terminals.includes(list.at(-1)?.type ?? "")) subscriptions.delete(c.stream);
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
        heartbeat_ms: this.heartbeatMs, probe_timeout_ms: this.probeTimeoutMs, max_streams: this.maxStreams, cache: this.generation, ...(this.faults.ticket ? { ticket } : {}),
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
    const stream = url.pathname.slice("/v1/streams/".length);
    if (this.logs.has(stream)) { json(200, { id: stream, state: this.#ended(stream) ? "completed" : "running", head: this.#head(stream) }); return; }
    json(404, { code: "stream_not_found", title: "There is no such stream", status: 404, retryable: false });
  }

  #events(q: IncomingMessage, r: ServerResponse, url: URL, json: (status: number, v: unknown) => void): void {
    const streams = url.searchParams.getAll("stream");
    const cursors = new Map((url.searchParams.get("after") ?? "").split(",").map((c) => [c.split(":")[0] ?? "", Number(c.split(":")[1])]));
    if (streams.length > this.maxStreams) {
      json(400, { code: "invalid_request", title: "Too many streams", status: 400, retryable: false });
      return;
    }
    if (streams.some((s) => !this.logs.has(s) || Number.isNaN(cursors.get(s) ?? NaN))) {
      json(404, { code: "stream_not_found", title: "There is no such stream", status: 404, retryable: false });
      return;
    }
    const gone = new AbortController();
    r.on("close", () => { gone.abort(); });
    this.#count(gone.signal);
    const afters = streams.map((s) => String(cursors.get(s))).join();
    const done = (): boolean => streams.every((s) => this.#ended(s) && (cursors.get(s) ?? 0) >= this.#head(s));
    const after = (s: string): number => cursors.get(s) ?? 0;
    const id = (): string => streams.map((s) => `${s}:${after(s)}`).join();
    if (q.headers.accept !== "text/event-stream") {
      this.seen.push(`poll ${afters}`);
      const ready = (): WireEvent[] => streams.flatMap((s) => (this.logs.get(s) ?? []).filter((e) => e.seq > after(s)));
      const answer = (): void => {
        if (gone.signal.aborted) return;
        clearTimeout(timer);
        this.#watchers.delete(look);
        const events = ready().slice(0, this.faults.cutEvery || 1000);
        for (const e of events) cursors.set(e.stream, e.seq);
        const { move } = this.faults;
        this.faults.move = undefined;
        json(200, { events, cursor: id(), done: done(), cache: this.generation, ...(move !== undefined ? { retry_after_ms: move } : {}) });
      };
      const look = (): void => { if (ready().length > 0) answer(); };
      const timer = setTimeout(answer, parseInt(url.searchParams.get("wait") ?? "0", 10));
      gone.signal.addEventListener("abort", () => { clearTimeout(timer); this.#watchers.delete(look); });
      if (done() || ready().length > 0) answer();
      else this.#watchers.add(look);
      return;
    }
    this.seen.push(`sse ${afters}`);
    if (this.faults.sse === "refuse") { r.writeHead(502).end("<h1>Bad gateway</h1>"); return; }
    if (this.faults.sse === "buffer") return;
    if (done()) { r.writeHead(204).end(); return; }
    r.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store, no-transform" });
    r.write(`retry: 30\n:${" ".repeat(2048)}\nid: ${id()}\nevent: welcome\ndata: ${JSON.stringify({ node: "fake-1", heartbeat_ms: this.heartbeatMs, max_streams: this.maxStreams, cache: this.generation })}\n\n`);
    this.#told(() => { r.write(`event: cache\ndata: ${JSON.stringify({ cache: this.generation })}\n\n`); }, gone.signal);
    if (this.faults.silent) return;
    let sent = 0;
    for (const s of streams) {
      this.#follow(s, after(s), gone.signal, (list) => {
        for (const e of list) {
          cursors.set(s, e.seq);
          r.write(`id: ${id()}\ndata: ${JSON.stringify(e)}\n\n`);
        }
        sent += list.length;
        if (this.faults.cutEvery > 0 && sent >= this.faults.cutEvery) {
          gone.abort();
          setImmediate(() => { r.destroy(); });
          return false;
        }
        if (done()) { r.end(); return false; }
        return true;
      });
    }
  }
}
