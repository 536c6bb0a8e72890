/**
 * The conversation: settled items, the message being written, waiting messages, what goes on now.
 *
 * It keeps to the bottom only while the reader is there; one movement upwards lets go at once.
 */

import { activityWords } from "../core/wording.js";
import { el, icon, setText, show } from "./dom.js";
import { createItem, createPending } from "./items.js";

const AT_BOTTOM = 40;
const PILL_AFTER = 80;
const SUGGESTIONS = [
  "What is in this workspace?",
  "Write a small Python script with a test",
  "Explain how this project is put together",
  "Find and fix a bug",
];

/** `on` has earlier(), retry(id), edit(id), suggest(text). The view shows one session all its life. */
export function createTranscript(on) {
  const parts = {
    earlier: el("button", { type: "button", class: "quiet-button", "data-testid": "earlier" }, "Show earlier messages"),
    items: el("div", { class: "items" }),
    open: el("div", { class: "items" }),
    pending: el("div", { class: "items" }),
    empty: emptyState(on.suggest),
    activity: el("p", { class: "activity", "data-testid": "activity" }),
    state: el("p", { class: "loading" }),
  };
  const column = el("div", { class: "column" }, Object.values(parts));
  const log = { role: "log", "aria-live": "off", "aria-label": "Conversation", tabindex: "0" };
  const scroller = el("div", { class: "scroller", "data-testid": "transcript", ...log }, column);
  const pill = el("button", { type: "button", class: "pill", hidden: true }, icon("down"), "Latest");
  const node = el("div", { class: "transcript" }, scroller, pill);
  const view = { parts, scroller, pill, on, following: true, drawn: new Map(), open: new Map(), waiting: new Map() };
  parts.earlier.addEventListener("click", () => on.earlier());
  keepToBottom(view, column);
  return { node, update: (place) => update(view, place), toBottom: () => toBottom(view) };
}

function emptyState(suggest) {
  const buttons = SUGGESTIONS.map((text) =>
    el("button", { type: "button", class: "suggestion", onclick: () => suggest(text) }, text),
  );
  const mark = el("div", { class: "empty-mark" }, icon("spark"));
  return el("div", { class: "empty" }, mark, el("p", { class: "empty-title" }, "What shall we work on?"), buttons);
}

function keepToBottom(view, column) {
  const { scroller, pill } = view;
  const release = () => {
    view.following = false;
  };
  scroller.addEventListener("wheel", (event) => event.deltaY < 0 && release(), { passive: true });
  scroller.addEventListener("touchmove", release, { passive: true });
  scroller.addEventListener("keydown", (event) => ["PageUp", "ArrowUp", "Home"].includes(event.key) && release());
  scroller.addEventListener("scroll", () => {
    const below = distance(scroller);
    if (below < AT_BOTTOM) view.following = true;
    show(pill, below > PILL_AFTER && !view.following);
  });
  pill.addEventListener("click", () => toBottom(view));
  const observer = new ResizeObserver(() => view.following && stick(scroller));
  observer.observe(column);
  observer.observe(scroller);
}

function distance(scroller) {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
}

function stick(scroller) {
  scroller.scrollTop = scroller.scrollHeight;
}

function toBottom(view) {
  view.following = true;
  stick(view.scroller);
  show(view.pill, false);
}

function update(view, place) {
  const { parts } = view;
  const { model, status } = place;
  const before = { height: view.scroller.scrollHeight, first: view.first };
  show(parts.earlier, place.prev !== null);
  parts.earlier.disabled = place.loadingEarlier;
  setText(parts.state, STATE_WORDS[status]?.(place) ?? "");
  drawItems(view, model);
  drawOpen(view, model);
  drawPending(view, model);
  const blank = model.items.length === 0 && model.pending.length === 0 && !model.open;
  show(parts.empty, status === "ready" && blank);
  setText(parts.activity, place.stopping ? "Stopping…" : activityWords(model));
  parts.activity.dataset.tone = model.retry ? "warning" : "";
  if (view.following) stick(view.scroller);
  else if (before.first && before.first !== view.first) holdPlace(view.scroller, before.height);
}

const STATE_WORDS = {
  loading: () => "Loading…",
  error: (place) => `The conversation could not be loaded. ${place.error ?? ""}`,
};

/** Older items came in above: the reader's line stays where it is. */
function holdPlace(scroller, height) {
  scroller.scrollTop += scroller.scrollHeight - height;
}

function drawItems(view, model) {
  const { drawn, parts } = view;
  view.first = model.items[0]?.id;
  let before = null;
  for (const item of model.items) {
    let shown = drawn.get(item.id);
    if (!shown) {
      shown = { ...createItem(item.kind), rev: -1 };
      drawn.set(item.id, shown);
      const next = before ? before.nextSibling : parts.items.firstChild;
      parts.items.insertBefore(shown.node, next);
    }
    if (shown.rev !== item.rev) {
      shown.rev = item.rev;
      shown.update(item);
    }
    before = shown.node;
  }
}

/** The unfinished blocks of the message that is being written. */
function drawOpen(view, model) {
  const blocks = (model.open?.blocks ?? []).filter(isShown);
  const live = new Set();
  for (const block of blocks) {
    const id = `${model.open.id}:${block.index}`;
    live.add(id);
    let shown = view.open.get(id);
    if (!shown) {
      shown = createItem(block.type === "thinking" ? "thinking" : "text");
      view.open.set(id, shown);
      view.parts.open.append(shown.node);
    }
    shown.update({ text: block.text, final: false });
  }
  dropOthers(view.open, live);
}

function isShown(block) {
  return !block.done && block.text !== "" && (block.type === "text" || block.type === "thinking");
}

function drawPending(view, model) {
  const live = new Set();
  model.pending.forEach((entry, index) => {
    const id = entry.messageId ?? entry.turnId ?? index;
    live.add(id);
    let shown = view.waiting.get(id);
    if (!shown) {
      shown = createPending(view.on);
      view.waiting.set(id, shown);
      view.parts.pending.append(shown.node);
    }
    shown.update(entry);
  });
  dropOthers(view.waiting, live);
}

function dropOthers(map, live) {
  for (const [id, shown] of map) {
    if (live.has(id)) continue;
    shown.node.remove();
    map.delete(id);
  }
}
