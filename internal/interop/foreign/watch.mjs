// Two clients of one stream, as a user of EventSource or WebSocket writes them,
// without anything of Athena's. The tests run them in Node with npm's classes
// and in a browser with its own. Each report is a line of JSON: {event}, the
// event's JSON; {welcome}; {lost}, the connection broke; {end}, nothing follows.

export function watchEventSource(EventSource, url, report) {
  const tell = (what) => report(JSON.stringify(what));
  const source = new EventSource(url);
  source.addEventListener("welcome", (e) => tell({ welcome: JSON.parse(e.data), id: e.lastEventId }));
  source.addEventListener("message", (e) => tell({ event: e.data, id: e.lastEventId }));
  // It reconnects by itself; the server's 204 makes it stop.
  source.addEventListener("error", () => tell(source.readyState === EventSource.CLOSED ? { end: true } : { lost: true }));
}

export function watchWebSocket(WebSocket, url, stream, report) {
  const tell = (what) => report(JSON.stringify(what));
  let after = 0;
  let ended = false;
  const connect = () => {
    const ws = new WebSocket(url, "athena.v1");
    ws.addEventListener("message", (m) => {
      const message = JSON.parse(m.data);
      for (const x of Array.isArray(message) ? message : [message]) {
        if ("seq" in x) {
          after = x.seq;
          tell({ event: JSON.stringify(x) });
          if (["completed", "failed", "cancelled"].includes(x.type)) {
            ended = true;
            ws.close(1000);
          }
        } else if (x.type === "welcome") {
          tell({ welcome: x });
          ws.send(JSON.stringify({ type: "subscribe", id: "1", stream, after }));
        } else if (x.type === "error") {
          tell({ error: x.error });
        }
      }
    });
    ws.addEventListener("error", () => {}); // a close follows
    ws.addEventListener("close", (e) => {
      if (ended) {
        tell({ end: true, code: e.code });
      } else {
        tell({ lost: true, code: e.code });
        setTimeout(connect, 50);
      }
    });
  };
  connect();
}
