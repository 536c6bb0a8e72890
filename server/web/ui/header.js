/**
 * The line above the conversation: the way to the list, the title (which can be changed), the state.
 */

import { sessionWords } from "../core/wording.js";
import { el, icon, setText, show } from "./dom.js";

/** `on` has menu() and rename(title). */
export function createHeader(on) {
  const menu = el("button", { type: "button", class: "round bare menu", "aria-controls": "sidebar" }, icon("menu"));
  menu.setAttribute("aria-label", "Chats");
  menu.dataset.testid = "menu";
  const title = el("h1", { "data-testid": "title" });
  const edit = el("button", { type: "button", class: "round bare", "aria-label": "Rename" }, icon("pencil"));
  const input = el("input", { type: "text", maxlength: "200", hidden: true, "aria-label": "Title" });
  const dot = el("span", { class: "dot", "aria-hidden": "true" });
  const text = el("span", { "data-testid": "state" });
  const state = el("span", { class: "chip" }, dot, text);
  const node = el("header", { class: "header" }, menu, title, input, edit, el("span", { class: "grow" }), state);
  const rename = (editing) => {
    show(input, editing);
    show(title, !editing);
    show(edit, !editing);
    if (!editing) return;
    input.value = title.textContent;
    input.focus();
    input.select();
  };
  menu.addEventListener("click", () => on.menu());
  edit.addEventListener("click", () => rename(true));
  input.addEventListener("keydown", (event) => {
    if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
    event.preventDefault();
    event.stopPropagation();
    const wanted = input.value.trim();
    if (event.key === "Enter" && wanted && wanted !== title.textContent) on.rename(wanted);
    rename(false);
    edit.focus();
  });
  input.addEventListener("blur", () => rename(false));
  return {
    node,
    menu,
    update(name, sessionState, model) {
      const words = sessionWords(sessionState, model);
      setText(title, name);
      setText(text, words.text);
      dot.dataset.tone = words.tone;
      show(state, words.text !== "");
    },
  };
}
