/**
 * All that the page says, for whoever translates it. What index.html says in
 * double braces is filled in from here when the page is built.
 */
import type { AnalysisKind, RunStatus, Severity } from "../client/index.js";

const s = (n: number, one: string, more = `${one}s`): string => `${n.toLocaleString()} ${n === 1 ? one : more}`;

const states: Readonly<Record<RunStatus["state"], string>> = {
  starting: "Starting", connecting: "Connecting", live: "Live", waiting: "Reconnecting", ended: "Ended", failed: "Failed",
};
const severities: Readonly<Record<Severity, string>> = { critical: "Critical", high: "High", medium: "Medium", low: "Low", info: "Info" };
const analyses: Readonly<Record<AnalysisKind, string>> = {
  security: "Security", bugs: "Bugs", performance: "Performance", review: "Review", explain: "Explain", deobfuscate: "Deobfuscate", custom: "Own question…",
};

export const texts = {
  states, severities, analyses,
  transports: { websocket: "WebSocket", sse: "SSE", "long-poll": "long-poll" },

  // The head of the page.
  title: "Athena",
  tagline: "Live analysis of code",
  skip: "Skip to the results",
  needsScript: "This page needs JavaScript. Without it, use the command athena analyze, or curl.",
  themes: { system: "System", light: "Light", dark: "Dark" },
  theme: (name: string) => `Theme: ${name}`,
  history: "History",

  // Its keys.
  shortcuts: "Shortcuts",
  shortcutsTitle: "Keyboard",
  shortcutRun: "Run the analysis",
  shortcutEscape: "Close what is open; else stop the run that was started here",
  shortcutFindings: "In the code: to the next finding, to the one before",
  shortcutSearch: "In the code: search",
  shortcutTab: "To the next control; the editor lets it go",
  shortcutList: "Outside of fields: this list",

  // The key.
  keyNeeded: "This server needs an API key",
  keyNeededHere: "This server needs an API key.",
  keyWrong: "The server did not accept this API key.",
  keyUse: "Use it",
  keyKept: "Kept in this tab only.",

  // The code and what to do with it.
  code: "Code",
  example: "Example",
  open: "Open file…",
  chooseFile: "Choose a file",
  placeholder: "Paste code, drop a file here, or take the example",
  drop: "Drop to open",
  noCode: "There is no code yet: paste some, open a file, or take the example.",
  fileTooLarge: (name: string) => `${name} is larger than 4 MiB.`,
  fileNotText: (name: string) => `${name} can't be read as text in UTF-8.`,
  analysis: "Analysis",
  language: "Language",
  detect: "Detect",
  detected: (language: string) => `Detect (${language})`,
  provider: "Provider",
  automatic: "Automatic",
  model: "Model",
  modelDefault: "Default",
  question: "Question",
  questionHint: "What do you want to know about this code?",
  run: "Run",
  stop: "Stop",
  runsKeys: "runs,",
  stopsKeys: "stops",
  tooMany: (n: number) => `${n} analyses are running, which is as many as there may be. Stop one, or wait for its end.`,

  // Results.
  results: "Results",
  runs: "Runs",
  close: (title: string) => `Close ${title}`,
  watched: "Watched",
  copyAnswer: "Copy answer",
  copyLink: "Copy link",
  copyDone: (what: string) => `${what}: done.`,
  copyRefused: "The browser does not allow copying here.",
  download: "Download",
  downloadAnswer: "Answer (Markdown)",
  downloadFindings: "Findings (JSON)",
  downloadSARIF: "Findings (SARIF)",
  attempts: "Attempts",
  findings: "Findings",
  line: (n: number) => `line ${n}`,
  otherCode: "The code in the editor is not the one that this run is about.",
  itsCode: "Show its code",
  reasoning: "Reasoning",
  answer: "Answer",
  empty: "Results appear here while they are made.",
  emptyMore: "Close the laptop, lose the network, cut the connection: it goes on where it was.",
  starting: "Starting…",
  stopping: "Stopping…",
  stopped: "Stopped",
  cancelled: "Cancelled",
  cancelledBy: (by: string) => `Cancelled (${by}).`,
  streamEnded: "This stream has ended.",
  atWork: (who: string) => `${who} is at work.`,
  finished: (findings: number) => (findings > 0 ? `Finished with ${s(findings, "finding")}.` : "Finished."),
  analysisFailed: "The analysis failed.",
  percent: (n: number) => `${Math.round(n)} %`,
  summaryStale: "an earlier answer: no provider could be reached",
  summaryCached: "from the cache",
  summaryDegraded: "degraded: the offline analyser answered",
  summaryTokens: (input: number, output: number, estimated: boolean) =>
    `${estimated ? "about " : ""}${input.toLocaleString()} tokens in, ${output.toLocaleString()} out${estimated ? " (estimated)" : ""}`,
  summaryLength: "cut off at the model's limit",
  summaryChecked: (sum: string) => `complete: sha256 ${sum}… checked`,

  // The way to an answer.
  asked: (who: string) => `${who} is asked`,
  waitingPlace: (n: number) => `Waiting for a place, position ${n}`,
  waitingRate: (time: string) => `Waiting for a rate limit${time === "" ? "" : `, ${time}`}`,
  askedAgain: (who: string, why: string, time: string) => `${who}: ${why}; asked again ${time === "" ? "at once" : `after ${time}`}`,
  failedShort: "failed",
  startsAgain: (who: string) => `${who} starts again`,
  goesOn: (who: string) => `${who} goes on`,
  dropped: "what was said is dropped",
  byAnalyser: "answered by the offline analyser, since no provider did",
  estimatedUsage: "usage is estimated",
  refusedByProvider: (who: string) => `${who} refuses its API key: the one that this server is configured with, not yours.`,

  // History.
  historyTitle: "Runs of this browser",
  historyNote: "Kept in this browser only: answers and findings of the last 100 runs, not the code.",
  historyEmpty: "No runs yet.",
  historyClear: "Clear history",
  historyClearMeant: "Clear all of it?",
  historyRemove: (title: string) => `Remove ${title}`,
  historyFindings: (n: number) => s(n, "finding"),
  dialogClose: "Close",
  remove: "Remove",
  meant: (label: string, asks: string) => `${label}: ${asks}`,

  // Sharing.
  answered: (status: number) => `the server answered ${status}`,
  shareLimited: (until: string) => `The link lets whoever has it read this stream until ${until}.`,

  // Providers.
  server: "The server",
  providers: "Providers",
  providerStates: { ok: "OK", degraded: "Degraded", down: "Down" },
  state: "State",
  inUse: "In use",
  firstContent: "First content",
  errors: "Errors",
  usageSince: "Usage since the start",
  notUpToDate: (why: string) => `Not up to date: ${why}`,

  // Keys of providers.
  keys: "Keys",
  keysOf: "of",
  key: "Key",
  keyFrom: "From",
  calls: "Calls",
  actions: "Actions",
  name: "Name",
  setKey: "Set key",
  keySealed: "Sealed on the server, never shown again.",
  keySet: "The key is set.",
  keyChecked: "The key was checked.",
  keyDeleted: "The key is deleted.",
  check: "Check",
  checkKey: (id: string) => `Check ${id}`,
  deleteIt: "Delete",
  deleteKey: (id: string) => `Delete ${id}`,
  deleteMeant: "Delete it?",

  // Operations.
  operations: "Operations",
  operationsForAdmins: "Only for administrators: this needs a key with the scope admin.",
  operationsNone: "This server does not show its metrics here.",
  charts: {
    connections: "Connections", chunks: "Events a second", first: "First content", running: "Analyses running", breakers: "Breakers open", waiting: "Calls in providers",
  },
  chart: (name: string, now: string, most: string) => `${name}: ${now} now, ${most} at most in the last three minutes`,
  perSecond: (n: string) => `${n}/s`,
  none: "–",

  // What providers and their keys are like.
  breakerOpen: "breaker open",
  breakerHalfOpen: "breaker half open",
  probeIn: (n: number) => `next probe in ${n} s`,
  probeNow: "next probe now",
  busy: (busy: number, of: number, waiting: number) => `${busy} of ${of}${waiting > 0 ? `, ${waiting} waiting` : ""}`,
  callsMade: (n: number) => s(n, "call"),
  tokens: (input: number, output: number) => `${input.toLocaleString()} tokens in, ${output.toLocaleString()} out`,
  estimated: (n: number) => `${n.toLocaleString()} estimated`,
  keyStates: { ok: "OK", refused: "Refused", exhausted: "Quota used up", limited: "Rests", sealed: "Sealed: its master key is not here" } as Readonly<Record<string, string>>,
  keySources: { config: "configuration", env: "variable", file: "file", vault: "Vault", stored: "set here" } as Readonly<Record<string, string>>,
  endsWith: (last: string) => `ends with ${last}`,
  rests: (n: number) => `for ${n} s`,
  neverChecked: "not checked yet",
  checkedAgo: (seconds: number) => `checked ${seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`} ago`,

  // The status line.
  connection: "Connection",
  idle: "Idle",
  waitSeconds: (n: number) => ` in ${n} s`,
  transport: "Transport",
  node: "Node",
  cursor: "Cursor",
  delay: "Delay",
  cache: "Cache",
  cacheHit: "hit",
  cacheMiss: "miss",
  cacheStale: "stale",
  breakers: "Breakers",
  breakersClosed: "closed",
  breakersOpen: (names: string) => `open: ${names}`,
  events: "Events",
  received: "Received",
  reconnects: "Reconnects",
  use: "Use",
  transportToUse: "Transport to use",
  bestTransport: "best transport",
  cut: "Cut connection",
  milliseconds: (n: number) => `${n} ms`,
  seconds: (n: number) => `${n.toFixed(1)} s`,
};
