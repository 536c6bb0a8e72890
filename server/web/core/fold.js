/**
 * A session as the screen shows it, folded from the server's frames in their order.
 *
 * Folding is idempotent: a frame that comes twice (history and live stream may
 * overlap, a gap may replay the log) changes nothing the second time. There is
 * no DOM, no clock and no network here.
 */

import { foldEvent } from "./fold_event.js";
import { addItem, contentText, newModel, pendingOf, settlePending, touch } from "./model.js";

const TERMINAL = new Set(["succeeded", "failed", "interrupted", "lost", "withdrawn"]);

/** Fold one server frame into the model. */
export function fold(model, frame) {
  const step = STEPS[frame.type];
  if (step) {
    step(model, frame);
    model.revision += 1;
  }
}

/** The user's own message, shown before the server has it. */
export function addPending(model, messageId, text) {
  model.pending.push({ messageId, turnId: null, text, state: "sending", position: null, error: null, rev: 0 });
  model.revision += 1;
}

/** Take a failed or unsent message back out, for editing. Returns its text, or null. */
export function takePending(model, messageId) {
  const index = model.pending.findIndex((entry) => entry.messageId === messageId);
  if (index === -1) return null;
  model.revision += 1;
  return model.pending.splice(index, 1)[0].text;
}

/** A failed message is tried again under the same id. */
export function retryPending(model, messageId) {
  const entry = model.pending.find((one) => one.messageId === messageId);
  if (entry) touch(entry, { state: "sending", error: null });
  model.revision += 1;
}

/** Put an older page of the log before what is shown. */
export function prepend(model, frames) {
  const older = newModel(model.sessionId);
  for (const frame of frames) fold(older, frame);
  const fresh = older.items.filter((item) => !model.byId.has(item.id));
  for (const item of fresh) model.byId.set(item.id, item);
  for (const id of older.seen) model.seen.add(id);
  for (const [id, turn] of older.turns) if (!model.turns.has(id)) model.turns.set(id, turn);
  for (const item of fresh) {
    const result = item.kind === "tool" && model.orphans.get(item.id);
    if (result) {
      touch(item, result);
      model.orphans.delete(item.id);
    }
  }
  model.items.unshift(...fresh);
  model.todoRev += 1;
  model.revision += 1;
}

/**
 * The cursor to subscribe from after `frames` of the log: that of the newest frame at which no
 * message was half written, so that the deltas of an unfinished block come from its beginning.
 */
export function joint(frames) {
  for (let at = frames.length - 1; at >= 0; at -= 1) {
    const { type, event, cursor, state } = frames[at];
    if (type === "event" && isBetweenBlocks(event)) return cursor;
    if (type === "turn" && TERMINAL.has(state)) return cursor;
  }
  return "0";
}

function isBetweenBlocks(event) {
  if (event.type === "system") return event.subtype === "init" || event.status === "requesting";
  return event.type === "result" || (event.type === "assistant" && !event.parent_tool_use_id);
}

/** Is a turn of this session under way or waiting to run? */
export function isBusy(model) {
  return model.running !== null || model.pending.some((entry) => entry.state === "queued");
}

const STEPS = {
  subscribed(model, frame) {
    setSessionState(model, frame.state);
    model.queue = frame.queue ?? null;
    const listed = new Map((frame.pending_permissions ?? []).map((ask) => [ask.request_id, ask]));
    for (const id of model.approvals.keys()) if (!listed.has(id)) model.approvals.delete(id);
    for (const ask of listed.values()) addApproval(model, ask);
    if (frame.turn?.turn_id) adoptTurn(model, frame.turn);
  },

  accepted(model, frame) {
    const entry = model.pending.find((one) => one.messageId === frame.message_id);
    if (!entry) return;
    const turn = model.turns.get(frame.turn_id);
    if (turn && turn.state !== "queued") {
      settlePending(model, frame.turn_id, frame.message_id, turn.state);
    } else {
      touch(entry, { turnId: frame.turn_id, state: "queued", position: frame.position ?? null, error: null });
    }
  },

  event(model, frame) {
    foldEvent(model, frame.event ?? {});
  },

  turn(model, frame) {
    foldTurn(model, frame);
  },

  permission_request(model, frame) {
    addApproval(model, frame);
  },

  permission_resolved(model, frame) {
    const ask = model.approvals.get(frame.request_id);
    if (!ask) return;
    model.approvals.delete(frame.request_id);
    model.resolved = { ...frame, tool: ask.tool };
  },

  session(model, frame) {
    setSessionState(model, frame.state);
    model.queue = frame.queue ?? null;
    model.reason = frame.reason ?? null;
    if (frame.model !== undefined) model.model = frame.model;
    if (frame.permission_mode) model.mode = frame.permission_mode;
  },

  gap(model) {
    // What is half written now has a hole in it: the assistant frame brings the whole text.
    model.open = null;
  },

  error(model, frame) {
    const entry = model.pending.find((one) => one.messageId === frame.message_id);
    if (!entry) return;
    touch(entry, { state: "failed", error: frame.message, retryAfter: frame.retry_after ?? null });
  },
};

