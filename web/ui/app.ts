/** The page: an editor, the results of one run, and the state of its connection. */
import { Athena, type AnalysisKind, type AnalysisRequest, type Run, type RunStatus, type TransportChoice } from "../client/index.js";
import { byID } from "./dom.js";
import { Editor } from "./editor.js";
import { example } from "./example.js";
import { KeyPanel } from "./keypanel.js";
import { Panel } from "./panel.js";
import { describeFailure, needsKey } from "./problems.js";
import { readProviders, type ProviderStatus } from "./providers.js";
import { Results } from "./results.js";

const keyItem = "athena.key";
const themeItem = "athena.theme";
const themes = ["system", "light", "dark"] as const;
const languages = ["Go", "JavaScript", "TypeScript", "Python", "Java", "C", "C++", "C#", "Rust", "PHP", "Ruby", "Kotlin", "Swift", "Shell", "SQL", "HTML"];
const transportLabels = { websocket: "WebSocket", sse: "SSE", "long-poll": "long-poll" } as const;
const stateLabels: Record<RunStatus["state"], string> = {
  starting: "Starting", connecting: "Connecting", live: "Live", waiting: "Reconnecting", ended: "Ended", failed: "Failed",
};
const narrow = "(max-width: 820px)"; // as in app.css: the results are below the code

const el = {
  run: byID("run", HTMLButtonElement), stop: byID("stop", HTMLButtonElement), cut: byID("cut", HTMLButtonElement),
  copy: byID("copy", HTMLButtonElement), share: byID("share", HTMLButtonElement),
  analysis: byID("analysis", HTMLSelectElement), language: byID("language", HTMLSelectElement),
  provider: byID("provider", HTMLSelectElement), model: byID("model", HTMLSelectElement), transport: byID("transport", HTMLSelectElement),
  promptRow: byID("prompt-row", HTMLElement), prompt: byID("prompt", HTMLInputElement),
  filename: byID("filename", HTMLElement), file: byID("file", HTMLInputElement),
  keyForm: byID("key-form", HTMLFormElement), key: byID("key", HTMLInputElement),
  job: byID("job", HTMLElement), dot: byID("dot", HTMLElement), state: byID("state", HTMLElement), code: byID("code", HTMLTextAreaElement),
};

let current: Run | undefined;
/** Whether the current run was started here, and isn't only watched. */
let own = false;
/** What has to be over before the current run may be closed. */
let stopping: Promise<void> = Promise.resolve();
let choices: ProviderStatus[] = [];
let afterKey: (() => void) | undefined;

const athena = new Athena({ token: () => stored(sessionStorage, keyItem) });
const editor = new Editor(el.code, byID("gutter", HTMLElement), byID("editor", HTMLElement),
  (name) => { el.filename.textContent = name; }, (why) => { results.fail(why); });
const results = new Results((f) => { editor.select(f); });
const panel = new Panel(async () => readProviders(await athena.providers()));
const keyPanel = new KeyPanel(athena);

function stored(store: Storage, item: string): string | undefined {
  return store.getItem(item) || undefined;
}

function show(run: Run, started: boolean): void {
  const last = current;
  void stopping.then(() => { last?.close(); }); // closed sooner, it would cancel nothing
  stopping = Promise.resolve();
  current = run;
  own = started;
  results.begin(run);
  el.stop.disabled = el.cut.disabled = el.copy.disabled = false;
  el.share.disabled = true;
  el.job.textContent = "";
  run.started().then((id) => {
    if (run !== current) return;
    history.replaceState(null, "", `#stream=${id}`);
    el.share.disabled = false;
    el.job.textContent = `${id.slice(0, 10)}…`;
    el.job.title = id;
  }, () => undefined); // follow reports it
  run.onStatus((s) => { if (run === current) showStatus(s); });
  void follow(run);
}

async function follow(run: Run): Promise<void> {
  try {
    for await (const e of run) if (run === current) results.event(e);
    if (run === current && !run.terminal()) results.say("This stream has ended.");
  } catch (e) {
    if (run !== current) return;
    if (e instanceof DOMException && e.name === "AbortError") return; // closed
    if (needsKey(e)) { askForKey(retry(run, own)); return; }
    results.fail(describeFailure(e));
    results.say("");
  } finally {
    if (run === current) {
      el.stop.disabled = el.cut.disabled = true;
      panel.refresh(); // what the run has used is known now
    }
  }
}

