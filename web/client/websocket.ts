import { LinkError, remedyFor, remedyOf } from "./errors.js";
import { isObject, parseEvent, parseProblem, parseWelcome, type AthenaEvent, type JSONObject } from "./events.js";
import type { Link, Opener } from "./link.js";

const commandID = "watch";

/** Opens a WebSocket, and subscribes to the stream when the welcome has come. */
export const openWebSocket: Opener = (p, sink) => new Promise<Link>((resolve, reject) => {
  if (!p.WebSocket) { reject(new LinkError("reconnect", "this platform has no WebSocket")); return; }
  const url = new URL(p.url);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  if (p.ticket !== undefined) url.searchParams.set("ticket", p.ticket);

  let ws: InstanceType<typeof p.WebSocket>;
  try {
    ws = new p.WebSocket(url.href, "athena.v1");
  } catch (e) {
    reject(new LinkError("reconnect", `WebSocket: ${e instanceof Error ? e.message : String(e)}`));
    return;
  }
  let open = false; // proven
  let over = false;
  let quiet: ReturnType<typeof setTimeout> | undefined;

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
    quiet = setTimeout(() => { ws.send('{"type":"ping"}'); }, p.heartbeatMs * 1.5);
  };

  const control = (m: JSONObject): void => {
    switch (m["type"]) {
      case "welcome":
        if (open) return;
        open = true;
        p.probe.removeEventListener("abort", giveUp);
        ws.send(JSON.stringify({ type: "subscribe", id: commandID, stream: p.stream, after: p.after }));
        resolve({ transport: "websocket", welcome: parseWelcome(m), abort });
        return;
      case "reconnect": {
        const after = typeof m["after_ms"] === "number" ? m["after_ms"] : undefined;
        end(new LinkError("reconnect", `the server asks to move (${String(m["reason"] ?? "no reason given")})`, after));
        return;
      }
      case "error": {
        const problem = parseProblem(m["error"]);
        end(new LinkError(remedyOf(problem), problem.title, problem.retry_after_ms, problem));
        return;
      }
      case "subscribed":
        if (m["head"] === p.after && p.after > 0) sink.atHead();
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
        if ("seq" in x) {
          if (x["stream"] === p.stream) events.push(parseEvent(x));
        } else {
          control(x);
        }
      }
      if (events.length > 0 && !over) sink.events(events);
    } catch (e) {
      end(new LinkError("reconnect", `WebSocket: ${e instanceof Error ? e.message : String(e)}`));
    }
  });
});
