/** Where one begins without a link: channels that this browser is on, and a place to paste an invitation. */

import { hex } from "../bytes.js";
import { asKacheryError } from "../errors.js";
import { type Invitation, parseInvitation } from "../invitation.js";
import { MAX_LABEL } from "../limits.js";
import { join, type Membership, proxyOf } from "../member.js";
import type { Surroundings } from "./channel.js";
import { byId, make, shown } from "./dom.js";
import type { ChannelMemory } from "./memory.js";

export const CHANNEL = "channel=";

/** Lists what there is, and offers to join. */
export function showStart(memberships: readonly Membership[], nameOf: (membership: Membership) => string, around: Surroundings): HTMLElement {
  const rows = memberships.map((each) => make("li", {}, make("a", { href: `#${CHANNEL}${hex(each.channel)}` }, shown(nameOf(each), 100))));
  const known = rows.length ? [make("section", {}, make("h2", {}, "Channels of this browser"), make("ul", {}, ...rows))] : [];
  return make("div", {}, ...known, make("section", {}, make("h2", {}, "Join a channel"), pasting(around)));
}

function pasting(around: Surroundings): HTMLElement {
  const area = make("textarea", { id: "invitation", rows: "4", spellcheck: "false", autocomplete: "off" });
  const button = make("button", { type: "submit" }, "Continue");
  const form = make("form", {}, make("label", { for: "invitation" }, "An invitation, as a colleague sent it (kachery-invite:…)"), area, button);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      around.leave(parseInvitation(area.value).line);
    } catch (error) {
      around.tell(asKacheryError(error).message, true);
    }
  });
  return form;
}

/** Asks for a name, and joins; mail programs open links, so a click is what uses an invitation. */
export async function showJoin(invitation: Invitation, memory: ChannelMemory, around: Surroundings): Promise<void> {
  const name = shown(invitation.name, 100);
  byId("title").textContent = `Join ${name}`;
  document.title = `Join ${name} – kachery`;
  byId("facts").textContent = `Its invitation is good until ${new Date(invitation.expiresAt * 1000).toLocaleString()}.`;
  const proxy = proxyOf(invitation, location.host);
  const input = make("input", { type: "text", id: "label", maxlength: String(MAX_LABEL), autocomplete: "name", required: "" });
  const button = make("button", { type: "submit" }, "Join");
  const note = make("p", { class: "note" }, "This browser becomes a member: it makes a key of its own, which it keeps, and stays a member until it is removed or its data is cleared.");
  const form = make("form", { class: "row" }, make("label", { for: "label" }, "What others shall call this browser"), input, button);
  const before = await memory.membership(hex(invitation.channel));
  const open = make("a", { href: `#${CHANNEL}${hex(invitation.channel)}` }, "Open the channel");
  const known = before ? [make("p", {}, "This browser is on that channel already. ", open, ". If it was removed, it can join anew.")] : [];
  byId("content").replaceChildren(...known, form, note);
  if (before) input.value = before.label;
  around.tell("You have been invited.");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const label = input.value.trim();
    if (!label) return input.focus();
    button.disabled = true;
    void (async () => {
      try {
        const key = await memory.key();
        const membership = await join(invitation, key, label, proxy, { url: around.url, connect: around.connect, tell: (text) => around.tell(`${text} …`) });
        await memory.keep(membership);
        around.leave(`${CHANNEL}${hex(membership.channel)}`);
      } catch (error) {
        const known = asKacheryError(error);
        if (known.code === "internal") console.error(error);
        around.tell(known.message, true);
        button.disabled = false;
      }
    })();
  });
}