/** What to do once there is a key: watch on what was watched, or start again. */
function retry(run: Run, started: boolean): () => void {
  const id = run.id;
  return id === undefined ? start : () => { show(athena.watch(id, { forceTransport: transportChoice() }), started); };
}

let drawn = 0;
let newest: RunStatus | undefined;
/** Shows the newest status at the next frame: it changes with every message. */
function showStatus(s: RunStatus): void {
  newest = s;
  if (drawn !== 0) return;
  drawn = requestAnimationFrame(() => {
    drawn = 0;
    const n = newest;
    if (!n) return;
    el.dot.dataset["state"] = n.state;
    const wait = n.state === "waiting" && n.waitMs >= 1000 ? ` in ${Math.round(n.waitMs / 1000)} s` : "";
    set(el.state, stateLabel(n) + wait);
    el.state.title = n.reason;
    if (n.transport) set(byID("s-transport", HTMLElement), transportLabels[n.transport]);
    if (n.node) set(byID("s-node", HTMLElement), n.node);
    set(byID("s-cursor", HTMLElement), String(n.cursor));
    set(byID("s-events", HTMLElement), String(n.events));
    set(byID("s-bytes", HTMLElement), size(n.bytes));
    set(byID("s-reconnects", HTMLElement), String(n.reconnects));
    el.cut.disabled = n.state !== "live";
  });
}

function stateLabel(s: RunStatus): string {
  const t = current?.terminal();
  if (s.state !== "ended" || t?.type !== "cancelled") return stateLabels[s.state];
  return t.data.by === "client" ? "Stopped" : "Cancelled";
}

function set(e: HTMLElement, text: string): void {
  if (e.textContent !== text) e.textContent = text;
}

function size(n: number): string {
  if (n < 1000) return `${n} B`;
  return n < 1e6 ? `${(n / 1e3).toFixed(1)} kB` : `${(n / 1e6).toFixed(1)} MB`;
}

function transportChoice(): TransportChoice {
  const v = el.transport.value;
  return v === "websocket" || v === "sse" || v === "long-poll" ? v : "auto";
}

function start(): void {
  if (editor.code.trim() === "") {
    results.fail("There is no code yet: paste some, open a file, or take the example.");
    el.code.focus();
    return;
  }
  const analysis = el.analysis.value as AnalysisKind;
  if (analysis === "custom" && el.prompt.value.trim() === "") { el.prompt.focus(); return; }
  const request: AnalysisRequest = { code: editor.code, analysis, provider: el.provider.value };
  if (el.filename.textContent) request.filename = el.filename.textContent;
  if (el.language.value) request.language = el.language.value;
  if (el.model.value) request.model = el.model.value;
  if (analysis === "custom") request.prompt = el.prompt.value.trim();
  results.say("Starting…");
  show(athena.analyze(request, { forceTransport: transportChoice() }), true);
  if (matchMedia(narrow).matches) results.reveal();
}

function stop(): void {
  const run = current;
  if (!run || el.stop.disabled) return;
  el.stop.disabled = true;
  results.say("Stopping…");
  stopping = run.cancel().catch((e: unknown) => { // it waits for the id, if there is none yet
    if (run !== current || run.status.state === "failed") return; // follow has reported that
    el.stop.disabled = false;
    results.fail(describeFailure(e));
    results.say("");
  });
}

function askForKey(then: () => void): void {
  const wrong = stored(sessionStorage, keyItem) !== undefined;
  sessionStorage.removeItem(keyItem);
  results.say(wrong ? "The server did not accept this API key." : "This server needs an API key.");
  afterKey = then;
  el.keyForm.hidden = false;
  el.key.focus();
}

/** What there is to choose from. */
async function load(): Promise<void> {
  await loadProviders();
  if (el.keyForm.hidden) void loadTransports();
}

