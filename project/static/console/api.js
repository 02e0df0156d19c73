/** The site's HTTP API of sessions. A token goes into a header, never into an address. */

export class ApiError extends Error {
  constructor(status, { reason = "unavailable", message = "" } = {}) {
    super(message || "The server did not answer. Try again.");
    this.name = "ApiError";
    this.status = status;
    this.reason = reason;
  }
}

export class Api {
  #base;

  /** @param {string} base  ends with a slash */
  constructor(base) {
    this.#base = base;
  }

  /** The sessions of the logged-in user. */
  async list() {
    return (await this.#ask("GET", "")).sessions;
  }

  get(id, token) {
    return this.#ask("GET", `${id}/`, { token });
  }

  rename(id, token, title) {
    return this.#ask("PATCH", `${id}/`, { token, body: { title } });
  }

  /** @param {{role: string, label?: string, expires_in?: number}} link */
  share(id, token, link) {
    return this.#ask("POST", `${id}/share/`, { token, body: link });
  }

  /** The links that were given out and still let somebody in, the newest first. */
  async links(id, token) {
    return (await this.#ask("GET", `${id}/links/`, { token })).links;
  }

  revokeLink(id, token, link) {
    return this.#ask("DELETE", `${id}/links/${link}/`, { token });
  }

  /** Ends all links and tokens, our own too; resolves to a new one for us. */
  async revokeLinks(id, token) {
    return (await this.#ask("DELETE", `${id}/links/`, { token })).token;
  }

  async #ask(method, path, { token = null, body } = {}) {
    const headers = { Accept: "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
    if (method !== "GET") {
      headers["Content-Type"] = "application/json";
      headers["X-CSRFToken"] = csrfToken();
    }
    let response;
    let answer;
    try {
      response = await fetch(this.#base + path, { method, headers, body: body && JSON.stringify(body) });
      answer = await response.json();
    } catch {
      throw new ApiError(response?.status ?? 0);
    }
    if (!response.ok) throw new ApiError(response.status, answer.error);
    return answer;
  }
}

function csrfToken() {
  return document.cookie.match(/(?:^|;\s*)csrftoken=([^;]*)/)?.[1] ?? "";
}
