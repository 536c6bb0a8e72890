/**
 * Lines above the chat: what is true of the whole site, and the state of the connection.
 */

import { sentence } from "../core/wording.js";
import { el, icon, setText, show } from "./dom.js";

/** A short break is not worth a word. */
const SHOW_LOST_AFTER = 1500;

/** `retry()` connects at once. */
export function createBanners(retry) {
  const site = el("div", {});
  const words = el("span", {});
  const button = el("button", { type: "button", class: "link" }, "Retry now");
  button.addEventListener("click", () => retry());
  const lost = el("div", { class: "banner", "data-level": "warning", hidden: true, "data-testid": "connection-banner" });
  lost.append(icon("warning"), el("p", {}, words, " ", button));
  const problem = el("div", { class: "banner", "data-level": "error", hidden: true, role: "alert", "data-testid": "problem" });
  const problemText = el("p", {});
  const dismiss = el("button", { type: "button", class: "round bare", "aria-label": "Dismiss" }, icon("close"));
  dismiss.addEventListener("click", () => show(problem, false));
  problem.append(icon("warning"), problemText, dismiss);
  const node = el("div", { class: "banners" }, site, lost, problem);
  const hidden = new Set();
  let drawn = "";
  return {
    node,
    site(banners) {
      const shown = banners.filter((banner) => !hidden.has(banner.id));
      const signature = JSON.stringify(shown);
      if (signature === drawn) return;
      drawn = signature;
      site.replaceChildren(...shown.map((banner) => drawBanner(banner, hidden)));
    },
    connection(link, retryAt, now) {
      const gone = link.lostAt !== null && link.phase !== "idle" && now - link.lostAt > SHOW_LOST_AFTER;
      show(lost, gone);
      if (!gone) return;
      const seconds = retryAt === null ? 0 : Math.ceil((retryAt - now) / 1000);
      setText(words, seconds > 0 ? `Connection lost. Retrying in ${seconds} s.` : "Connection lost. Connecting…");
      show(button, seconds > 0);
    },
    problem(text) {
      setText(problemText, sentence(text));
      show(problem, text !== "");
    },
  };
}

function drawBanner(banner, hidden) {
  const node = el("div", { class: "banner", "data-level": banner.level, "data-testid": `banner-${banner.id}` });
  node.append(icon(banner.level === "info" ? "spark" : "warning"), el("p", {}, banner.text));
  if (banner.level === "info" || banner.closable) {
    const close = el("button", { type: "button", class: "round bare", "aria-label": "Dismiss" }, icon("close"));
    close.addEventListener("click", () => {
      hidden.add(banner.id);
      node.remove();
    });
    node.append(close);
  }
  return node;
}
