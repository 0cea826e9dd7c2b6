import { asLinkError, LinkError, refusedBy, remedyFor } from "./errors.js";
import { isObject, parseEvent, parseProblem, parseWelcome, type AthenaEvent, type JSONObject } from "./events.js";
import type { Link, Opener, WebSocketLike } from "./link.js";

/** A stream's subscription: the id of its command, and whether that was answered. */
interface Subscription { id: string; after: number; live: boolean }

/** What its errors begin with. */
const of = "WebSocket: ";

/** Opens a WebSocket, and subscribes to the streams when the welcome has come. */
export const openWebSocket: Opener = (p, sink) => new Promise<Link>((resolve, reject) => {
  const url = new URL(p.url);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  if (p.ticket !== undefined) url.searchParams.set("ticket", p.ticket);

  let ws: WebSocketLike;
  try {
    ws = new p.WebSocket!(url.href, "athena.v1");
  } catch (e) {
    reject(asLinkError(e, of));
    return;
  }
  let open = false; // proven
  let over = false;
  let quiet: ReturnType<typeof setTimeout> | undefined;
  let commands = 0;
  const subscriptions = new Map<string, Subscription>();

  const send = (command: object): string => {
    const id = String(++commands);
    try {
      ws.send(JSON.stringify({ ...command, id }));
    } catch (e) { // Deno's and workerd's throw while they close
      end(asLinkError(e, of));
    }
    return id;
  };
  const abort = (): void => {
    over = true;
    clearTimeout(quiet);
    p.probe.removeEventListener("abort", giveUp);
    ws.close();
  };
  const end = (why: LinkError): void => {
    if (over) return;
    abort();
    if (open) sink.ended(why);
    else reject(why);
  };
  const giveUp = (): void => {
    if (over || open) return;
    abort();
    reject(p.probe.reason);
  };
  ws.addEventListener("error", () => undefined); // a close follows, and says more
  p.probe.addEventListener("abort", giveUp);
  if (p.probe.aborted) { giveUp(); return; }

  // A browser doesn't show scripts the pings: when nothing has come for longer
  // than a heartbeat, ask.
  const listen = (): void => {
    clearTimeout(quiet);
    quiet = setTimeout(() => { send({ type: "ping" }); }, p.heartbeatMs * 1.5);
  };

  // What still comes of an earlier subscription to a stream is not taken for
  // the newest one's: only after the answer to its command do events count.
  const add = (stream: string): void => {
    const after = p.wanted().find((w) => w.stream === stream)?.after;
    if (over || after === undefined) return;
    subscriptions.set(stream, { id: send({ type: "subscribe", stream, after }), after, live: false });
  };
  const link = (m: JSONObject): Link => ({
    transport: "websocket", welcome: parseWelcome(m), abort, add,
    remove: (stream) => { if (!over && subscriptions.delete(stream)) send({ type: "unsubscribe", stream }); },
    authenticate: (token) => { if (!over) send({ type: "authenticate", token }); },
  });

  const failed = (m: JSONObject): void => {
    const why = refusedBy(parseProblem(m["error"]));
    if (m["id"] === undefined && m["stream"] === undefined) { end(why); return; }
    for (const [stream, s] of subscriptions) {
      if (m["id"] === undefined ? m["stream"] !== stream : m["id"] !== s.id) continue;
      subscriptions.delete(stream);
      if (why.remedy === "credentials") end(why);
      else sink.refused(stream, why);
      return;
    }
  };

  const control = (m: JSONObject): void => {
    switch (m["type"]) {
      case "welcome": {
        if (open) return;
        open = true;
        p.probe.removeEventListener("abort", giveUp);
        const opened = link(m);
        for (const w of p.wanted()) add(w.stream);
        sink.opened(opened);
        sink.told(m);
        resolve(opened);
        return;
      }
      case "reconnect": {
        const after = typeof m["after_ms"] === "number" ? m["after_ms"] : undefined;
        end(new LinkError("reconnect", `the server asks to move (${String(m["reason"] ?? "no reason given")})`, after));
        return;
      }
      case "cache":
        sink.told(m);
        return;
      case "error":
        failed(m);
        return;
      case "subscribed":
        for (const [stream, s] of subscriptions) {
          if (s.id !== m["id"]) continue;
          s.live = true;
          if (m["head"] === s.after && s.after > 0) sink.atHead(stream);
        }
        return;
    }
  };

  ws.addEventListener("close", (ev) => {
    const remedy = open || ev.code >= 4000 ? remedyFor(ev.code) : "reconnect"; // a proxy may send 1008
    end(new LinkError(remedy, `the WebSocket closed with ${ev.code}${ev.reason ? ` (${ev.reason})` : ""}`));
  });
  ws.addEventListener("message", (ev) => {
    if (over) return;
    try {
      if (typeof ev.data !== "string") throw new Error("a message is not text");
      sink.received(ev.data.length);
      listen();
      const m: unknown = JSON.parse(ev.data);
      const list: unknown[] = Array.isArray(m) ? m : [m];
      const events: AthenaEvent[] = [];
      for (const x of list) {
        if (!isObject(x)) throw new Error("a message is not an object");
        if (!("seq" in x)) control(x);
        else if (typeof x["stream"] === "string" && subscriptions.get(x["stream"])?.live) events.push(parseEvent(x));
      }
      if (events.length > 0 && !over) sink.events(events);
    } catch (e) {
      end(asLinkError(e, of));
    }
  });
});
