/** The site's HTTP API of sessions. A token goes into a header, never into an address. */

export class ApiError extends Error {
  constructor(status, { reason = "unavailable", message = "" } = {}) {
    super(message || "The server could not be asked.");
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

  share(id, token, role) {
    return this.#ask("POST", `${id}/share/`, { token, body: { role } });
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
