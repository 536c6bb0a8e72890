/**
 * The card above the composer that asks before a tool runs. It takes no focus and blocks nothing.
 */

import { approvalParts, revealed, ruleWords, toolLabel } from "../core/tools.js";
import { el, icon, setText, show } from "./dom.js";
import { createMarkdown } from "./markdown_view.js";
import { createQuestion } from "./question.js";
import { drawParts } from "./tool_card.js";

/** A click or Enter meant for something else must not approve what has just appeared. */
const DEAF_FOR = 400;

/** `decide(requestId, {decision, scope, message, updated_input})` sends the answer. */
export function createApprovals(decide) {
  const count = el("span", { class: "approval-count" });
  const body = el("div", {});
  const node = el("section", { class: "approvals", "aria-label": "Permission request", hidden: true }, count, body);
  const state = { id: null };
  function update(approvals, answered) {
    const [ask] = approvals.values();
    show(node, Boolean(ask));
    setText(count, approvals.size > 1 ? `1 of ${approvals.size}` : "");
    if (!ask) {
      state.id = null;
      body.replaceChildren();
      return;
    }
    if (state.id !== ask.requestId) {
      state.id = ask.requestId;
      body.replaceChildren(drawCard(ask, decide));
    }
    const card = body.firstChild;
    card.classList.toggle("answered", answered.has(ask.requestId));
  }
  return { node, update };
}

function drawCard(ask, decide) {
  const shownAt = performance.now();
  const settle = (answer) => {
    if (performance.now() - shownAt < DEAF_FOR) return;
    decide(ask.requestId, answer);
  };
  return ask.tool === "AskUserQuestion" ? createQuestion(ask, settle) : drawApproval(ask, settle);
}

function drawApproval(ask, settle) {
  const plan = ask.tool === "ExitPlanMode";
  const title = plan ? "Go ahead with this plan?" : `Allow ${toolLabel(ask.tool)}?`;
  const card = el("div", { class: "approval", "data-testid": "permission-card" });
  card.append(el("h2", {}, icon("question"), title));
  const reason = ask.details.decision_reason ?? ask.details.reason;
  if (typeof reason === "string" && reason) card.append(el("p", { class: "quiet" }, reason));
  const path = ask.details.blocked_path;
  if (typeof path === "string" && path) {
    card.append(el("p", { class: "quiet" }, "Asked because of ", el("code", {}, revealed(path))));
  }
  card.append(el("div", { class: "approval-body" }, drawInput(ask)));
  const note = el("input", { type: "text", maxlength: "500", placeholder: "Reason (optional)" });
  note.setAttribute("aria-label", "Reason for denying");
  const rules = plan ? [] : ruleWords(ask.details.remembers);
  card.append(buttons(settle, note, plan, rules));
  return card;
}

function drawInput(ask) {
  const parts = approvalParts(ask.tool, ask.input);
  const out = [];
  for (const part of parts) {
    if (part.kind !== "markdown") out.push(...drawParts([part]));
    else out.push(prose(part.text));
  }
  return out;
}

function prose(text) {
  const region = createMarkdown();
  region.update(text, true);
  return region.node;
}

/** "Always" is offered only where the CLI names the rule that would be remembered, and says that rule. */
function buttons(settle, note, plan, rules) {
  const denial = () => (note.value.trim() ? { message: note.value.trim() } : {});
  const button = (kind, testid, label, answer) =>
    el("button", { type: "button", class: kind, "data-testid": testid, onclick: () => settle(answer()) }, label);
  const deny = button("secondary", "permission-deny", plan ? "Keep planning" : "Deny", () => ({
    decision: "deny",
    ...denial(),
  }));
  const always = button("secondary", "permission-always", "Always allow in this session", () => ({
    decision: "allow",
    scope: "session",
  }));
  const allow = button("primary", "permission-allow", plan ? "Go ahead" : "Allow once", () => ({
    decision: "allow",
    scope: "once",
  }));
  const scope = el("p", { class: "approval-rule" }, "Always means: ", el("code", {}, revealed(rules.join(", "))));
  const row = el("div", { class: "approval-buttons" }, note, deny, rules.length > 0 && always, allow);
  return el("div", {}, rules.length > 0 && scope, row);
}
