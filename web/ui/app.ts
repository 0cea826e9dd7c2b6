/** The page: an editor, the runs at hand and the results of one, and the state of its connection. */
import type { Text } from "@codemirror/state";
import { Athena, type AnalysisKind, type AnalysisRequest, type Finding, type Run, type TransportChoice } from "../client/index.js";
import { SHA256 } from "../client/sha256.js";
import { diff } from "./change.js";
import { byID } from "./dom.js";
import { findingsJSON, findingsSARIF, save, type Outcome } from "./download.js";
import { Editor } from "./editor.js";
import { example } from "./example.js";
import { HistoryStore, type PastRun } from "./history.js";
import { HistoryDialog } from "./historydialog.js";
import { KeyPanel } from "./keypanel.js";
import { languages } from "./languages.js";
import { Operations } from "./operations.js";
import { Panel } from "./panel.js";
import { describeFailure, needsKey } from "./problems.js";
import { readProviders, type ProviderList, type ProviderStatus } from "./providers.js";
import { Results, type Shown } from "./results.js";
import { isLive, note, Runs, type Entry } from "./runs.js";
import { linkTo, readFragment, shareToken } from "./share.js";
import { StatusLine } from "./statusline.js";
import { texts } from "./texts.js";

const keyItem = "athena.key";
const shareItem = "athena.share.";
const themeItem = "athena.theme";
const themes = ["system", "light", "dark"] as const;
const narrow = "(max-width: 820px)"; // as in app.css: the results are below the code
/** How many runs may be live at once: over HTTP/1.1 a browser has six connections, of which a run can need one. */
const maxLive = 4;

const el = {
  run: byID("run", HTMLButtonElement), stop: byID("stop", HTMLButtonElement), cut: byID("cut", HTMLButtonElement),
  copy: byID("copy", HTMLButtonElement), share: byID("share", HTMLButtonElement), download: byID("download", HTMLDetailsElement),
  analysis: byID("analysis", HTMLSelectElement), language: byID("language", HTMLSelectElement),
  provider: byID("provider", HTMLSelectElement), model: byID("model", HTMLSelectElement), transport: byID("transport", HTMLSelectElement),
  promptRow: byID("prompt-row", HTMLElement), prompt: byID("prompt", HTMLInputElement),
  filename: byID("filename", HTMLElement), file: byID("file", HTMLInputElement),
  keyForm: byID("key-form", HTMLFormElement), key: byID("key", HTMLInputElement),
  job: byID("job", HTMLElement), other: byID("other-code", HTMLElement),
};

let choices: ProviderStatus[] = [];
let afterKey: (() => void) | undefined;

const athena = new Athena({ token: key });
const past = new HistoryStore();
const status = new StatusLine();
const editor = new Editor({
  box: byID("editor", HTMLElement),
  named: (name) => { el.filename.textContent = name; },
  detected: (language) => {
    const label = languages[language]?.label;
    const option = el.language.options[0];
    if (option) option.text = label === undefined ? texts.detect : texts.detected(label);
  },
  refused: (why) => { results.fail(why); },
  changed: () => {
    mark(results.shown);
    results.refreshChanges();
  },
});
const results = new Results({
  jump: (f) => { editor.select(f); },
  found: mark,
  diff: (f) => diff(f, codeOfRun()),
  state: (f) => editor.change(codeOfRun(), f),
  apply: (f) => {
    const doc = codeOfRun();
    if (doc && editor.apply(doc, f)) results.say(texts.notApplied.applied);
  },
});
const runs = new Runs(shown);
const panel = new Panel(askProviders);
const keyPanel = new KeyPanel(athena);
const shortcuts = byID("shortcuts", HTMLDialogElement);
new Operations(key);
new HistoryDialog(past, who, reopen);

function stored(store: Storage, item: string): string | undefined {
  return store.getItem(item) || undefined;
}

function key(): string | undefined { return stored(sessionStorage, keyItem); }

/** Whose the history is: without telling the key. */
function who(): string {
  const k = key();
  if (k === undefined) return "";
  const sum = new SHA256();
  sum.update(new TextEncoder().encode(`history of ${k}`));
  return sum.hex().slice(0, 16);
}

