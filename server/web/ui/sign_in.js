/**
 * The way in: name and password, or a one-time link that a button redeems.
 */

import { sentence } from "../core/wording.js";
import { el, icon, setText, show } from "./dom.js";

/** `on` has login(name, password) and redeem(code); both may throw an error whose message is shown. */
export function createSignIn(on) {
  const title = el("h1", {}, "Claude Pool");
  const lead = el("p", { class: "quiet" });
  const problem = el("p", { class: "problem", role: "alert", "data-testid": "sign-in-error" });
  const form = passwordForm(on, problem);
  const redeem = redeemButton(on, problem);
  const mark = el("div", { class: "empty-mark" }, icon("spark"));
  const card = el("div", { class: "sign-in-card" }, mark, title, lead, redeem.node, form.node, problem);
  const node = el("main", { class: "sign-in", hidden: true }, card);
  return {
    node,
    /** Show for a one-time code, or for name and password when `code` is null. */
    open(code, why) {
      show(node, true);
      setText(lead, why);
      setText(problem, "");
      show(redeem.node, code !== null);
      show(form.node, code === null);
      redeem.code = code;
      (code === null ? form.user : redeem.node).focus();
    },
    close() {
      show(node, false);
      form.password.value = "";
    },
  };
}

function passwordForm(on, problem) {
  const attributes = { required: true, autocapitalize: "none", spellcheck: "false" };
  const user = el("input", { type: "text", autocomplete: "username", "data-testid": "sign-in-user", ...attributes });
  const secret = { type: "password", autocomplete: "current-password", "data-testid": "sign-in-password" };
  const password = el("input", { ...attributes, ...secret });
  const submit = el("button", { type: "submit", class: "primary wide", "data-testid": "sign-in-submit" }, "Sign in");
  const node = el("form", {}, el("label", {}, "Name", user), el("label", {}, "Password", password), submit);
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(submit, problem, () => on.login(user.value.trim(), password.value));
  });
  return { node, user, password };
}

function redeemButton(on, problem) {
  const node = el("button", { type: "button", class: "primary wide", "data-testid": "sign-in-redeem" }, "Sign in");
  const self = { node, code: null };
  node.addEventListener("click", () => attempt(node, problem, () => on.redeem(self.code)));
  return self;
}

async function attempt(button, problem, deed) {
  button.disabled = true;
  setText(problem, "");
  try {
    await deed();
  } catch (error) {
    const wait = error.retryAfter ? ` Try again in ${Math.ceil(error.retryAfter)} s.` : "";
    setText(problem, `${sentence(error.message)}${wait}`);
  } finally {
    button.disabled = false;
  }
}
