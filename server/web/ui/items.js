/**
 * One view for each kind of item in the conversation. Each is {node, update(item)}.
 */

import { outcomeWords, usageWords } from "../core/wording.js";
import { copyButton, el, icon, setText, show } from "./dom.js";
import { createMarkdown } from "./markdown_view.js";
import { createToolCard } from "./tool_card.js";

/** The view for an item of this kind. */
export function createItem(kind) {
  return VIEWS[kind]();
}

const VIEWS = {
  user: () => {
    const text = el("div", { class: "bubble-text" });
    const note = el("p", { class: "bubble-note" });
    const node = el("article", { class: "message user", "data-testid": "message", "data-role": "user" });
    node.append(el("h3", { class: "off-screen" }, "You"), text, note);
    return {
      node,
      update(item) {
        show(node, item.text !== null);
        setText(text, item.text ?? "");
        node.dataset.state = item.state;
        setText(note, item.state === "withdrawn" ? "Not run: withdrawn" : "");
      },
    };
  },

  text: () => {
    const markdown = createMarkdown();
    const cut = el("p", { class: "quiet" }, "The answer was cut off here.");
    const node = el("article", { class: "message assistant", "data-testid": "message", "data-role": "assistant" });
    let raw = "";
    const tools = el("div", { class: "message-tools" }, copyButton(() => raw, "Copy answer"));
    node.append(el("h3", { class: "off-screen" }, "Claude"), markdown.node, cut, tools);
    return {
      node,
      update(item) {
        raw = item.text;
        markdown.update(item.text, item.final !== false);
        node.dataset.state = item.final === false ? "streaming" : "final";
        show(cut, item.cut === true);
        show(tools, item.final !== false);
      },
    };
  },

  thinking: () => {
    const text = el("div", { class: "thinking-text" });
    const caption = el("span", {}, "Thinking");
    const node = el("details", { class: "thinking", "data-testid": "thinking" }, el("summary", {}, caption), text);
    return {
      node,
      update(item) {
        setText(text, item.text);
        setText(caption, item.final === false ? "Thinking…" : "Thoughts");
      },
    };
  },

  tool: createToolCard,

  notice: () => {
    const text = el("p", {});
    const node = el("div", { class: "notice", "data-testid": "notice" }, text);
    return {
      node,
      update(item) {
        node.dataset.level = item.level;
        setText(text, item.text);
      },
    };
  },

  outcome: () => {
    const title = el("strong", {});
    const text = el("span", {});
    const usage = el("span", { class: "usage", "data-testid": "usage" });
    const problem = el("p", { class: "outcome-text" }, icon("warning"), el("span", {}, title, " ", text));
    const node = el("div", { class: "outcome", "data-testid": "outcome" }, problem, usage);
    return {
      node,
      update(item) {
        node.dataset.state = item.state;
        const words = item.state === "succeeded" ? { title: "", text: "" } : outcomeWords(item);
        show(problem, words.title !== "");
        setText(title, words.title);
        setText(text, words.text);
        show(usage, Boolean(item.usage));
        if (item.usage) setText(usage, usageWords(item.usage));
      },
    };
  },
};

const PENDING = {
  sending: "Sending…",
  failed: "Not sent",
};

/** An own message that has no turn running yet. `on.retry(id)` and `on.edit(id)` serve a failed one. */
export function createPending(on) {
  const text = el("div", { class: "bubble-text" });
  const note = el("span", { "data-testid": "pending-note" });
  const retry = el("button", { type: "button", class: "link" }, "Try again");
  const edit = el("button", { type: "button", class: "link" }, "Edit");
  const actions = el("span", {}, " ", retry, " ", edit);
  const node = el("article", { class: "message user pending", "data-testid": "pending" });
  node.append(el("h3", { class: "off-screen" }, "You"), text, el("p", { class: "bubble-note" }, note, actions));
  let entry = null;
  retry.addEventListener("click", () => on.retry(entry.messageId));
  edit.addEventListener("click", () => on.edit(entry.messageId));
  return {
    node,
    update(next) {
      entry = next;
      show(node, entry.text !== null);
      setText(text, entry.text ?? "");
      setText(note, pendingNote(entry));
      show(actions, entry.state === "failed");
      node.dataset.state = entry.state;
    },
  };
}

function pendingNote(entry) {
  if (entry.state === "failed") return `${PENDING.failed}: ${entry.error}`;
  if (entry.state === "queued") return entry.position > 0 ? `Queued, ${entry.position} before it` : "Queued";
  return PENDING[entry.state] ?? "";
}