/** A client that may watch this stream: that of who was given a link with a token. */
function clientOf(id: string): Athena {
  const token = stored(sessionStorage, shareItem + id);
  return token === undefined ? athena : new Athena({ token });
}

/** The code that the shown run is about, where that is known. */
function codeOfRun(): Text | undefined { return runs.current?.code?.doc; }

/** Shows what a run is about: marks in the code, or that it is of other code. */
function mark(findings: readonly Finding[]): void {
  const e = runs.current;
  const here = editor.mark(codeOfRun(), findings);
  el.other.hidden = here || !e?.code || findings.length === 0;
}

/** Shows an entry, or that there is none. */
function shown(e: Entry | undefined): void {
  el.stop.disabled = !e || !isLive(e);
  el.copy.disabled = !e;
  el.download.hidden = !e;
  status.show(e);
  if (e) {
    results.begin(e.shown, e.notable);
    if (e.failure) results.fail(e.failure);
  } else {
    results.clear();
  }
  showID();
}

function showID(): void {
  const id = runs.current?.id;
  el.share.disabled = id === undefined;
  el.job.textContent = id === undefined ? "" : `${id.slice(0, 10)}…`;
  el.job.title = id ?? "";
  const hash = id === undefined ? "" : `#stream=${id}`;
  if (location.hash !== hash) history.replaceState(null, "", hash || location.pathname + location.search);
}

interface What { own: boolean; title: string; code?: { doc: Text; name: string } }

function show(run: Run, what: What): void {
  const e: Entry = { shown: run, run, own: what.own, title: what.title, code: what.code, began: Date.now(), notable: [], failure: "", id: run.id };
  runs.add(e);
  run.started().then((id) => {
    e.id = id;
    if (e === runs.current) showID();
    keep(e);
  }, () => undefined); // follow reports it
  run.onStatus(() => { if (e === runs.current) status.changed(); });
  void follow(e, run, what);
}

async function follow(e: Entry, run: Run, what: What): Promise<void> {
  const seen = (): boolean => e === runs.current;
  try {
    for await (const event of run) {
      note(e, event);
      if (!seen()) continue;
      status.event(event);
      results.event(event);
    }
    if (seen() && !run.terminal()) results.say(texts.streamEnded);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") return; // closed
    if (needsKey(error)) {
      askForKey(() => {
        runs.remove(e);
        retry(run, what);
      });
      return;
    }
    e.failure = describeFailure(error);
    if (!seen()) return;
    results.fail(e.failure);
    results.say("");
  } finally {
    keep(e);
    if (seen()) el.stop.disabled = true;
    status.changed();
    panel.refresh(); // what the run has used is known now
  }
}

/** What to do once there is a key: watch on what was watched, or start again. */
function retry(run: Run, what: What): void {
  const id = run.id;
  if (id === undefined) start();
  else show(clientOf(id).watch(id, { forceTransport: transportChoice() }), what);
}

/** Keeps a run that was started here in the history, as far as it is. */
function keep(e: Entry): void {
  if (!e.own || e.id === undefined || !e.run) return;
  const end = e.run.terminal();
  if (!end && !isLive(e)) return; // it is unknown how it went on
  void past.put({
    id: e.id, who: who(), time: e.began, title: e.title, state: end?.type ?? "running", text: end ? e.shown.text() : undefined, reasoning: end ? e.shown.reasoning() : "",
    findings: end ? e.shown.findings().slice() : [], notable: end ? e.notable : [],
  });
}

/** Shows a run of the history: as it is kept, or from the server. */
function reopen(r: PastRun): void {
  const there = runs.find(r.id);
  if (there) { runs.select(there); return; }
  const text = r.text;
  if (text === undefined) {
    show(clientOf(r.id).watch(r.id, { forceTransport: transportChoice() }), { own: true, title: r.title });
    return;
  }
  const kept: Shown = { text: () => text, reasoning: () => r.reasoning, findings: () => r.findings, usage: () => undefined };
  runs.add({ shown: kept, run: undefined, own: true, title: r.title, code: undefined, began: r.time, notable: r.notable.slice(), failure: "", id: r.id });
}

