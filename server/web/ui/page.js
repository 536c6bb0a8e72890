/**
 * The chat page put together from its parts; knows where things are, not what they mean.
 */

import { todosOf, isTodoTool } from "../core/todos.js";
import { createApprovals } from "./approval.js";
import { createBanners } from "./banners.js";
import { createComposer } from "./composer.js";
import { el, setAttribute, setText, show } from "./dom.js";
import { createHeader } from "./header.js";
import { createSidebar } from "./sidebar.js";
import { createTodoList } from "./todo_list.js";
import { createTranscript } from "./transcript.js";

/** `on` is what the user can do; see app/main.js. */
export function createPage(on) {
  const drawer = { open: false };
  const setDrawer = (open) => {
    drawer.open = open;
    view.node.classList.toggle("drawer-open", open);
    setAttribute(view.header.menu, "aria-expanded", String(open));
    if (open) view.sidebar.focus();
    else if (view.sidebar.node.contains(document.activeElement)) view.header.menu.focus();
  };
  const view = {
    sidebar: createSidebar({ ...on, close: () => setDrawer(false) }),
    header: createHeader({ menu: () => setDrawer(!drawer.open), rename: on.rename }),
    banners: createBanners(on.reconnect),
    approvals: createApprovals(on.decide),
    todos: createTodoList(),
    composer: createComposer(on),
    status: el("p", { role: "status", class: "off-screen", "data-testid": "status" }),
    room: el("div", { class: "room" }),
    transcript: null,
    shownId: null,
    todoRev: null,
    on,
  };
  const backdrop = el("div", { class: "backdrop", onclick: () => setDrawer(false) });
  const dock = el("div", { class: "dock" }, view.approvals.node, view.todos.node, view.composer.node);
  const main = el("main", { class: "chat" }, view.header.node, view.banners.node, view.room, dock);
  const skip = el("button", { type: "button", class: "skip", onclick: () => view.composer.area.focus() }, "Skip to message");
  view.node = el("div", { class: "page", hidden: true }, skip, view.sidebar.node, backdrop, main, view.status);
  return {
    node: view.node,
    banners: view.banners,
    composer: view.composer,
    update: (state) => update(view, state),
    toBottom: () => view.transcript?.toBottom(),
    announce: (text) => setText(view.status, text),
    focus: () => focusComposer(view),
    isDrawerOpen: () => drawer.open,
    closeDrawer: () => setDrawer(false),
  };
}

/** state: {place, sessions, models, user, info, choices, busy} */
function update(view, state) {
  const { place, info } = state;
  view.sidebar.update(state.sessions, place?.id ?? null, state.models, state.user);
  show(view.composer.node, place !== null && place.status !== "missing");
  if (place === null) return;
  if (view.shownId !== place.id) showSession(view, place, state.draft);
  const name = info?.title || "New chat";
  view.header.update(name, info?.state, place.model);
  view.transcript.update(place);
  view.approvals.update(place.model.approvals, place.answered);
  const stopping = Boolean(place.stopping);
  view.composer.update({ model: place.model, chosen: info?.model, busy: state.busy, stopping }, state.choices);
  if (view.todoRev !== place.model.todoRev) {
    view.todoRev = place.model.todoRev;
    view.todos.update(todosOf(place.model.items.filter((item) => item.kind === "tool" && isTodoTool(item.name))));
  }
}

function showSession(view, place, draft) {
  view.shownId = place.id;
  view.todoRev = null;
  view.transcript = createTranscript(view.on);
  view.room.replaceChildren(view.transcript.node);
  view.composer.setText(draft);
  view.approvals.update(new Map(), new Set());
  focusComposer(view);
}

/** Not on a phone: the keyboard would cover what there is to read. */
function focusComposer(view) {
  if (!window.matchMedia("(pointer: coarse)").matches) view.composer.area.focus();
}
