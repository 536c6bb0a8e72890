/**
 * Claude asks the user (AskUserQuestion): choices, and a free answer for each question.
 */

import { el, icon } from "./dom.js";

const OTHER = "\u0000other";

/** The card; `settle({decision, updated_input})` gives the answers. */
export function createQuestion(ask, settle) {
  const questions = Array.isArray(ask.input.questions) ? ask.input.questions : [];
  const fields = questions.map((question, index) => drawQuestion(question, `${ask.requestId}-${index}`));
  const form = el("form", { class: "approval", "data-testid": "permission-card" });
  form.append(el("h2", {}, icon("question"), "Claude asks"));
  form.append(el("div", { class: "approval-body" }, fields.map((field) => field.node)));
  const skip = el("button", { type: "button", class: "secondary", "data-testid": "permission-deny" }, "Skip");
  const answer = el("button", { type: "submit", class: "primary", "data-testid": "permission-allow" }, "Answer");
  form.append(el("div", { class: "approval-buttons" }, skip, answer));
  skip.addEventListener("click", () => settle({ decision: "deny", message: "The user did not want to answer." }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const missing = fields.find((field) => field.read() === "");
    if (missing) {
      missing.focus();
      return;
    }
    const answers = Object.fromEntries(questions.map((one, index) => [one.question, fields[index].read()]));
    settle({ decision: "allow", scope: "once", updated_input: { ...ask.input, answers } });
  });
  return form;
}

function drawQuestion(question, name) {
  const type = question.multiSelect ? "checkbox" : "radio";
  const node = el("fieldset", { class: "question" }, el("legend", {}, question.question));
  const boxes = [];
  const choice = (value, ...label) => {
    const box = el("input", { type, name, value });
    boxes.push(box);
    node.append(el("label", { class: "choice" }, box, el("span", {}, ...label)));
    return box;
  };
  for (const option of Array.isArray(question.options) ? question.options : []) {
    const detail = option.description ? el("small", {}, option.description) : null;
    choice(option.label, option.label, detail);
  }
  const free = el("input", { type: "text", "aria-label": "Other answer" });
  const other = choice(OTHER, "Other: ", free);
  free.addEventListener("input", () => {
    other.checked = free.value !== "";
  });
  const read = () =>
    boxes
      .filter((box) => box.checked)
      .map((box) => (box === other ? free.value.trim() : box.value))
      .filter((value) => value !== "")
      .join(", ");
  return { node, read, focus: () => boxes[0].focus() };
}
