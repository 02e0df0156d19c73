/**
 * The sessions this browser has been in, with their tokens: for anonymous visitors the only list there is.
 * They lie in localStorage, where only this site's scripts read them, and are sent nowhere but in INIT and a header.
 */

const KEY = "ohsessions:sessions";
const MOST = 60;

const RANKS = { viewer: 1, editor: 2, owner: 3 };

/** @typedef {{id: string, token: string, role: string, title: string, runtime: string|null, seen: string}} Remembered */

/** @returns {Remembered[]} the latest first */
export function rememberedSessions() {
  try {
    const list = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(list) ? list.filter((one) => one && typeof one.id === "string") : [];
  } catch {
    return [];
  }
}

export function recallSession(id) {
  return rememberedSessions().find((one) => one.id === id) ?? null;
}

/**
 * A link for viewers, followed by the owner to see what it shows, must not replace the owner's token: of two the one
 * that grants more is kept.
 *
 * @param {Partial<Remembered> & {id: string}} changes
 */
export function rememberSession(changes) {
  const others = rememberedSessions().filter((one) => one.id !== changes.id);
  const before = recallSession(changes.id) ?? { token: "", role: "", title: "", runtime: null };
  if (before.token && RANKS[changes.role] < RANKS[before.role]) changes = { ...changes, token: before.token, role: before.role };
  write([{ ...before, ...changes, seen: new Date().toISOString() }, ...others].slice(0, MOST));
}

/** The server does not take this token any more. */
export function forgetToken(id, token) {
  write(rememberedSessions().map((one) => (one.id === id && one.token === token ? { ...one, token: "", role: "" } : one)));
}

export function forgetSession(id) {
  write(rememberedSessions().filter((one) => one.id !== id));
}

function write(list) {
  try {
    localStorage.setItem(KEY, JSON.stringify(list));
  } catch {
    // Then the address with its token is all the visitor has, as without this list.
  }
}