async function loadProviders(): Promise<void> {
  try {
    choices = readProviders(await athena.providers()).providers;
  } catch (e) {
    if (needsKey(e)) askForKey(() => undefined);
    return; // the choice stays automatic
  }
  el.provider.replaceChildren(new Option("Automatic", "auto"), ...choices.map((p) => new Option(p.name, p.name)));
  showModels();
}

/** Leaves no transport to choose that the server doesn't offer. */
async function loadTransports(): Promise<void> {
  let offered: readonly string[];
  try {
    offered = await athena.transports();
  } catch {
    return; // what isn't offered is not used, whatever is chosen
  }
  for (const o of el.transport.options) o.disabled = o.value !== "auto" && !offered.includes(o.value);
  if (!el.transport.selectedOptions[0]?.disabled) return;
  el.transport.value = "auto";
  current?.useTransport("auto");
}

function showModels(): void {
  const models = choices.find((p) => p.name === el.provider.value)?.models ?? [];
  el.model.replaceChildren(new Option("Default", ""), ...models.map((m) => new Option(m, m)));
  el.model.disabled = models.length === 0;
}

function watchHash(): void {
  const id = /^#stream=([0-9A-Z]{1,64})$/.exec(location.hash)?.[1];
  if (id !== undefined && id !== current?.id) show(athena.watch(id, { forceTransport: transportChoice() }), false);
}

function showTheme(): void {
  const t = themes.find((x) => x === stored(localStorage, themeItem)) ?? "system";
  if (t === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = t;
  const label = t === "system" ? "System" : t === "light" ? "Light" : "Dark";
  byID("theme-name", HTMLElement).textContent = label;
  byID("theme", HTMLButtonElement).setAttribute("aria-label", `Theme: ${label}`);
}

async function copied(button: HTMLButtonElement, text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    results.say(`${button.textContent}: done.`);
  } catch { // plain HTTP, or the user said no
    results.say("The browser does not allow copying here.");
  }
}

byID("example", HTMLButtonElement).addEventListener("click", () => { editor.set(example.code, example.filename); });
byID("open", HTMLButtonElement).addEventListener("click", () => { el.file.click(); });
el.file.addEventListener("change", () => {
  const f = el.file.files?.[0];
  if (f) void editor.open(f);
  el.file.value = "";
});
el.run.addEventListener("click", start);
el.stop.addEventListener("click", stop);
el.cut.addEventListener("click", () => { current?.disconnect(); });
el.copy.addEventListener("click", () => { void copied(el.copy, current?.text() ?? ""); });
el.share.addEventListener("click", () => { void copied(el.share, location.href); });
el.transport.addEventListener("change", () => { current?.useTransport(transportChoice()); });
el.provider.addEventListener("change", showModels);
el.analysis.addEventListener("change", () => { el.promptRow.hidden = el.analysis.value !== "custom"; });
el.keyForm.addEventListener("submit", (e) => {
  e.preventDefault();
  sessionStorage.setItem(keyItem, el.key.value.trim());
  el.key.value = "";
  el.keyForm.hidden = true;
  results.say("");
  void load().then(() => {
    if (!el.keyForm.hidden) return; // it was not the right one
    afterKey?.();
    afterKey = undefined;
  });
});
byID("theme", HTMLButtonElement).addEventListener("click", () => {
  const now = themes.findIndex((t) => t === stored(localStorage, themeItem));
  localStorage.setItem(themeItem, themes[(Math.max(now, 0) + 1) % themes.length] ?? "system");
  showTheme();
});
document.addEventListener("keydown", (e) => {
  if (e.isComposing) return; // the keys are the input method's
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); start(); }
  // Esc closes a select. And a stop is for all who watch: not by a key that means many things, unless it was started here.
  else if (e.key === "Escape" && own && !(e.target instanceof HTMLSelectElement)) stop();
});
window.addEventListener("hashchange", watchHash);
byID("providers-box", HTMLDetailsElement).addEventListener("toggle", (e) => {
  if (e.target instanceof HTMLDetailsElement && e.target.open) void keyPanel.show(choices);
});

for (const l of languages) el.language.append(new Option(l, l.toLowerCase()));
showTheme();
showModels();
void load();
watchHash();
