/**
 * Claude's to-do list, folded to one line above the composer.
 */

import { el, setText, show } from "./dom.js";

const MARKS = { completed: ["☑", "done"], in_progress: ["◐", "under way"], pending: ["☐", "open"] };

/** `update(todos)` draws the list; an empty one shows nothing. */
export function createTodoList() {
  const title = el("span", {});
  const list = el("ul", {});
  const node = el("details", { class: "todos", "data-testid": "todo-list", hidden: true }, el("summary", {}, title), list);
  let drawn = "";
  return {
    node,
    update(todos) {
      const signature = JSON.stringify(todos);
      if (signature === drawn) return;
      drawn = signature;
      show(node, todos.length > 0);
      const done = todos.filter((todo) => todo.status === "completed").length;
      const current = todos.find((todo) => todo.status === "in_progress");
      setText(title, `To do: ${done} of ${todos.length}${current ? ` · ${current.text}` : ""}`);
      list.replaceChildren(...todos.map(drawTodo));
    },
  };
}

function drawTodo(todo) {
  const [mark, word] = MARKS[todo.status] ?? MARKS.pending;
  const sign = el("span", { class: "todo-mark", role: "img", "aria-label": word }, mark);
  return el("li", { "data-status": todo.status }, sign, el("span", {}, todo.text));
}
