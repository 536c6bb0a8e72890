/**
 * What a session's model is made of: its shape, its items and its waiting messages. No DOM.
 *
 * Items, in order: {kind:"user"|"text"|"thinking"|"tool"|"notice"|"outcome", id, rev, …};
 * `rev` grows with every change, so that a view redraws only what changed.
 */

/** An empty model of one session. */
export function newModel(sessionId) {
  return {
    sessionId,
    items: [],
    byId: new Map(),
    open: null,
    pending: [],
    turns: new Map(),
    running: null,
    approvals: new Map(),
    resolved: null,
    sessionState: null,
    queue: null,
    reason: null,
    retry: null,
    activity: null,
    model: null,
    mode: null,
    usage: null,
    cwd: null,
    seen: new Set(),
    orphans: new Map(),
    todoRev: 0,
    revision: 0,
  };
}

/** Add an item at the end, unless its id is known. Returns the item that has the id. */
export function addItem(model, item) {
  const known = model.byId.get(item.id);
  if (known) return known;
  item.rev = 0;
  model.byId.set(item.id, item);
  model.items.push(item);
  return item;
}

/** Change an item and mark it for drawing. */
export function touch(item, changes) {
  Object.assign(item, changes);
  item.rev += 1;
}

/** The waiting message of a turn, if it is still waiting. */
export function pendingOf(model, turnId, messageId) {
  return model.pending.find(
    (entry) => (messageId && entry.messageId === messageId) || (entry.turnId && entry.turnId === turnId),
  );
}

/** Move a message from the waiting ones into the conversation, where its turn begins. */
export function settlePending(model, turnId, messageId, state, content) {
  const entry = pendingOf(model, turnId, messageId);
  if (entry) model.pending.splice(model.pending.indexOf(entry), 1);
  const text = entry?.text ?? contentText(content);
  const known = model.byId.get(`turn:${turnId}`);
  if (!known) {
    if (state === "withdrawn" && text === null) return null;
    return addItem(model, { kind: "user", id: `turn:${turnId}`, text, state, messageId });
  }
  if (known.state !== state || (known.text === null && text !== null)) {
    touch(known, { state, text: known.text ?? text });
  }
  return known;
}

/** The text of a message's content (a string or blocks), or null when it is not known. */
export function contentText(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return null;
  return content.map((block) => (block.type === "text" ? block.text : `[${block.type}]`)).join("\n");
}
