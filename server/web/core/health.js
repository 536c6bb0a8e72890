/**
 * What `/health` means for a person at the chat page. No DOM.
 */

import { sentence } from "./wording.js";

/** [{id, level, text}] to show above the chat, the gravest first. */
export function bannersOf(health) {
  if (!health || typeof health !== "object") return [];
  const banners = [];
  const isolation = health.checks?.isolation;
  if (isolation && isolation.ok === false) {
    const detail = isolation.detail ? ` ${sentence(isolation.detail)}` : "";
    banners.push({ id: "isolation", level: "warning", text: `Sessions are not isolated from each other.${detail}` });
  }
  if (health.status === "draining") {
    banners.push({ id: "draining", level: "warning", text: "The server is stopping and takes no new messages." });
  }
  if (usesDemoModel(health)) {
    const text = "Demo model: answers are scripted. Add a model provider to talk to Claude.";
    banners.push({ id: "demo", level: "info", text });
  }
  return banners;
}

/** A word of the server to this user: {id, level, text, closable}. */
export function bannerOfNotice(frame) {
  const { quota, team, resets_at: until } = frame.details ?? {};
  const id = `notice-${[frame.code, quota, team, until].filter(Boolean).join("-")}`;
  return { id, level: "warning", text: sentence(frame.message ?? ""), closable: true };
}

/** Does the server answer with its built-in demo model? */
export function usesDemoModel(health) {
  const model = health.model;
  if (typeof model === "string") return model === "demo";
  if (model && typeof model === "object") {
    return model.demo === true || [model.kind, model.provider, model.name].includes("demo");
  }
  return false;
}
