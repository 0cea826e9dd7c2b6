// node node.mjs eventsource URL | node node.mjs ws URL STREAM
import { EventSource } from "eventsource";
import WebSocket from "ws";
import { watchEventSource, watchWebSocket } from "./watch.mjs";

const [client, url, stream] = process.argv.slice(2);
const report = (line) => process.stdout.write(line + "\n");
if (client === "ws") watchWebSocket(WebSocket, url, stream, report);
else watchEventSource(EventSource, url, report);
