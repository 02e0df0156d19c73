/**
 * The sessions this browser has been in, with their tokens: for anonymous visitors the only list there is.
 * They lie in localStorage, where only this site's scripts read them, and are sent nowhere but in INIT and a header.
 */

const KEY = "ohsessions:sessions";
const MOST = 60;

/** @typedef {{id: string, token: string, title: string, runtime: string|null, seen: string}} Remembered */

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

/** @param {Partial<Remembered> & {id: string}} changes */
export function rememberSession(changes) {
  const others = rememberedSessions().filter((one) => one.id !== changes.id);
  const before = recallSession(changes.id) ?? { token: "", title: "", runtime: null };
  write([{ ...before, ...changes, seen: new Date().toISOString() }, ...others].slice(0, MOST));
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
