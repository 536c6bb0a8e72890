/**
 * Where the user writes: text, send, stop, and the session's model and permission mode.
 */

import { el, icon, setText, show } from "./dom.js";

const MODES = {
  default: "Ask first",
  acceptEdits: "Accept edits",
  plan: "Plan only",
  auto: "Auto",
  dontAsk: "Don't ask",
  bypassPermissions: "Allow everything",
};

const MODELS = ["sonnet", "opus", "haiku"];

/** The CLI's own word for no wish. */
const DEFAULT = "default";

/** Safari ends a composition just before the Enter that ended it. */
const AFTER_COMPOSITION = 30;

/** `on` has send(text), stop(), draft(text), model(value), mode(value). */
export function createComposer(on) {
  const parts = createParts();
  const { area, stop, model, mode } = parts;
  const state = { options: "" };
  listen(parts, on);
  return {
    node: parts.node,
    area,
    setText(text) {
      area.value = text;
      grow(area);
    },
    update(place, choices) {
      show(stop, place.busy);
      stop.disabled = place.stopping || !choices.connected;
      drawOptions(model, mode, place, choices, state);
    },
  };
}

function createParts() {
  const area = el("textarea", { rows: "1", "data-testid": "composer", "aria-label": "Message", enterkeyhint: "enter" });
  area.placeholder = "Message Claude";
  const send = el("button", { type: "submit", class: "round primary", "data-testid": "send", "aria-label": "Send" });
  send.append(icon("send"));
  const stop = el("button", { type: "button", class: "round secondary", "data-testid": "stop", "aria-label": "Stop" });
  stop.append(icon("stop"));
  const model = el("select", { "data-testid": "model-select", "aria-label": "Model" });
  const mode = el("select", { "data-testid": "mode-select", "aria-label": "Permission mode" });
  const hint = el("span", { class: "hint" }, "Enter sends, Shift+Enter starts a line");
  const bar = el("div", { class: "composer-bar" }, mode, model, hint, el("span", { class: "grow" }), stop, send);
  return { node: el("form", { class: "composer" }, area, bar), area, stop, model, mode };
}

function listen({ node, area, stop, model, mode }, on) {
  const coarse = window.matchMedia("(pointer: coarse)");
  const state = { composedAt: -AFTER_COMPOSITION };
  const submit = () => {
    const text = area.value.trim();
    if (!text) return;
    area.value = "";
    grow(area);
    on.draft("");
    on.send(text);
  };
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
    area.focus();
  });
  stop.addEventListener("click", () => on.stop());
  model.addEventListener("change", () => on.model(model.value));
  mode.addEventListener("change", () => on.mode(mode.value));
  area.addEventListener("compositionend", () => {
    state.composedAt = performance.now();
  });
  area.addEventListener("input", () => {
    grow(area);
    on.draft(area.value);
  });
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || coarse.matches || composing(event, state)) return;
    event.preventDefault();
    submit();
  });
}

function composing(event, state) {
  if (event.isComposing || event.keyCode === 229) return true;
  return performance.now() - state.composedAt < AFTER_COMPOSITION;
}

function grow(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight, Math.round(window.innerHeight * 0.4))}px`;
}

/** `place` has the model that the session asks for (`chosen`) and what the CLI says it uses (`model`). */
function drawOptions(model, mode, place, choices, state) {
  const chosen = place.chosen ?? DEFAULT;
  const models = withCurrent(choices.models ?? MODELS, chosen === DEFAULT ? null : chosen);
  const modes = withCurrent(choices.modes ?? ["default", "acceptEdits", "plan"], place.model.mode);
  const inUse = chosen === DEFAULT && place.model.model ? `${shortModel(place.model.model)} (default)` : "Default model";
  const signature = JSON.stringify([models, modes, inUse]);
  if (signature !== state.options) {
    state.options = signature;
    const named = models.map((name) => option(name, shortModel(name)));
    model.replaceChildren(option(DEFAULT, inUse), ...named);
    mode.replaceChildren(...modes.map((name) => option(name, MODES[name] ?? name)));
  }
  // A select that the user has open is left alone.
  if (document.activeElement !== model) model.value = chosen;
  if (document.activeElement !== mode) mode.value = place.model.mode ?? "default";
}

function withCurrent(list, current) {
  return current && !list.includes(current) ? [...list, current] : list;
}

function shortModel(name) {
  return name.replace(/^claude-/, "").replace(/-\d{8}$/, "");
}

function option(value, label) {
  const node = el("option", { value });
  setText(node, label);
  return node;
}
