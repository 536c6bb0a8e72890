/**
 * The chat socket as a state machine: what happened goes in, what to do comes out.
 *
 * It never does anything itself: net/socket.js carries the instructions out. Instructions:
 * {do:"connect"} {do:"send",frame} {do:"wait",ms} {do:"drop"} {do:"probe"} {do:"signed_out"}
 * {do:"deliver",frame} {do:"reset",sessionId} {do:"resend",messageId,ms}. Times are milliseconds of any one clock.
 *
 * What a broken connection must not lose is kept here until the server has it:
 * messages until `accepted`, answers to approvals until they are resolved, and
 * for each followed session the cursor of the last frame that came.
 */

const FIRST_DELAY = 500;
const LONGEST_DELAY = 15000;
const STEADY_AFTER = 5000;
const QUIET_LIMIT = 25000;
const PONG_LIMIT = 10000;
/** The close code of a credential that is not good any more. */
export const GONE = 4401;
const RESTARTING = 1012;
/** Errors after which the same message, with its id, is sent again by itself. */
const PASSING = new Set(["draining", "store_unavailable"]);

/** A link that has not been started. phase: idle, connecting, greeting, open, waiting, signed_out. */
export function newLink() {
  return {
    phase: "idle",
    attempt: 0,
    openedAt: 0,
    heardAt: 0,
    pingAt: null,
    lostAt: null,
    followed: new Map(),
    outbox: new Map(),
    answers: new Map(),
  };
}

/** Begin, or begin again after a sign-in. */
export function start(link, now) {
  if (link.phase !== "idle" && link.phase !== "signed_out") return [];
  link.attempt = 0;
  return connect(link, now);
}

/** Sign-out: nothing is kept for whoever comes next. */
export function stop(link) {
  link.phase = "idle";
  for (const kept of [link.followed, link.outbox, link.answers]) kept.clear();
  return [{ do: "drop" }];
}

function connect(link, now) {
  link.phase = "connecting";
  link.lostAt ??= now;
  link.heardAt = now;
  link.pingAt = null;
  return [{ do: "connect" }];
}

/** The socket is open; the server greets first. */
export function opened(link, now) {
  link.phase = "greeting";
  link.heardAt = now;
  return [];
}

/** A server frame came. */
export function received(link, frame, now) {
  link.heardAt = now;
  link.pingAt = null;
  const step = RECEIVED[frame.type] ?? pass;
  return step(link, frame, now);
}

function pass(link, frame) {
  if (frame.session_id !== undefined && frame.cursor !== undefined) {
    const place = link.followed.get(frame.session_id);
    // A frame of a session left a moment ago belongs to nobody.
    if (!place) return [];
    place.cursor = frame.cursor;
  }
  return [{ do: "deliver", frame }];
}

const RECEIVED = {
  welcome(link, frame, now) {
    link.phase = "open";
    link.openedAt = now;
    link.lostAt = null;
    const out = [{ do: "deliver", frame }];
    for (const [sessionId, place] of link.followed) out.push(send(subscription(sessionId, place)));
    for (const kept of link.outbox.values()) out.push(send(kept));
    return out;
  },

  pong() {
    return [];
  },

  subscribed(link, frame) {
    const open = new Set((frame.pending_permissions ?? []).map((ask) => ask.request_id));
    const out = pass(link, frame);
    for (const [id, answer] of link.answers) {
      if (answer.session_id !== frame.session_id) continue;
      if (open.has(id)) out.push(send(answer));
      else link.answers.delete(id);
    }
    return out;
  },

  accepted(link, frame) {
    link.outbox.delete(frame.message_id);
    return [{ do: "deliver", frame }];
  },

  permission_resolved(link, frame) {
    link.answers.delete(frame.request_id);
    return pass(link, frame);
  },

  error(link, frame) {
    if (frame.code === "bad_cursor") return startOver(link, frame.session_id);
    link.answers.delete(frame.request_id);
    if (PASSING.has(frame.code) && link.outbox.has(frame.message_id)) return postponed(frame);
    link.outbox.delete(frame.message_id);
    return [{ do: "deliver", frame }];
  },
};

