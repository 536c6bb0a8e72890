/**
 * The page's composition: signs in, follows the address, and lets each part know what the others did.
 */

import { isBusy } from "../core/fold.js";
import { bannerOfNotice, bannersOf } from "../core/health.js";
import { sessionWords, titleFrom } from "../core/wording.js";
import { api } from "../net/api.js";
import { createSocket } from "../net/socket.js";
import { createPage } from "../ui/page.js";
import { createSignIn } from "../ui/sign_in.js";
import { createAnnouncer } from "./announcer.js";
import { createConversations } from "./conversations.js";
import { keepsakesOf, newId } from "./keepsakes.js";

const LIST_EVERY = 20000;
const HEALTH_EVERY = 30000;

const state = {
  user: null,
  keepsakes: keepsakesOf(""),
  sessions: [],
  choices: { connected: false },
  drawing: false,
  health: null,
  notices: [],
};

const socket = createSocket({
  frames: receiveFrames,
  reset: (sessionId) => conversations.reset(sessionId),
  signedOut: () => askToSignIn("You were signed out. Sign in to go on."),
  probe: () => guarded(api.me()),
  changed: draw,
});

const conversations = createConversations({
  api,
  socket,
  keepsakes: () => state.keepsakes,
  changed: draw,
  failed: (message) => page.banners.problem(message),
});

const page = createPage({
  open: () => page.closeDrawer(),
  create: createSession,
  archive: archiveSession,
  rename: renameSession,
  signOut,
  reconnect: () => socket.wake(),
  send,
  stop: () => conversations.interrupt(),
  draft: (text) => state.keepsakes.keepDraft(conversations.current, text),
  model: chooseModel,
  mode: (value) => conversations.choose("set_permission_mode", value),
  decide: (requestId, answer) => conversations.decide(requestId, answer),
  earlier: () => conversations.loadEarlier(),
  retry: (messageId) => conversations.retry(messageId),
  edit: editMessage,
  suggest(text) {
    page.composer.setText(text);
    page.composer.area.focus();
  },
});

const signIn = createSignIn({
  async login(name, password) {
    await api.login(name, password);
    await enter();
  },
  async redeem(code) {
    await api.redeem(code);
    await enter();
  },
});

const announcer = createAnnouncer(page.announce);

// --- signing in and out ------------------------------------------------------------------

/** Await a request; a refused credential leads to the sign-in page. Other failures give null. */
async function guarded(request) {
  try {
    return await request;
  } catch (error) {
    if (error.status === 401 && state.user !== null) socket.refused();
    return null;
  }
}

async function begin() {
  const code = takeCode();
  if (code !== null) {
    signIn.open(code, "This link signs this browser in. It works once.");
    return;
  }
  try {
    await enter();
  } catch (error) {
    if (error.status !== 0) {
      signIn.open(null, "Sign in to talk to Claude.");
      return;
    }
    signIn.open(null, "The server cannot be reached at the moment.");
    setTimeout(begin, 3000);
  }
}

/** The one-time code of the address; it is taken out of the address, so that history does not keep it. */
function takeCode() {
  const match = /^#signin=(.+)$/.exec(location.hash);
  if (!match) return null;
  history.replaceState(null, "", `${location.pathname}${location.search}`);
  return decodeURIComponent(match[1]);
}

async function enter() {
  const me = await api.me();
  const userId = me.user_id ?? me.user?.user_id ?? me.user;
  if (state.user !== null && state.user !== userId) forgetAll();
  state.user = userId;
  state.keepsakes = keepsakesOf(userId);
  takeChoices(me);
  signIn.close();
  page.node.hidden = false;
  for (const frame of state.keepsakes.outbox()) socket.link.outbox.set(frame.message_id, frame);
  socket.start();
  loadHealth();
  await loadSessions();
  followAddress();
  page.focus();
}

/** What `me` and `welcome` say that may be chosen. */
function takeChoices(source) {
  const models = source.models ?? source.model?.models;
  if (Array.isArray(models) && models.length > 0) state.choices.models = models;
  if (Array.isArray(source.permission_modes)) state.choices.modes = source.permission_modes;
}

function askToSignIn(why) {
  page.node.hidden = true;
  signIn.open(null, why);
}

function forgetAll() {
  socket.stop();
  conversations.clear();
  state.sessions = [];
}

async function signOut() {
  await guarded(api.logout());
  state.keepsakes.forget();
  forgetAll();
  state.user = null;
  history.replaceState(null, "", location.pathname);
  askToSignIn("You are signed out.");
}

// --- sessions ----------------------------------------------------------------------------

async function loadSessions() {
  const sessions = await guarded(api.sessions());
  if (sessions === null) return;
  state.sessions = sessions
    .filter((session) => session.state !== "archived")
    .sort((one, other) => (other.last_active_at ?? 0) - (one.last_active_at ?? 0));
  draw();
}

function infoOf(sessionId) {
  return state.sessions.find((session) => session.session_id === sessionId) ?? null;
}