function transportChoice(): TransportChoice {
  const v = el.transport.value;
  return v === "websocket" || v === "sse" || v === "long-poll" ? v : "auto";
}

function start(): void {
  if (editor.empty) {
    results.fail(texts.noCode);
    editor.focus();
    return;
  }
  const analysis = el.analysis.value as AnalysisKind;
  if (analysis === "custom" && el.prompt.value.trim() === "") { el.prompt.focus(); return; }
  if (runs.live >= maxLive) { results.fail(texts.tooMany(maxLive)); return; }
  const name = el.filename.textContent;
  const request: AnalysisRequest = { code: editor.code, analysis, provider: el.provider.value };
  if (name) request.filename = name;
  if (el.language.value) request.language = el.language.value;
  if (el.model.value) request.model = el.model.value;
  if (analysis === "custom") request.prompt = el.prompt.value.trim();
  const about = name || el.language.selectedOptions[0]?.text.replace(/^.*\((.*)\)$/, "$1") || texts.code;
  const title = `${analysis === "custom" ? el.prompt.value.trim().slice(0, 40) : texts.analyses[analysis]} · ${about}`;
  show(athena.analyze(request, { forceTransport: transportChoice() }), { own: true, title, code: { doc: editor.doc, name } });
  results.say(texts.starting);
  if (matchMedia(narrow).matches) results.reveal();
}

function stop(): void {
  const e = runs.current;
  const run = e?.run;
  if (!run || el.stop.disabled) return;
  el.stop.disabled = true;
  results.say(texts.stopping);
  run.cancel().catch((error: unknown) => { // it waits for the id, if there is none yet
    if (e !== runs.current || run.status.state === "failed") return; // follow has reported that
    el.stop.disabled = false;
    results.fail(describeFailure(error));
    results.say("");
  });
}

function askForKey(then: () => void): void {
  const wrong = key() !== undefined;
  sessionStorage.removeItem(keyItem);
  results.say(wrong ? texts.keyWrong : texts.keyNeededHere);
  afterKey = then;
  el.keyForm.hidden = false;
  el.key.focus();
}

async function askProviders(): Promise<ProviderList> {
  const asked = Date.now();
  const list = readProviders(await athena.providers());
  status.providers(list, asked);
  return list;
}

/** What there is to choose from. */
async function load(): Promise<void> {
  await loadProviders();
  if (el.keyForm.hidden) void loadTransports();
}

async function loadProviders(): Promise<void> {
  try {
    choices = (await askProviders()).providers;
  } catch (e) {
    if (needsKey(e) && !runs.current) askForKey(() => undefined); // with a link's token there is something to see without
    return; // the choice stays automatic
  }
  el.provider.replaceChildren(new Option(texts.automatic, "auto"), ...choices.map((p) => new Option(p.name, p.name)));
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
  runs.current?.run?.useTransport("auto");
}

function showModels(): void {
  const models = choices.find((p) => p.name === el.provider.value)?.models ?? [];
  el.model.replaceChildren(new Option(texts.modelDefault, ""), ...models.map((m) => new Option(m, m)));
  el.model.disabled = models.length === 0;
}

function watchHash(): void {
  const link = readFragment(location.hash);
  if (!link) return;
  const { id, token } = link;
  if (token !== undefined) sessionStorage.setItem(shareItem + id, token); // and out of the address, which is easily shown around
  const there = runs.find(id);
  if (there) runs.select(there);
  else show(clientOf(id).watch(id, { forceTransport: transportChoice() }), { own: false, title: `${texts.watched} · ${id.slice(0, 10)}…` });
  showID();
}

function showTheme(): void {
  const t = themes.find((x) => x === stored(localStorage, themeItem)) ?? "system";
  if (t === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = t;
  byID("theme-name", HTMLElement).textContent = texts.themes[t];
  byID("theme", HTMLButtonElement).setAttribute("aria-label", texts.theme(texts.themes[t]));
}

async function copied(button: HTMLButtonElement, text: string, more = ""): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    results.say([texts.copyDone(button.textContent), more].filter(Boolean).join(" "));
  } catch { // plain HTTP, or the user said no
    results.say(texts.copyRefused);
  }
}

