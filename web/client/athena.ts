import type { AnswerStore, Asked } from "./answers.js";
import { Backoff, sleep, type BackoffOptions } from "./backoff.js";
import { asLinkError, AthenaError, LinkError, problem, refusedBy } from "./errors.js";
import { isObject, parseNegotiation, type AnalysisRequest, type AthenaEvent, type JSONObject, type Negotiation, type Offer, type TransportName } from "./events.js";
import { problemIn } from "./fetched.js";
import { Line, type Carrier, type Carry, type Connection, type LineHost, type Sharing, type TransportChoice, type Viewer } from "./line.js";
import type { LinkParams, LinkSink, WebSocketConstructor } from "./link.js";
import { openFirst, TransportMemory, type SessionStore } from "./negotiate.js";
import { Run } from "./run.js";
import { Credentials, identityOf, type TokenSource } from "./token.js";

export interface AthenaOptions {
  /** Where the hub is. Default: where the page came from. */
  url?: string | URL;
  /** An API key or token, or what gets one; asked again with `renew` before it ends, and when the server says that it has. */
  token?: string | TokenSource;
  /** Only this transport, where the server offers it, instead of the first that works. "websocket" without a WebSocket is a TypeError. */
  forceTransport?: TransportChoice;
  /** For platforms without their own, such as Node 20 (npm `ws`). */
  WebSocket?: WebSocketConstructor;
  fetch?: typeof fetch;
  /** Where to remember which transport worked. Default sessionStorage, where there is one. */
  storage?: SessionStore;
  backoff?: BackoffOptions;
  /** Finished answers, which equal requests get again; `new AnswerCache()` of `athena-client/cache`. Default none. */
  cache?: AnswerStore;
  /** Shares the connection with other tabs; `new Tabs()` of `athena-client/tabs`. Default each tab has its own. */
  share?: Sharing;
  /** Whose answers and connections these are, where the token doesn't tell: sharing is only among the same. */
  identity?: string;
  /** How long to stay with what is not the best transport before trying the better again. Default 3 minutes. */
  retryBetterMs?: number;
}

export interface WatchOptions {
  /** The cursor to begin after. Default 0, the whole stream. */
  after?: number;
  /** Stops watching; it does not cancel the analysis. */
  signal?: AbortSignal;
  forceTransport?: TransportChoice;
}

const requestTimeoutMs = 15_000;
const startAttempts = 6;
/** For how long what the hub said of cached answers is believed, and how long it is waited for. */
const generationMs = 60_000;
const generationWaitMs = 2_000;

/** A client of one hub. */
export class Athena {
  readonly #base: URL;
  readonly #options: AthenaOptions;
  readonly #fetch: typeof fetch;
  readonly #memory: TransportMemory;
  readonly #retryBetterMs: number;
  #negotiation: Negotiation | undefined;
  /** The generation of cached answers that the hub told last, and when; "" for none. */
  #generation = "";
  #toldAt = -Infinity;
  readonly #credentials: Credentials;
  readonly #lines = new Set<Line>();
  readonly #host: LineHost;
  #shared: Carry | undefined;
  /** Ends the waits of those who would try a better transport later. */
  #network = new AbortController();