function followAddress() {
  if (state.user === null) return;
  const match = /^#\/s\/([^/?#]+)/.exec(location.hash);
  if (match) conversations.open(decodeURIComponent(match[1]));
  else if (state.sessions.length > 0) show(state.sessions[0].session_id);
  else createSession();
}

function show(sessionId) {
  history.replaceState(null, "", `#/s/${encodeURIComponent(sessionId)}`);
  conversations.open(sessionId);
}

async function createSession() {
  page.closeDrawer();
  page.focus();
  const { place } = conversations;
  // An empty chat is as good as a new one.
  if (place?.status === "ready" && place.model.items.length === 0 && place.model.pending.length === 0) return;
  try {
    const made = await api.createSession({ session_id: `chat-${newId().slice(0, 13)}` });
    state.sessions = [made, ...state.sessions];
    location.hash = `#/s/${encodeURIComponent(made.session_id)}`;
  } catch (error) {
    page.banners.problem(error.message);
  }
}

async function archiveSession(sessionId) {
  try {
    await api.archiveSession(sessionId);
  } catch (error) {
    page.banners.problem(error.message);
    return;
  }
  state.sessions = state.sessions.filter((session) => session.session_id !== sessionId);
  if (conversations.current !== sessionId) {
    draw();
    return;
  }
  conversations.leave(conversations.place);
  conversations.current = null;
  if (state.sessions.length > 0) show(state.sessions[0].session_id);
  else createSession();
}

async function renameSession(title) {
  const info = infoOf(conversations.current);
  try {
    await api.changeSession(conversations.current, { title });
    if (info) info.title = title;
  } catch (error) {
    page.banners.problem(error.message);
  }
  draw();
}

// --- messages ----------------------------------------------------------------------------

function send(text) {
  const info = infoOf(conversations.current);
  if (info) {
    info.title ||= titleFrom(text);
    info.last_active_at = Date.now() / 1000;
  }
  conversations.send(text);
  page.toBottom();
}

function chooseModel(value) {
  const info = infoOf(conversations.current);
  if (info) info.model = value;
  conversations.choose("set_model", value);
}

function editMessage(messageId) {
  const text = conversations.takeBack(messageId);
  if (text === null) return;
  const { area } = page.composer;
  page.composer.setText(area.value ? `${text}\n${area.value}` : text);
  area.focus();
}

let listTimer = null;

function receiveFrames(frames) {
  const welcome = frames.find((frame) => frame.type === "welcome");
  if (welcome) state.notices = [];
  const notices = frames.filter((frame) => frame.type === "notice").map(bannerOfNotice);
  if (notices.length > 0) {
    state.notices = [...state.notices, ...notices];
    drawBanners();
  }
  if (welcome) {
    takeChoices(welcome);
    conversations.retryLoads();
    loadHealth();
  }
  const turned = conversations.receive(frames);
  if (turned.size > 0 || welcome) {
    clearTimeout(listTimer);
    listTimer = setTimeout(loadSessions, 400);
  }
  drawNow();
}

async function loadHealth() {
  const health = await guarded(api.health());
  if (health) state.health = health;
  drawBanners();
}

function drawBanners() {
  page.banners.site([...bannersOf(state.health), ...state.notices]);
}

// --- drawing -----------------------------------------------------------------------------

function draw() {
  if (state.drawing) return;
  state.drawing = true;
  queueMicrotask(drawNow);
}

function drawNow() {
  state.drawing = false;
  if (state.user === null) return;
  const { place } = conversations;
  const info = place ? infoOf(place.id) : null;
  state.choices.connected = socket.link.phase === "open";
  page.update({
    place,
    info,
    sessions: state.sessions,
    models: conversations.models,
    user: state.user,
    choices: state.choices,
    busy: place ? isBusy(place.model) : false,
    draft: place ? state.keepsakes.draft(place.id) : "",
  });
  announcer.update(place);
  drawConnection();
  const words = place ? sessionWords(info?.state, place.model) : { tone: "" };
  const mark = { asks: "(!) ", busy: "… " }[words.tone] ?? "";
  document.title = `${mark}${info?.title || "New chat"} – Claude Pool`;
}

function drawConnection() {
  page.banners.connection(socket.link, socket.retryAt(), performance.now());
}

function onKey(event) {
  if (event.key !== "Escape" || event.isComposing || event.defaultPrevented || page.node.hidden) return;
  if (page.isDrawerOpen()) page.closeDrawer();
  else conversations.interrupt();
}

document.body.append(page.node, signIn.node);
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", () => {
  if (location.hash.startsWith("#signin=")) begin();
  else followAddress();
});
setInterval(() => state.user !== null && drawConnection(), 500);
setInterval(() => state.user !== null && !document.hidden && loadSessions(), LIST_EVERY);
setInterval(() => state.user !== null && !document.hidden && loadHealth(), HEALTH_EVERY);
begin();
