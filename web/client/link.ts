import type { AthenaEvent, TransportName, Welcome } from "./events.js";
import type { LinkError } from "./errors.js";

/** A stream to deliver, and the cursor after which. */
export interface Wanted { stream: string; after: number }

/** What a link tells its owner. After `ended` it tells nothing more. */
export interface LinkSink {
  /** The link has proven itself. Comes before everything else. */
  opened(link: Link): void;
  /** Events of any of the streams, each stream's in its order. */
  events(list: AthenaEvent[]): void;
  /** Bytes arrived, if only a heartbeat. */
  received(bytes: number): void;
  /** A stream's head may be at its cursor: if it has ended, nothing will follow. */
  atHead(stream: string): void;
  /** A message that may tell which generation of cached answers is good. */
  told(message: unknown): void;
  /** One stream can't be delivered, while the link goes on with the others. */
  refused(stream: string, why: LinkError): void;
  ended(why: LinkError): void;
}

/** One connection that has proven itself and delivers any number of streams. */
export interface Link {
  readonly transport: TransportName;
  /** Absent on long-poll, which has no greeting. */
  readonly welcome: Welcome | undefined;
  /** Delivers one more of the wanted streams. */
  add(stream: string): void;
  /** Delivers a stream no longer. */
  remove(stream: string): void;
  /** Hands over a fresh token, where a connection outlives one. */
  authenticate(token: string): void;
  /** Ends the connection without a word; the sink hears nothing more. */
  abort(): void;
}

/** What an opener needs. */
export interface LinkParams {
  url: URL;
  /** The streams to deliver with their cursors, as they are at the time of asking. */
  wanted: () => Wanted[];
  headers: () => Promise<Record<string, string>>;
  ticket: string | undefined;
  heartbeatMs: number;
  /** Fires when the connection hasn't proven itself in time, or isn't wanted any more. */
  probe: AbortSignal;
  fetch: typeof fetch;
  /** Undefined only where no WebSocket is to be opened. */
  WebSocket: WebSocketConstructor | undefined;
}

/** Opens a link, and resolves when it has proven itself. Rejects with a LinkError, or with the probe's reason. */
export type Opener = (params: LinkParams, sink: LinkSink) => Promise<Link>;

/** The part of the platform's WebSocket that is used; npm's `ws` has it too. */
export interface WebSocketLike {
  addEventListener(type: "message", listener: (ev: { data: unknown }) => void): void;
  addEventListener(type: "close", listener: (ev: { code: number; reason: string }) => void): void;
  addEventListener(type: "error", listener: () => void): void;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}
/** A class whose instances are such WebSockets. */
export type WebSocketConstructor = new (url: string, protocols?: string | string[]) => WebSocketLike;
