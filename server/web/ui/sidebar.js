/**
 * The list of sessions: state, title, archive; new session; who is signed in.
 */

import { dayWords, sessionWords } from "../core/wording.js";
import { el, icon, setAttribute, setText, show } from "./dom.js";

/** `on` has open(id), create(), archive(id), signOut(), close(). */
export function createSidebar(on) {
  const create = el("button", { type: "button", class: "new-session", "data-testid": "session-new" });
  create.append(icon("plus"), el("span", {}, "New chat"));
  create.addEventListener("click", () => on.create());
  const close = el("button", { type: "button", class: "round bare drawer-close", "aria-label": "Close list" }, icon("close"));
  close.addEventListener("click", () => on.close());
  const list = el("ul", { class: "sessions", "data-testid": "session-list" });
  const user = el("span", { class: "user-name", "data-testid": "user-name" });
  const leave = el("button", { type: "button", class: "quiet-button", "data-testid": "sign-out" }, icon("exit"), "Sign out");
  leave.addEventListener("click", () => on.signOut());
  const head = el("div", { class: "sidebar-head" }, el("span", { class: "brand" }, "Claude Pool"), close);
  const nav = el("nav", { "aria-label": "Chats" }, create, list);
  const foot = el("div", { class: "sidebar-foot" }, user, leave);
  const node = el("aside", { class: "sidebar", id: "sidebar" }, head, nav, foot);
  const rows = new Map();
  function update(sessions, current, models, userName) {
    setText(user, userName);
    const now = Date.now() / 1000;
    const live = new Set(sessions.map((session) => session.session_id));
    for (const [id, row] of rows) {
      if (live.has(id)) continue;
      row.node.remove();
      rows.delete(id);
    }
    let day = null;
    sessions.forEach((session, index) => {
      const row = rows.get(session.session_id) ?? addRow(rows, session.session_id, on);
      const today = dayWords(session.last_active_at ?? now, now);
      row.update(session, session.session_id === current, models.get(session.session_id), today === day ? "" : today);
      day = today;
      if (list.children[index] !== row.node) list.insertBefore(row.node, list.children[index] ?? null);
    });
  }
  return { node, update, focus: () => create.focus() };
}

function addRow(rows, id, on) {
  const row = createRow(id, on);
  rows.set(id, row);
  return row;
}

function createRow(id, on) {
  const day = el("p", { class: "day" });
  const title = el("span", { class: "session-title" });
  const dot = el("span", { class: "dot", "aria-hidden": "true" });
  const state = el("span", { class: "session-state", "data-testid": "session-state" });
  const link = el("a", { href: `#/s/${encodeURIComponent(id)}`, class: "session-link" });
  link.append(title, el("span", { class: "session-line" }, dot, state));
  const archive = el("button", { type: "button", class: "round bare", "data-testid": "session-archive" }, icon("archive"));
  const sure = el("div", { class: "sure", hidden: true });
  const yes = el("button", { type: "button", class: "danger", "data-testid": "session-archive-confirm" }, "Archive");
  const no = el("button", { type: "button", class: "secondary" }, "Keep");
  sure.append(yes, no);
  const ask = (asking) => {
    show(sure, asking);
    show(archive, !asking);
    (asking ? yes : archive).focus();
  };
  archive.addEventListener("click", () => ask(true));
  no.addEventListener("click", () => ask(false));
  yes.addEventListener("click", () => on.archive(id));
  link.addEventListener("click", () => on.open(id));
  const line = el("div", { class: "session-row" }, link, archive, sure);
  const node = el("li", { "data-testid": "session-item", "data-session": id }, day, line);
  return {
    node,
    update(session, isCurrent, model, dayText) {
      const words = sessionWords(session.state, model);
      const name = session.title || "New chat";
      show(day, dayText !== "");
      setText(day, dayText);
      setText(title, name);
      setText(state, words.text);
      dot.dataset.tone = words.tone;
      setAttribute(link, "aria-current", isCurrent ? "page" : null);
      setAttribute(archive, "aria-label", `Archive ${name}`);
    },
  };
}
