/**
 * What a screen reader is told, and nothing more: the moments at which something begins, ends or is needed.
 */

/** `say(text)` writes to the page's one polite status region. */
export function createAnnouncer(say) {
  const told = { session: null, running: null, ask: null, outcome: null };
  return {
    update(place) {
      if (!place) return;
      const { model } = place;
      const last = model.items[model.items.length - 1];
      const [ask] = model.approvals.values();
      const now = {
        session: place.id,
        running: model.running,
        ask: ask?.requestId ?? null,
        outcome: last?.kind === "outcome" ? last.id : null,
      };
      const words = told.session === now.session ? change(told, now, ask, last) : "";
      Object.assign(told, now);
      if (words) say(words);
    },
  };
}

const ENDINGS = { succeeded: "Claude has finished", interrupted: "Stopped", failed: "The turn failed", lost: "The turn was lost" };

function change(before, now, ask, last) {
  if (now.ask && now.ask !== before.ask) return `Claude asks for permission: ${ask.tool}`;
  if (now.outcome && now.outcome !== before.outcome) return ENDINGS[last.state] ?? "The turn has ended";
  if (before.ask && !now.ask) return "The permission request is answered";
  if (now.running && now.running !== before.running) return "Claude is working";
  return "";
}
