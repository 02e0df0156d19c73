/** The dialog in which owners give out links to a session, see which they gave out, and take them back. */

import { byId, copyText, el } from "./dom.js";
import { ago } from "./time.js";

const ROLE_WORDS = { viewer: "watches", editor: "takes part" };
const FAREWELL = "Press again to disconnect everybody and to revoke all links.";

/**
 * @typedef {object} Sharing
 * @property {(body: {role: string, label: string, expires_in?: number}) => Promise<string>} makeLink
 * @property {() => Promise<object[]>} listLinks  the newest first
 * @property {(id: string) => Promise<void>} revokeLink
 * @property {() => Promise<void>} revokeAll
 * @property {string|null} ownLink  for those who cannot make links: the one they have
 * @property {string} role
 */

/** @param {Sharing} sharing */
export function showShare(sharing) {
  const { ownLink, role } = sharing;
  const isOwner = ownLink === null;
  byId("share-make").hidden = !isOwner;
  byId("share-given").hidden = true;
  byId("share-make").querySelectorAll("input[type=radio]").forEach((input) => (input.checked = false));
  byId("share-label").value = "";
  showLink(isOwner ? "" : ownLink);
  say(
    isOwner
      ? "Choose what they may do: that makes the link."
      : `Everybody with your link may do the same as you: ${role === "viewer" ? "watch" : "watch and send"}.`,
  );
  prepareCopy();
  if (isOwner) {
    prepareMaking(sharing);
    prepareRevokingAll(sharing);
    refresh(sharing);
  }
  byId("share-dialog").showModal();
}

function say(text) {
  byId("share-note").textContent = text;
}

function showLink(link) {
  byId("share-link").value = link;
  byId("share-copy").disabled = !link;
}

function prepareCopy() {
  const field = byId("share-link");
  const copy = byId("share-copy");
  field.onfocus = () => field.select();
  copy.textContent = "Copy link";
  copy.onclick = async () => {
    copy.textContent = (await copyText(field.value)) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (copy.textContent = "Copy link"), 1500);
  };
}

/** A link is made when the role is chosen; to and fro makes no further ones. */
function prepareMaking(sharing) {
  const form = byId("share-dialog").querySelector("form");
  const made = new Map();
  // A second press while a link is made must not let an older answer overwrite a newer one.
  let latest = 0;
  const update = async () => {
    const data = new FormData(form);
    const [role, label, seconds] = [data.get("role"), data.get("label").trim(), data.get("expires_in")];
    const wanted = ++latest;
    showLink("");
    if (!role) return;
    say("Making the link…");
    const key = JSON.stringify([role, label, seconds]);
    try {
      if (!made.has(key)) {
        made.set(key, await sharing.makeLink({ role, label, ...(seconds ? { expires_in: Number(seconds) } : {}) }));
        refresh(sharing);
      }
      if (wanted !== latest) return;
      showLink(made.get(key));
      say("Everybody with this link has this access, until the link ends or you revoke it. Copy it now: it is not shown again.");
    } catch (error) {
      if (wanted === latest) say(error.message);
    }
  };
  byId("share-choice").onchange = update;
  // The link that is shown would not be what the fields say any more: the next choice makes another one.
  for (const id of ["share-label", "share-end"]) {
    byId(id).oninput = () => {
      byId("share-choice").querySelectorAll("input").forEach((input) => (input.checked = false));
      showLink("");
      say("Choose what they may do: that makes the link.");
    };
  }
}

async function refresh(sharing) {
  let links;
  try {
    links = await sharing.listLinks();
  } catch {
    return; // Then this session's owner cannot see them here; making one will say why.
  }
  byId("share-given").hidden = links.length === 0;
  byId("share-links").replaceChildren(...links.map((link) => row(link, sharing)));
}

function row(link, sharing) {
  const who = link.label || "Somebody";
  const from = link.created_by ? ` · from ${link.created_by}` : "";
  const used = link.last_used_at ? `used ${ago(link.last_used_at)}` : "not used yet";
  const revoke = el("button", { type: "button", class: "button", text: "Revoke", "aria-label": `Revoke the link for ${who}` });
  revoke.onclick = async () => {
    revoke.disabled = true;
    try {
      await sharing.revokeLink(link.id);
      // The link that is shown may be the one.
      showLink("");
      say(`The link for ${who} is revoked.`);
    } catch (error) {
      say(error.message);
    }
    refresh(sharing);
  };
  return el(
    "li",
    {},
    el(
      "span",
      {},
      el("bdi", { class: "link-who", text: who }),
      ` ${ROLE_WORDS[link.role] ?? link.role}`,
      el("span", { class: "muted small", text: `${used} · ends ${ago(link.expires_at)}${from}` }),
    ),
    revoke,
  );
}

/** It cannot be taken back, so it wants a second press. */
function prepareRevokingAll(sharing) {
  const button = byId("share-revoke-all");
  button.textContent = "Revoke all";
  button.disabled = false;
  button.onclick = async () => {
    if (button.textContent === "Revoke all") {
      button.textContent = "Really revoke all";
      say(FAREWELL);
      return;
    }
    button.disabled = true;
    try {
      await sharing.revokeAll();
      byId("share-dialog").close();
    } catch (error) {
      say(error.message);
      prepareRevokingAll(sharing);
    }
  };
}
