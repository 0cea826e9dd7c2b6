import type { AthenaEvent, TransportName, Welcome } from "./events.js";
import type { LinkError } from "./errors.js";

/** What a link tells its owner. After `ended` it tells nothing more. */
export interface LinkSink {
  /** Events, in the order of the stream. */
  events(list: AthenaEvent[]): void;
  /** Bytes arrived, if only a heartbeat. */
  received(bytes: number): void;
  /** The stream's head is at the cursor: if it has ended, nothing will follow. */
  atHead(): void;
  ended(why: LinkError): void;
}

/** One connection that has proven itself and delivers one stream. */
export interface Link {
  readonly transport: TransportName;
  /** Absent on long-poll, which has no greeting. */
  readonly welcome: Welcome | undefined;
  /** Ends the connection without a word; the sink hears nothing more. */
  abort(): void;
}

/** What an opener needs. */
export interface LinkParams {
  url: URL;
  stream: string;
  after: number;
  headers: () => Promise<Record<string, string>>;
  ticket: string | undefined;
  heartbeatMs: number;
  /** Fires when the connection hasn't proven itself in time, or isn't wanted any more. */
  probe: AbortSignal;
  fetch: typeof fetch;
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
export type WebSocketConstructor = new (url: string, protocols?: string | string[]) => WebSocketLike;
