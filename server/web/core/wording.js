/**
 * States as words for people. No DOM.
 */

const DATE = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long" });
const NUMBER = new Intl.NumberFormat();

const SESSION = {
  parked: ["asleep", "Asleep"],
  waking: ["busy", "Waking up"],
  live: ["ready", "Ready"],
  cooling: ["trouble", "Restarting"],
  faulted: ["error", "Stopped after errors"],
  archived: ["asleep", "Archived"],
};

/** {tone, text} of a session: what it needs from its owner comes before what its process does. */
export function sessionWords(state, model) {
  if (model?.approvals.size > 0) return { tone: "asks", text: "Needs you" };
  if (model && model.running !== null) return { tone: "busy", text: "Working" };
  const [tone, text] = SESSION[model?.sessionState ?? state] ?? ["asleep", ""];
  return { tone, text };
}

const OUTCOME = {
  failed: "This turn failed.",
  interrupted: "Stopped.",
  lost: "This turn was lost: its process ended before it was finished.",
};

/** {title, text} of a turn that did not succeed. */
export function outcomeWords(item) {
  const title = OUTCOME[item.state] ?? `This turn ended: ${item.state}.`;
  const text = item.state === "interrupted" && item.reason?.code === "interrupted" ? "" : (item.reason?.message ?? "");
  return { title, text };
}

const ACTIVITY = {
  thinking: "Thinking",
  writing: "Writing",
  tool: "Preparing a tool call",
  compacting: "Summarising the conversation",
  working: "Working",
};

/** One line about what is going on now, or "" when nothing is. */
export function activityWords(model) {
  if (model.retry) return retryWords(model.retry);
  if (model.approvals.size > 0) return "Waiting for your answer";
  if (model.running !== null) return `${ACTIVITY[model.activity] ?? ACTIVITY.working}…`;
  const trouble = troubleWords(model);
  if (trouble) return trouble;
  return model.pending.some((entry) => entry.state === "queued") ? waitWords(model) : "";
}

function troubleWords(model) {
  const { sessionState: state, reason } = model;
  if (state !== "faulted" && state !== "cooling") return "";
  return `${SESSION[state][1]}. ${sentence(reason?.message ?? "")}`.trim();
}

function waitWords({ sessionState, queue }) {
  if (sessionState !== "waking") return "Waiting for its turn…";
  return queue ? placeWords(queue) : "Waking up…";
}

/** "In line: place 3 of 7, about 20 s" */
export function placeWords({ position, of, limit, estimate_seconds: seconds }) {
  if (limit === "own") return "In line: it starts when another of your sessions is done";
  const place = `In line: place ${position} of ${of}`;
  if (seconds === undefined || seconds === null) return place;
  return `${place}, about ${seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`}`;
}

const RETRY = {
  overloaded: "The model is overloaded",
  rate_limit: "The model's rate limit is reached",
  authentication_failed: "The model refused the server's key",
  server_error: "The model service had an error",
  unknown: "The model could not be reached",
};

/** The notice of a model call that is tried again. */
export function retryWords(retry) {
  const why = RETRY[retry.error] ?? RETRY.unknown;
  const seconds = retry.delay ? ` in ${Math.max(1, Math.round(retry.delay / 1000))} s` : "";
  const count = retry.attempt && retry.limit ? ` (attempt ${retry.attempt} of ${retry.limit})` : "";
  return `${why}. Trying again${seconds}${count}.`;
}

/** "1,204 tokens in, 310 out, 2.1 s" */
export function usageWords(usage) {
  const input = usage.input + usage.cached;
  const parts = [];
  if (input + usage.output > 0) parts.push(`${NUMBER.format(input)} tokens in`, `${NUMBER.format(usage.output)} out`);
  if (usage.milliseconds !== null) parts.push(`${(usage.milliseconds / 1000).toFixed(1)} s`);
  return parts.join(" · ");
}

/** A session's title from its first message: the first line with words, at most 60 characters. */
export function titleFrom(text) {
  const line = text.split("\n").map((one) => one.replace(/[#*`>_]/g, "").trim()).find((one) => one !== "") ?? "";
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}

/** "Today", "Yesterday" or a date, for grouping. Times are seconds since 1970. */
export function dayWords(seconds, nowSeconds) {
  const day = (value) => new Date(value * 1000).toDateString();
  if (day(seconds) === day(nowSeconds)) return "Today";
  if (day(seconds) === day(nowSeconds - 86400)) return "Yesterday";
  return DATE.format(new Date(seconds * 1000));
}

/** A text of the server as a sentence: with a capital and a full stop. */
export function sentence(text) {
  const trimmed = String(text).trim();
  if (trimmed === "") return "";
  const capital = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
