/**
 * A tool call as one line that opens: what, to what, how it went; inside, what went in and came out.
 */

import { approvalParts, describeTool, revealed } from "../core/tools.js";
import { copyButton, el, icon, setText } from "./dom.js";

const LINES_SHOWN = 20;
const CHARS_SHOWN = 20000;

const STATUS = {
  running: "Running",
  done: "Done",
  error: "Failed",
  denied: "Not allowed",
  stopped: "Stopped",
};

/** A card for a tool item of the model; `update(item)` draws its present state. */
export function createToolCard() {
  const name = el("span", { class: "tool-name" });
  const target = el("code", { class: "tool-target" });
  const status = el("span", { class: "tool-status", "data-testid": "tool-status" });
  const symbol = el("span", { class: "tool-symbol" });
  const summary = el("summary", {}, symbol, name, target, status, el("span", { class: "tool-chevron" }, icon("chevron")));
  const body = el("div", { class: "tool-body" });
  const node = el("details", { class: "tool", "data-testid": "tool-card" }, summary, body);
  const card = { item: null, drawnRev: -1, wasError: false };
  const drawBody = () => {
    if (!node.open || !card.item || card.drawnRev === card.item.rev) return;
    card.drawnRev = card.item.rev;
    body.replaceChildren(...bodyOf(card.item));
  };
  node.addEventListener("toggle", drawBody);
  function update(item) {
    card.item = item;
    const words = describeTool(item.name, item.input, item.cwd);
    if (symbol.childElementCount === 0) symbol.append(icon(words.icon));
    setText(name, words.label);
    setText(target, words.target);
    setText(status, statusText(item));
    node.dataset.status = item.status;
    if (item.status === "error" && !card.wasError) node.open = true;
    card.wasError = item.status === "error";
    drawBody();
  }
  return { node, update };
}

function statusText(item) {
  if (item.status === "running" && item.elapsed) return `Running, ${Math.round(item.elapsed)} s`;
  return STATUS[item.status] ?? item.status;
}

function bodyOf(item) {
  const out = drawParts(approvalParts(item.name, item.input));
  for (const child of item.children) out.push(drawChild(child));
  if (item.output) out.push(el("h4", {}, "Output"), clamped(item.output));
  else if (item.status === "done") out.push(el("p", { class: "quiet" }, "No output."));
  return out;
}

function drawChild(child) {
  if (child.kind === "text") return el("p", { class: "tool-child" }, child.text);
  const card = createToolCard();
  card.update(child);
  card.node.classList.add("nested");
  return card.node;
}

/** The parts of core/tools.js approvalParts as nodes; hidden characters are written out. */
export function drawParts(parts) {
  return parts.flatMap((part) => {
    const text = revealed(part.text);
    const marks = { removed: "−", added: "+" }[part.kind];
    const head = el("h4", {}, part.label);
    if (part.kind === "path") return [head, el("p", {}, el("code", { class: "path" }, text))];
    if (part.kind === "text") return [head, el("p", {}, text)];
    return [head, marks ? signed(text, part.kind, marks) : clamped(text)];
  });
}

/** Lines with a sign before each: colour is never the only mark. */
function signed(text, kind, sign) {
  const lines = text.split("\n");
  if (lines[lines.length - 1] === "") lines.pop();
  return clamped(lines.map((line) => `${sign} ${line}`).join("\n"), kind);
}

/** A block of plain text, cut to twenty lines until asked for all. */
function clamped(text, kind = "") {
  const lines = text.split("\n");
  const cut = lines.length > LINES_SHOWN || text.length > CHARS_SHOWN;
  const short = cut ? lines.slice(0, LINES_SHOWN).join("\n").slice(0, CHARS_SHOWN) : text;
  const pre = el("pre", { class: `plain ${kind}`, tabindex: "0", role: "region", "aria-label": "Text" }, short);
  const row = el("div", { class: "plain-row" }, pre);
  if (!cut) return row;
  const more = el("button", { type: "button", class: "link" }, `Show all (${lines.length} lines)`);
  more.addEventListener("click", () => {
    setText(pre, text);
    more.replaceWith(copyButton(() => text, "Copy output"));
    pre.focus();
  });
  row.append(more);
  return row;
}
