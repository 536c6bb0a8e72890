/**
 * The REST interface as functions. Every failure is an ApiError with the server's own words.
 */

/** A refusal or a failure to reach the server; `status` is 0 when it was not reached. */
export class ApiError extends Error {
  constructor(status, code, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** An address below the page, so that the site works under any base path. */
export function siteUrl(path) {
  return new URL(path, document.baseURI);
}

async function call(method, path, body) {
  const options = { method, credentials: "same-origin", headers: { Accept: "application/json" } };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(siteUrl(path), options);
  } catch {
    throw new ApiError(0, "unreachable", "The server cannot be reached.");
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw refusal(response.status, answer);
  return answer;
}

function refusal(status, answer) {
  const error = answer?.error ?? {};
  const message = error.message ?? `The server answered ${status}.`;
  return new ApiError(status, error.code ?? "unknown", message, error.retry_after ?? null);
}

const session = (id) => `api/v1/sessions/${encodeURIComponent(id)}`;

export const api = {
  me: () => call("GET", "api/v1/me"),
  login: (username, password) => call("POST", "api/v1/auth/login", { username, password }),
  redeem: (code) => call("POST", "api/v1/auth/links/redeem", { code }),
  logout: () => call("POST", "api/v1/auth/logout", {}),
  health: () => call("GET", "health"),
  createSession: (body) => call("POST", "api/v1/sessions", body),
  session: (id) => call("GET", session(id)),
  changeSession: (id, changes) => call("PATCH", session(id), changes),
  archiveSession: (id) => call("DELETE", session(id)),

  /** All sessions that the list gives on its first page. */
  async sessions() {
    const answer = await call("GET", "api/v1/sessions");
    return Array.isArray(answer) ? answer : (answer?.sessions ?? answer?.items ?? []);
  },

  /** One page of the log that ends before `before`: {frames, prev}. */
  async history(id, before, limit) {
    const query = new URLSearchParams({ limit: String(limit) });
    if (before !== null) query.set("before", before);
    const answer = await call("GET", `${session(id)}/history?${query}`);
    return { frames: answer?.frames ?? [], prev: answer?.prev ?? null };
  },
};
