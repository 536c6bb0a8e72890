/**
 * What this browser keeps: drafts for a user, and this tab's messages that the server has not confirmed.
 *
 * Storage may be full or forbidden; then nothing is kept and nothing breaks.
 */

const DRAFT = "claude-pool.draft";
const OUTBOX = "claude-pool.outbox";

/** The keepsakes of one user. */
export function keepsakesOf(userId) {
  const draftKey = (sessionId) => `${DRAFT}:${userId}:${sessionId}`;
  const outboxKey = `${OUTBOX}:${userId}`;
  return {
    draft: (sessionId) => attempt(() => localStorage.getItem(draftKey(sessionId))) ?? "",
    keepDraft(sessionId, text) {
      attempt(() =>
        text ? localStorage.setItem(draftKey(sessionId), text) : localStorage.removeItem(draftKey(sessionId)),
      );
    },
    outbox: () => attempt(() => JSON.parse(sessionStorage.getItem(outboxKey))) ?? [],
    keepOutbox(frames) {
      attempt(() => sessionStorage.setItem(outboxKey, JSON.stringify(frames)));
    },
    /** Signing out leaves nothing for whoever uses this browser next. */
    forget() {
      attempt(() => sessionStorage.removeItem(outboxKey));
      const prefix = draftKey("");
      attempt(() => {
        for (const key of Object.keys(localStorage)) if (key.startsWith(prefix)) localStorage.removeItem(key);
      });
    },
  };
}

function attempt(deed) {
  try {
    return deed() ?? null;
  } catch {
    return null;
  }
}

/** A fresh id; crypto.randomUUID is missing on plain http. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
}