function setSessionState(model, state) {
  if (!state) return;
  model.sessionState = state;
  // Without an instance nobody waits for an answer.
  if (state === "parked" || state === "archived") model.approvals.clear();
}

function addApproval(model, frame) {
  if (model.approvals.has(frame.request_id)) return;
  const { request_id: requestId, tool, input, ...details } = frame;
  model.approvals.set(requestId, { requestId, tool: tool ?? "Tool", input: input ?? {}, details });
}

/**
 * A turn that began before the part of the log we have. Its frames may still come with the
 * events that follow, and only they say where in the conversation its message belongs.
 */
function adoptTurn(model, turn) {
  if (model.turns.has(turn.turn_id) || turn.state !== "running") return;
  model.turns.set(turn.turn_id, { turnId: turn.turn_id, state: null, origin: turn.origin });
  model.running = turn.turn_id;
  model.activity = "working";
}

const RANK = { queued: 1, running: 2 };

function rankOf(state) {
  return TERMINAL.has(state) ? 3 : (RANK[state] ?? 0);
}

function foldTurn(model, frame) {
  const { turn_id: turnId, state } = frame;
  const known = model.turns.get(turnId);
  if (rankOf(state) <= rankOf(known?.state)) return;
  const turn = { ...known, turnId, state, origin: frame.origin ?? known?.origin, reason: frame.reason ?? null };
  turn.messageId = frame.message_id ?? known?.messageId ?? null;
  model.turns.set(turnId, turn);
  if (state === "queued") queueTurn(model, turn, frame.content);
  else if (TERMINAL.has(state)) endTurn(model, turn, frame);
  else runTurn(model, turn, frame);
}

/** A message that another window sent has no entry here yet; one of ours has. */
function queueTurn(model, turn, content) {
  const entry = pendingOf(model, turn.turnId, turn.messageId);
  if (entry) {
    touch(entry, { turnId: turn.turnId, state: "queued", error: null });
  } else if (turn.origin !== "cli") {
    const text = contentText(content);
    const { turnId, messageId } = turn;
    model.pending.push({ messageId, turnId, text, state: "queued", position: null, error: null, rev: 0 });
  }
}

function runTurn(model, turn, frame) {
  if (turn.origin !== "cli") settlePending(model, turn.turnId, turn.messageId, turn.state, frame.content);
  if (model.running !== turn.turnId) {
    model.activity = "working";
    model.retry = null;
  }
  model.running = turn.turnId;
}

function endTurn(model, turn, frame) {
  if (turn.origin !== "cli") settlePending(model, turn.turnId, turn.messageId, turn.state, frame.content);
  if (model.running === turn.turnId) model.running = null;
  model.activity = null;
  model.retry = null;
  keepCutText(model, turn);
  stopTools(model, turn.state);
  if (turn.state === "withdrawn") return;
  const usage = model.usage?.fresh ? model.usage : null;
  if (model.usage) model.usage.fresh = false;
  addItem(model, { kind: "outcome", id: `outcome:${turn.turnId}`, state: turn.state, reason: turn.reason, usage });
}

/** Deltas are never part of an answer; but what a person has read of a lost one stays, marked as cut. */
function keepCutText(model, turn) {
  const blocks = model.open?.blocks ?? [];
  model.open = null;
  if (turn.state !== "lost") return;
  for (const block of blocks) {
    if (block.type !== "text" || block.done || !block.text) continue;
    addItem(model, { kind: "text", id: `cut:${turn.turnId}:${block.index}`, text: block.text, cut: true });
  }
}

function stopTools(model, state) {
  if (state === "succeeded") return;
  for (let at = model.items.length - 1; at >= 0 && model.items[at].kind !== "outcome"; at -= 1) {
    const item = model.items[at];
    if (item.kind === "tool" && item.status === "running") touch(item, { status: "stopped" });
  }
}