/** A server that stops, or whose database does not answer: its successor, or it later, is asked again. */
function postponed(frame) {
  return [{ do: "resend", messageId: frame.message_id, ms: Math.max(1, frame.retry_after ?? 2) * 1000 }];
}

/** The time of a {do:"resend"} has come. */
export function resend(link, messageId) {
  const kept = link.outbox.get(messageId);
  return kept && link.phase === "open" ? [send(kept)] : [];
}

function startOver(link, sessionId) {
  const place = link.followed.get(sessionId);
  if (!place || place.cursor === "0") return [];
  place.cursor = "0";
  return [{ do: "reset", sessionId }, send(subscription(sessionId, place))];
}

/** The socket closed, or never opened. `random` is from 0 to 1. */
export function closed(link, code, now, random) {
  if (link.phase === "idle" || link.phase === "signed_out") return [];
  const greeted = link.phase === "open";
  if (code === GONE) {
    link.phase = "signed_out";
    return [{ do: "signed_out" }];
  }
  link.lostAt ??= now;
  if (greeted && now - link.openedAt >= STEADY_AFTER) link.attempt = 0;
  if (code === RESTARTING && link.attempt === 0) {
    link.attempt = 1;
    return connect(link, now);
  }
  link.phase = "waiting";
  const ms = backoff(link.attempt, random);
  link.attempt += 1;
  // A refused handshake looks like any other failure; only a request tells whether we are signed in.
  return greeted ? [{ do: "wait", ms }] : [{ do: "probe" }, { do: "wait", ms }];
}

/** 0.5 s doubling to 15 s, each with a quarter of jitter either way. */
export function backoff(attempt, random) {
  const base = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** Math.min(attempt, 10));
  return Math.min(LONGEST_DELAY, Math.max(FIRST_DELAY, Math.round(base * (0.75 + 0.5 * random))));
}

/** The wait is over, the network is back, the page is visible again, or the user asks. */
export function wake(link, now) {
  if (link.phase === "waiting") return connect(link, now);
  return link.phase === "open" && now - link.heardAt > 2000 ? ping(link, now) : [];
}

/** Called every few seconds: finds a connection that is dead without having been closed. */
export function tick(link, now) {
  const waiting = link.phase === "connecting" || link.phase === "greeting";
  if (waiting) return now - link.heardAt > PONG_LIMIT ? [{ do: "drop" }] : [];
  if (link.phase !== "open") return [];
  if (link.pingAt !== null) return now - link.pingAt > PONG_LIMIT ? [{ do: "drop" }] : [];
  return now - link.heardAt > QUIET_LIMIT ? ping(link, now) : [];
}

function ping(link, now) {
  if (link.pingAt !== null) return [];
  link.pingAt = now;
  return [send({ type: "ping" })];
}

/** Follow a session from `cursor` on. */
export function follow(link, sessionId, cursor) {
  const place = { cursor };
  link.followed.set(sessionId, place);
  return link.phase === "open" ? [send(subscription(sessionId, place))] : [];
}

/** Follow a session no more. */
export function unfollow(link, sessionId) {
  if (!link.followed.delete(sessionId)) return [];
  return link.phase === "open" ? [send({ type: "unsubscribe", session_id: sessionId })] : [];
}

/** Send a message; it is sent again by every new connection until the server has it. */
export function say(link, frame) {
  link.outbox.set(frame.message_id, frame);
  return link.phase === "open" ? [send(frame)] : [];
}

/** Answer an approval; kept until the server says that it is resolved. */
export function answer(link, frame) {
  link.answers.set(frame.request_id, frame);
  return link.phase === "open" ? [send(frame)] : [];
}

/** Send what is worth nothing later (interrupt, set_model). Nothing happens when not connected. */
export function tell(link, frame) {
  return link.phase === "open" ? [send(frame)] : [];
}

function send(frame) {
  return { do: "send", frame };
}

function subscription(sessionId, place) {
  const frame = { type: "subscribe", session_id: sessionId };
  if (place.cursor !== null && place.cursor !== undefined) frame.cursor = place.cursor;
  return frame;
}