  constructor(options: AthenaOptions = {}) {
    this.#options = options;
    const url = options.url ?? (typeof location === "undefined" ? undefined : new URL(".", location.href));
    if (url === undefined) throw new TypeError("Athena needs the url of a hub");
    this.#base = new URL(url);
    if (!this.#base.pathname.endsWith("/")) this.#base.pathname += "/";
    this.#base.search = this.#base.hash = "";
    this.#fetch = options.fetch ?? ((input, init) => fetch(input, init));
    this.#retryBetterMs = options.retryBetterMs ?? 3 * 60_000;
    this.#memory = new TransportMemory(options.storage ?? pageStore(), this.#retryBetterMs);
    this.#credentials = new Credentials(options.token);
    this.#host = {
      connect: (...args) => this.#connect(...args),
      metadata: (id, signal) => this.metadata(id, signal),
      renew: async () => this.#credentials.renewable && (await this.#credentials.get(true)) !== undefined,
      freshTokens: (use, signal) => this.#credentials.fresh(use, signal),
      told: (m) => { this.#told(m); },
      backoff: () => new Backoff(this.#options.backoff),
      idle: (line) => { this.#lines.delete(line); if (this.#lines.size === 0) this.#listen(false); },
    };
  }

  /** Starts an analysis and watches it. A retried start never starts a second one. */
  analyze(request: AnalysisRequest, options: Omit<WatchOptions, "after"> = {}): Run {
    const { cache } = this.#options;
    if (!cache || (request.cache ?? "use") === "bypass") return this.#run((signal) => this.#start(request, signal), options);
    request = structuredClone(request); // its owner may use it again meanwhile
    let asked: Asked | undefined;
    let kept: readonly AthenaEvent[] | undefined;
    const run = this.#run(async (signal) => {
      const generation = await this.#currentGeneration(signal);
      asked = { hub: this.#base.href, identity: await this.#identity(), request, generation };
      if ((request.cache ?? "use") === "use") kept = await cache.find(asked).catch(() => undefined);
      signal.throwIfAborted();
      return kept?.[0]?.stream ?? this.#start(request, signal);
    }, options, (...args) => {
      if (!kept) return this.#carry(...args);
      const list = [...kept];
      queueMicrotask(() => { args[1].events(list); });
      return { remove: ignore, cut: ignore, reconnectNow: ignore, choose: () => true };
    });
    run.finished().then(() => (asked && !kept && asked.generation === this.#generation ? cache.keep(asked, run.transcript) : undefined)).catch(ignore);
    return run;
  }

  /** Asks the hub, unless it has told of late. Where it can't be reached, what it told last is good. */
  async #currentGeneration(signal: AbortSignal): Promise<string> {
    if (Date.now() - this.#toldAt > generationMs) await this.#negotiate(true, AbortSignal.any([signal, AbortSignal.timeout(generationWaitMs)])).catch(ignore);
    signal.throwIfAborted();
    return this.#generation;
  }

  #told(message: unknown): void {
    const name = isObject(message) ? message["cache"] : undefined;
    if (typeof name !== "string") return;
    this.#toldAt = Date.now();
    if (name === this.#generation) return;
    this.#generation = name;
    this.#options.cache?.drop(this.#base.href, name).catch(ignore);
  }

  /** Watches a stream that someone has started. */
  watch(stream: string, options: WatchOptions = {}): Run {
    return this.#run(stream, options);
  }

  /** The answer of GET /v1/providers, as it is. */
  async providers(signal?: AbortSignal): Promise<unknown> {
    return this.#json("GET", "v1/providers", signal);
  }

  /** The keys that the server calls a provider with, of which it tells all but the key; for administrators. */
  async providerKeys(provider: string, signal?: AbortSignal): Promise<unknown> {
    return this.#json("GET", keysPath(provider), signal);
  }

  /** Gives the server a key for a provider, on all its nodes, and resolves with what the provider says of it. */
  async setProviderKey(provider: string, id: string, key: string, weight = 1, signal?: AbortSignal): Promise<unknown> {
    return this.#json("PUT", keysPath(provider, id), signal, { key, weight });
  }

  /** Takes away a key that was set so. */
  async deleteProviderKey(provider: string, id: string, signal?: AbortSignal): Promise<void> {
    await this.#json("DELETE", keysPath(provider, id), signal);
  }

  /** Has the provider asked whether it takes a key. */
  async checkProviderKey(provider: string, id: string, signal?: AbortSignal): Promise<unknown> {
    return this.#json("POST", `${keysPath(provider, id)}/check`, signal);
  }

  /** Metadata of a stream. */
  async metadata(stream: string, signal?: AbortSignal): Promise<JSONObject> {
    const m = await this.#json("GET", `v1/streams/${encodeURIComponent(stream)}`, signal);
    if (!isObject(m)) throw new AthenaError(problem("invalid_response", "The server's answer is malformed"));
    return m;
  }

  /** The transports that the server offers, the best first. */
  async transports(signal?: AbortSignal): Promise<TransportName[]> {
    try {
      return (await this.#negotiate(false, signal)).offers.map((o) => o.name);
    } catch (e) {
      throw asAthenaError(e);
    }
  }

  #run(stream: string | ((signal: AbortSignal) => Promise<string>), o: WatchOptions, carry = this.#carry): Run {
    return new Run({
      carry,
      check: (choice) => {
        if (choice === "websocket" && !this.#webSocket) throw new TypeError("This platform has no WebSocket: pass a class, such as npm's ws");
      },
      cancel: async (id, signal) => { await this.#json("DELETE", `v1/streams/${encodeURIComponent(id)}`, signal); },
    }, stream, o.after ?? 0, o.forceTransport ?? this.#options.forceTransport ?? "auto", o.signal);
  }

  readonly #carry = (stream: string, viewer: Viewer, choice: TransportChoice): Carrier => {
    const { share } = this.#options;
    if (!share || choice !== "auto") return this.#line(stream, viewer, choice);
    this.#shared ??= share.join(this.#identity().then((who) => `${this.#base.href} ${who}`), (s, v) => this.#line(s, v, "auto"));
    return this.#shared(stream, viewer);
  };

  async #identity(): Promise<string> {
    return this.#options.identity ?? identityOf(await this.#credentials.get());
  }

  /** Finds room on a line, or makes one more: a page has one as long as that suffices. */
  #line(stream: string, viewer: Viewer, choice: TransportChoice): Carrier {
    for (const line of this.#lines) if (line.choice === choice && line.add(stream, viewer)) return line;
    const line = new Line(this.#host, choice);
    if (this.#lines.size === 0) this.#listen(true);
    this.#lines.add(line);
    line.add(stream, viewer);
    return line;
  }

  /** Follows what the browser tells of the network and the page, while there are lines. */
  #listen(on: boolean): void {
    if (typeof document === "undefined") return; // React Native has a window that tells nothing
    const change = on ? "addEventListener" : "removeEventListener";
    for (const type of ["online", "pagehide", "pageshow"]) window[change](type, this.#heard);
    for (const type of ["visibilitychange", "resume"]) document[change](type, this.#heard);
  }

  readonly #heard = (e: Event): void => {
    if (e.type === "online") {
      this.#memory.forget(); // another network may let through what the last one didn't
      this.#network.abort();
      this.#network = new AbortController();
    }
    for (const line of [...this.#lines]) {
      if (e.type === "pagehide") line.suspend();
      else if (e.type === "pageshow") line.resume();
      else if (e.type === "online") line.reconnectNow();
      else line.checkSilence();
    }
  };

  /** Resolves a path of the hub; undefined for another origin, which must not get the token. */
  #resolve(path: string): URL | undefined {
    const url = new URL(path.replace(/^\/+/, ""), this.#base);
    return url.origin === this.#base.origin ? url : undefined;
  }

  get #webSocket(): WebSocketConstructor | undefined { return this.#options.WebSocket ?? globalThis.WebSocket; }

  readonly #headers = async (): Promise<Record<string, string>> => {
    const token = await this.#credentials.get();
    return token ? { Authorization: `Bearer ${token}` } : {};
  };

  /** One request; failures are LinkErrors that say what to do about them. */
  async #request(method: string, path: string, signal: AbortSignal | undefined, init: RequestInit = {}): Promise<Response> {
    const timeout = AbortSignal.timeout(requestTimeoutMs);
    try {
      const r = await this.#fetch(new URL(path, this.#base), {
        ...init, method,
        headers: { Accept: "application/json", ...(await this.#headers()), ...(init.headers as Record<string, string> | undefined) },
        signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
        cache: "no-store",
      });
      if (r.ok) return r;
      throw refusedBy(await problemIn(r));
    } catch (e) {
      signal?.throwIfAborted();
      throw asLinkError(e, `${method} ${path}: `);
    }
  }

  async #json(method: string, path: string, signal?: AbortSignal, body?: object): Promise<unknown> {
    const init = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
    try {
      const r = await this.#request(method, path, signal, init);
      const text = await r.text();
      return text === "" ? undefined : (JSON.parse(text) as unknown);
    } catch (e) {
      throw asAthenaError(e);
    }
  }

  async #start(request: AnalysisRequest, signal: AbortSignal): Promise<string> {
    const body = JSON.stringify(request);
    const headers = { "Content-Type": "application/json", "Idempotency-Key": randomKey() };
    const backoff = new Backoff(this.#options.backoff);
    let renewed = false;
    for (let attempt = 1; ; attempt++) {
      try {
        const r = await this.#request("POST", "v1/analyses", signal, { body, headers });
        const m: unknown = await r.json();
        if (isObject(m) && typeof m["id"] === "string") return m["id"];
        throw new LinkError("stop", "the server's answer has no id");
      } catch (e) {
        signal.throwIfAborted();
        const why = asLinkError(e);
        if (why.remedy === "credentials" && !renewed) {
          renewed = await this.#host.renew();
          if (renewed) continue;
        }
        if (why.remedy !== "reconnect" || attempt === startAttempts) throw asAthenaError(why);
        await sleep(backoff.next(why.afterMs), signal);
      }
    }
  }

  async #negotiate(fresh: boolean, signal: AbortSignal | undefined): Promise<Negotiation> {
    // A ticket is good for one connection.
    if (this.#negotiation && !fresh && this.#negotiation.ticket === undefined) return this.#negotiation;
    const r = await this.#request("POST", "v1/negotiate", signal);
    try {
      const m: unknown = await r.json();
      const n = this.#negotiation = parseNegotiation(m);
      if (!this.#webSocket) n.offers = n.offers.filter((o) => o.name !== "websocket");
      this.#told(m);
    } catch (e) {
      signal?.throwIfAborted();
      throw asLinkError(e, "negotiation: ");
    }
    return this.#negotiation;
  }

  async #connect(line: Line, fresh: boolean, sink: LinkSink, signal: AbortSignal): Promise<Connection> {
    const n = await this.#negotiate(fresh, signal);
    const chosen = n.offers.filter((o) => o.name === line.choice);
    const auto = chosen.length === 0; // what isn't offered can't be insisted on
    const offers = auto ? this.#memory.order(n.offers) : chosen;
    line.limit(n.maxStreams);
    const link = await openFirst(offers, n.probeTimeoutMs, signal, sink, this.#params(n, line));
    if (auto) this.#memory.worked(link.transport);
    const best = n.offers[0];
    return {
      heartbeatMs: link.welcome?.heartbeatMs || n.heartbeatMs,
      better: async (live) => {
        if (!auto || !best || best.name === link.transport) return false;
        await this.#tryBetter(best.name, line, live);
        return true;
      },
    };
  }

  #params(n: Negotiation, line: Line): (o: Offer) => Omit<LinkParams, "probe"> {
    return (o) => {
      const url = this.#resolve(o.url);
      if (!url) throw new LinkError("reconnect", `${o.name} is offered on another origin`);
      return {
        url, wanted: () => line.wanted(), headers: this.#headers, ticket: n.ticket, heartbeatMs: n.heartbeatMs, fetch: this.#fetch,
        WebSocket: this.#webSocket,
      };
    };
  }

  /** Resolves when the transport has proven itself, trying every few minutes and when the network has changed. */
  async #tryBetter(name: string, line: Line, signal: AbortSignal): Promise<void> {
    const nobody: LinkSink = { opened: ignore, events: ignore, received: ignore, told: ignore, atHead: ignore, refused: ignore, ended: ignore };
    for (;;) {
      await sleep(this.#retryBetterMs, signal, this.#network.signal);
      try {
        const n = await this.#negotiate(true, signal);
        const offer = n.offers.find((o) => o.name === name);
        if (!offer) continue;
        const probe = await openFirst([offer], n.probeTimeoutMs, signal, nobody, this.#params(n, line));
        probe.abort();
        this.#memory.worked(offer.name);
        return;
      } catch {
        signal.throwIfAborted(); // otherwise: not yet
      }
    }
  }
}

const ignore = (): void => undefined;

function keysPath(provider: string, id?: string): string {
  const all = `v1/providers/${encodeURIComponent(provider)}/keys`;
  return id === undefined ? all : `${all}/${encodeURIComponent(id)}`;
}

/** A connection's error as one of the hub; others as they are. */
function asAthenaError(e: unknown): unknown {
  if (!(e instanceof LinkError)) return e;
  return new AthenaError(e.problem ?? problem("connection_failed", "The hub could not be reached", e.message));
}

function pageStore(): SessionStore | undefined {
  try {
    return typeof sessionStorage === "undefined" ? undefined : sessionStorage;
  } catch {
    return undefined; // the browser forbids it
  }
}

/** crypto.randomUUID is missing on pages that came over plain HTTP. */
function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}
