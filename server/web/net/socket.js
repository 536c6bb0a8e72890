/**
 * The one WebSocket of the page: carries out what core/link.js decides.
 *
 * Frames are gathered and handed over once per animation frame, or by a timer
 * while the page is hidden (animation frames stop there).
 */

import * as rules from "../core/link.js";
import { siteUrl } from "./api.js";

const TICK = 3000;
const HIDDEN_FLUSH = 250;

/**
 * Make the link. `on` has: frames([frame…]), reset(sessionId), signedOut(), probe(), changed().
 * Nothing is connected before `start()`.
 */
export function createSocket(on) {
  const link = rules.newLink();
  const shell = { link, on, socket: null, timer: null, retryAt: null, queue: [], scheduled: false };
  setInterval(() => act(shell, rules.tick(link, now())), TICK);
  window.addEventListener("online", () => act(shell, rules.wake(link, now())));
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) act(shell, rules.wake(link, now()));
    if (shell.queue.length > 0) flush(shell);
  });
  return {
    link,
    retryAt: () => shell.retryAt,
    start: () => act(shell, rules.start(link, now())),
    stop: () => act(shell, rules.stop(link)),
    /** A request was refused: the session has ended, whatever the socket thinks. */
    refused: () => act(shell, rules.closed(link, rules.GONE, now(), 0)),
    wake: () => act(shell, rules.wake(link, now())),
    follow: (sessionId, cursor) => act(shell, rules.follow(link, sessionId, cursor)),
    unfollow: (sessionId) => act(shell, rules.unfollow(link, sessionId)),
    say: (frame) => act(shell, rules.say(link, frame)),
    answer: (frame) => act(shell, rules.answer(link, frame)),
    tell: (frame) => act(shell, rules.tell(link, frame)),
  };
}

function now() {
  return performance.now();
}

function act(shell, instructions) {
  for (const one of instructions) DEEDS[one.do](shell, one);
  if (instructions.some((one) => one.do !== "deliver" && one.do !== "send")) shell.on.changed();
}

const DEEDS = {
  connect(shell) {
    clearTimeout(shell.timer);
    shell.retryAt = null;
    let socket;
    try {
      const url = siteUrl("ws");
      url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
      socket = new WebSocket(url);
    } catch {
      queueMicrotask(() => lost(shell, socket, 1006));
      return;
    }
    shell.socket = socket;
    socket.onopen = () => shell.socket === socket && act(shell, rules.opened(shell.link, now()));
    socket.onmessage = (message) => shell.socket === socket && heard(shell, message.data);
    socket.onclose = (event) => shell.socket === socket && lost(shell, socket, event.code);
  },

  send(shell, { frame }) {
    if (shell.socket?.readyState === WebSocket.OPEN) shell.socket.send(JSON.stringify(frame));
  },

  wait(shell, { ms }) {
    clearTimeout(shell.timer);
    shell.retryAt = now() + ms;
    shell.timer = setTimeout(() => act(shell, rules.wake(shell.link, now())), ms);
  },

  drop(shell) {
    clearTimeout(shell.timer);
    const socket = shell.socket;
    shell.socket = null;
    socket?.close();
    // A dead connection may take minutes to say so: it counts as closed from here.
    act(shell, rules.closed(shell.link, 1006, now(), Math.random()));
  },

  resend(shell, { messageId, ms }) {
    setTimeout(() => act(shell, rules.resend(shell.link, messageId)), ms);
  },

  deliver(shell, { frame }) {
    shell.queue.push(frame);
    if (shell.scheduled) return;
    shell.scheduled = true;
    if (document.hidden) setTimeout(() => flush(shell), HIDDEN_FLUSH);
    else requestAnimationFrame(() => flush(shell));
  },

  reset: (shell, { sessionId }) => shell.on.reset(sessionId),
  probe: (shell) => shell.on.probe(),

  signed_out(shell) {
    clearTimeout(shell.timer);
    const socket = shell.socket;
    shell.socket = null;
    socket?.close();
    flush(shell);
    shell.on.signedOut();
  },
};

function heard(shell, data) {
  let frame;
  try {
    frame = JSON.parse(data);
  } catch {
    return;
  }
  act(shell, rules.received(shell.link, frame, now()));
  if (frame.type === "welcome") shell.on.changed();
}

function lost(shell, socket, code) {
  if (shell.socket === socket) shell.socket = null;
  act(shell, rules.closed(shell.link, code, now(), Math.random()));
}

function flush(shell) {
  shell.scheduled = false;
  const frames = shell.queue;
  shell.queue = [];
  if (frames.length > 0) shell.on.frames(frames);
}