/** Copies a link to the shown stream; where the server asks for keys, one that lets its reader in. */
async function share(): Promise<void> {
  const id = runs.current?.id;
  if (id === undefined) return;
  const given = stored(sessionStorage, shareItem + id), own = key();
  if (given !== undefined || own === undefined) { await copied(el.share, linkTo(location.href, { id, token: given })); return; }
  try {
    const { token, expires } = await shareToken(location.href, id, own);
    await copied(el.share, linkTo(location.href, { id, token }), texts.shareLimited(expires.toLocaleTimeString(undefined, { timeStyle: "short" })));
  } catch (e) {
    results.fail(describeFailure(e));
  }
}

function outcome(): Outcome | undefined {
  const e = runs.current;
  return e && { stream: e.id ?? "", title: e.title, filename: e.code?.name ?? "", text: e.shown.text(), findings: e.shown.findings(), code: e.code?.doc };
}

function downloads(id: string, ending: string, type: string, content: (o: Outcome) => string): void {
  byID(id, HTMLButtonElement).addEventListener("click", () => {
    el.download.open = false;
    el.download.querySelector("summary")?.focus();
    const o = outcome();
    if (o) save(`${o.filename.replace(/[^\w.-]+/g, "_") || "athena"}.${ending}`, type, content(o));
  });
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
el.cut.addEventListener("click", () => { runs.current?.run?.disconnect(); });
el.copy.addEventListener("click", () => { void copied(el.copy, runs.current?.shown.text() ?? ""); });
el.share.addEventListener("click", () => { void share(); });
downloads("download-answer", "md", "text/markdown", (o) => o.text);
downloads("download-json", "findings.json", "application/json", findingsJSON);
downloads("download-sarif", "sarif", "application/sarif+json", findingsSARIF);
byID("its-code", HTMLButtonElement).addEventListener("click", () => {
  const e = runs.current;
  if (!e?.code) return;
  editor.set(e.code.doc.toString(), e.code.name);
  editor.focus();
});
el.transport.addEventListener("change", () => { runs.current?.run?.useTransport(transportChoice()); });
el.provider.addEventListener("change", showModels);
el.language.addEventListener("change", () => { editor.use(el.language.value); });
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
byID("shortcuts-open", HTMLButtonElement).addEventListener("click", () => { shortcuts.showModal(); });
byID("shortcuts-close", HTMLButtonElement).addEventListener("click", () => { shortcuts.close(); });
document.addEventListener("keydown", (e) => {
  if (e.isComposing) return; // the keys are the input method's
  const typing = e.target instanceof HTMLElement && (e.target.isContentEditable || e.target.matches("input, select"));
  if (e.key === "?" && !typing && !document.querySelector("dialog[open]")) shortcuts.showModal();
  else if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) {
    e.preventDefault();
    start();
  } else if (e.key === "Escape" && !e.defaultPrevented && !document.querySelector("dialog[open]")) {
    // Esc closes what is open. And a stop is for all who watch: not by a key that means many things, unless it was started here.
    const open = e.target instanceof Element ? e.target.closest<HTMLDetailsElement>("details[open]") : null;
    if (el.download.open) el.download.open = false;
    else if (open) {
      open.open = false;
      open.querySelector("summary")?.focus();
    } else if (runs.current?.own && !(e.target instanceof HTMLSelectElement)) stop();
  }
});
document.addEventListener("click", (e) => { if (e.target instanceof Node && !el.download.contains(e.target)) el.download.open = false; });
window.addEventListener("hashchange", watchHash);
byID("providers-box", HTMLDetailsElement).addEventListener("toggle", (e) => {
  if (e.target instanceof HTMLDetailsElement && e.target.open) void keyPanel.show(choices);
});

for (const [id, l] of Object.entries(languages)) el.language.append(new Option(l.label, id));
showTheme();
showModels();
watchHash();
void load();
