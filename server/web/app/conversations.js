/**
 * The sessions that this page has open: their models, their history, what the user does in them.
 *
 * A session is loaded from the newest page of its log, then followed from there. The current
 * one is always followed, another one as long as it is busy.
 */

import { addPending, fold, isBusy, joint, prepend, retryPending, takePending } from "../core/fold.js";
import { newModel } from "../core/model.js";
import { newId } from "./keepsakes.js";

const PAGE = 200;

/** `around` has api, socket, keepsakes(), changed(), failed(message). */
export function createConversations(around) {
  return new Conversations(around);
}

class Conversations {
  constructor(around) {
    this.around = around;
    this.places = new Map();
    this.current = null;
  }

  /** The models by session id, for the list. */
  get models() {
    return new Map([...this.places].map(([id, place]) => [id, place.model]));
  }

  /** The session on screen, or null. */
  get place() {
    return this.places.get(this.current) ?? null;
  }

  /** Show a session; loads it when it is not followed already. */
  open(sessionId) {
    if (this.current === sessionId && this.place) return;
    const left = this.place;
    this.current = sessionId;
    if (left && !isBusy(left.model)) this.leave(left);
    if (!this.places.has(sessionId)) {
      this.places.set(sessionId, newPlace(sessionId));
      this.load(sessionId);
    }
    this.around.changed();
  }

  /** Forget everything: another user may come. */
  clear() {
    this.places.clear();
    this.current = null;
  }

  leave(place) {
    this.places.delete(place.id);
    this.around.socket.unfollow(place.id);
  }

  /** Read the newest page of the log and follow from there. */
  async load(sessionId) {
    const place = this.places.get(sessionId);
    const { api, socket } = this.around;
    try {
      const info = await api.session(sessionId);
      const page = await api.history(sessionId, null, PAGE);
      if (this.places.get(sessionId) !== place) return;
      place.model.mode = info.permission_mode ?? null;
      place.model.sessionState = info.state ?? null;
      for (const frame of page.frames) fold(place.model, frame);
      place.prev = page.prev;
      place.status = "ready";
      this.restorePending(place);
      socket.follow(sessionId, joint(page.frames));
    } catch (error) {
      if (this.places.get(sessionId) !== place) return;
      place.status = error.status === 404 ? "missing" : "error";
      place.error = error.message;
    }
    this.around.changed();
  }

  /** Messages of this tab that were on their way when the page was loaded anew. */
  restorePending(place) {
    for (const frame of this.around.socket.link.outbox.values()) {
      if (frame.session_id === place.id) addPending(place.model, frame.message_id, frame.content);
    }
  }

  /** Places that could not be loaded are tried again with a new connection. */
  retryLoads() {
    for (const place of this.places.values()) {
      if (place.status !== "error") continue;
      place.status = "loading";
      this.load(place.id);
    }
  }

  async loadEarlier() {
    const { place } = this;
    if (!place || place.prev === null || place.loadingEarlier) return;
    place.loadingEarlier = true;
    try {
      const page = await this.around.api.history(place.id, place.prev, PAGE);
      prepend(place.model, page.frames);
      place.prev = page.frames.length > 0 && page.prev !== place.prev ? page.prev : null;
    } catch (error) {
      this.around.failed(error.message);
    }
    place.loadingEarlier = false;
    this.around.changed();
  }

  /** Fold what the socket brought. Returns the ids of sessions in which a turn began or ended. */
  receive(frames) {
    const turned = new Set();
    for (const frame of frames) {
      const place = this.places.get(frame.session_id);
      if (!place) {
        if (frame.type === "error") this.around.failed(frame.message);
        continue;
      }
      fold(place.model, frame);
      if (frame.type === "turn" || frame.type === "session") turned.add(frame.session_id);
      if (frame.type === "error" && !frame.message_id) this.complain(place, frame);
      if (frame.type === "accepted" || frame.type === "error") this.keepOutbox();
      if (place.model.running === null || place.model.running !== place.stopping) place.stopping = null;
      if (place.id !== this.current && !isBusy(place.model) && place.model.approvals.size === 0) this.leave(place);
    }
    return turned;
  }

  complain(place, frame) {
    if (frame.code === "already_resolved") return;
    place.answered.delete(frame.request_id);
    this.around.failed(frame.message);
  }

  /** The log was not continuous for the server: begin again from its oldest frame. */
  reset(sessionId) {
    const place = this.places.get(sessionId);
    if (!place) return;
    place.model = newModel(sessionId);
    this.restorePending(place);
  }

  send(text) {
    const { place } = this;
    const messageId = newId();
    addPending(place.model, messageId, text);
    this.say(place, messageId, text);
  }

  say(place, messageId, text) {
    const frame = { type: "send", session_id: place.id, content: text, message_id: messageId };
    this.around.socket.say(frame);
    this.keepOutbox();
    this.around.changed();
  }

  keepOutbox() {
    this.around.keepsakes().keepOutbox([...this.around.socket.link.outbox.values()]);
  }

  /** The same message under the same id: the server runs it at most once. */
  retry(messageId) {
    const entry = this.place.model.pending.find((one) => one.messageId === messageId);
    if (!entry) return;
    retryPending(this.place.model, messageId);
    this.say(this.place, messageId, entry.text);
  }

  /** Take a failed message back for editing. Returns its text. */
  takeBack(messageId) {
    const text = takePending(this.place.model, messageId);
    this.around.socket.link.outbox.delete(messageId);
    this.keepOutbox();
    this.around.changed();
    return text;
  }

  interrupt() {
    const { place } = this;
    if (!place || !isBusy(place.model) || place.stopping) return;
    place.stopping = place.model.running;
    this.around.socket.tell({ type: "interrupt", session_id: place.id });
    this.around.changed();
  }

  decide(requestId, answer) {
    const { place } = this;
    if (place.answered.has(requestId)) return;
    place.answered.add(requestId);
    this.around.socket.answer({ type: "permission", session_id: place.id, request_id: requestId, ...answer });
    this.around.changed();
  }

  choose(kind, value) {
    const { place } = this;
    this.around.socket.tell({ type: kind, session_id: place.id, value });
    if (kind === "set_permission_mode") place.model.mode = value;
    this.around.changed();
  }
}

/** status: loading, ready, missing, error. `prev` is the cursor before which older pages lie, or null. */
function newPlace(id) {
  return {
    id,
    model: newModel(id),
    status: "loading",
    error: null,
    prev: null,
    loadingEarlier: false,
    stopping: null,
    answered: new Set(),
  };
}
