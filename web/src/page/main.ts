/** The page: shows what the share link in its address is to, or the channel that it names. */

import { parseDocument } from "../document.js";
import { asKacheryError, KacheryError } from "../errors.js";
import { INVITATION_PREFIX, parseInvitation } from "../invitation.js";
import { parseFragment, type Share } from "../share.js";
import type { Connect, Socket } from "../transport.js";
import { type Memory, Visit } from "../visit.js";
import { ChannelPage } from "./channel.js";
import { byId, shown } from "./dom.js";
import { CHANNEL, showJoin, showStart } from "./joining.js";
import { ChannelMemory } from "./memory.js";
import { addAction, type Place, showFeed, showFile } from "./place.js";
import { View } from "./view.js";

const connect: Connect = (url, protocol) => new WebSocket(url, protocol) as unknown as Socket;
/** A browser that keeps nothing makes each load of the page another visitor. */
const memory: Memory = {
  get: (name) => {
    try {
      return localStorage.getItem(name);
    } catch {
      return null;
    }
  },
  set: (name, value) => {
    try {
      localStorage.setItem(name, value);
    } catch {
      // see above
    }
  },
};

/** What follows `#`, as it was written: browsers and chat programs encode some of an invitation. */
function fragmentOf(hash: string): string {
  try {
    return decodeURIComponent(hash.slice(1));
  } catch {
    return hash.slice(1);
  }
}

/** Programs that rewrite the links in mails make `%23` of `#`: put it back, without asking anybody. */
function repair(): void {
  const found = /^(.*\/)%(?:25)?23((?:kachery-invite(?::|%3A))?[A-Za-z0-9_-]+)$/.exec(location.pathname);
  if (found && !location.hash) history.replaceState(null, "", `${found[1]}#${decodeURIComponent(found[2]!)}`);
}

class Page implements Place {
  private visit: Visit | null = null;
  private channel: ChannelPage | null = null;
  private view: View | null = null;
  /** What a view, or a player, fetches from then on is no news. */
  private begun = false;
  private readonly closing = new AbortController();
  /** Beside the page, wherever a reverse proxy has put it. */
  private readonly url = new URL("kachery-p2p", location.href.split("#")[0]).href.replace(/^http/, "ws");

  get over(): AbortSignal {
    return this.closing.signal;
  }

  tell(text: string, error = false): void {
    if (this.over.aborted) return;
    const status = byId("status");
    if (status.textContent !== text) status.textContent = text;
    status.classList.toggle("error", error);
  }

  async open(fragment: string): Promise<void> {
    for (const id of ["facts", "actions", "content", "route"]) byId(id).replaceChildren();
    byId("title").textContent = document.title = "kachery";
    try {
      if (!globalThis.crypto?.subtle)
        throw new KacheryError("unreachable", { what: "what the link is to", reason: "this page did not come over https, so the browser does no cryptography for it" });
      if (await this.openChannel(fragment)) return;
      const share = await parseFragment(fragment);
      this.describe(share);
      this.visit = new Visit(share, { url: this.url, connect, memory, tell: (text) => this.begun || this.tell(`${text} …`) });
      if (share.pass.uses && !this.visit.returning) await this.asked();
      if (this.over.aborted) return;
      if (share.view) await this.showView(this.visit);
      else if (share.target.kind === "feed") await showFeed(this.visit, share, this);
      else {
        await showFile(this.visit, share, this);
        this.begun = true;
      }
    } catch (error) {
      this.fail(error);
    }
  }

  close(): void {
    this.closing.abort();
    this.view?.close();
    this.visit?.close();
    this.channel?.close();
  }

  /** Mail scanners open links, and run what is in pages: of those that are counted, a click takes a use. */
  private async asked(): Promise<void> {
    this.tell("This link can be opened by one browser only.");
    await new Promise<void>((resolve) => addAction(this, "Open it in this browser", resolve));
    byId("actions").replaceChildren();
  }

  fail(error: unknown): void {
    if (this.over.aborted) return;
    const known = asKacheryError(error);
    if (known.code === "internal") console.error(error);
    this.tell(known.message, true);
    if (byId("actions").childElementCount === 0 && !["bad-link", "bad-invitation"].includes(known.code)) addAction(this, "Try again", () => start());
  }

  private describe(share: Share): void {
    const name = shown(share.view ? share.view.title || "A view" : share.target.name);
    byId("title").textContent = name;
    document.title = `${name} – kachery`;
    const until = new Date(share.pass.expiresAt * 1000);
    byId("facts").textContent = `Shared on channel ${shown(share.channelName, 100)}; this link is good until ${until.toLocaleString()}.`;
  }

  // --- channels --------------------------------------------------------------------------------

  /** What is to be seen of channels for this fragment; false: it is a share link's. */
  private async openChannel(fragment: string): Promise<boolean> {
    const around = { url: this.url, connect, over: this.over, tell: (text: string, error?: boolean) => this.tell(text, error), leave: goTo };
    if (fragment.startsWith(INVITATION_PREFIX)) {
      await showJoin(parseInvitation(fragment), await ChannelMemory.open(), around);
      return true;
    }
    if (!fragment) {
      const memberships = await ChannelMemory.open().then((memory) => memory.memberships(), () => []);
      byId("content").replaceChildren(showStart(memberships, (each) => parseDocument(each.document, each.channel).name, around));
      if (memberships.length) this.tell("Choose a channel.");
      else throw new KacheryError("bad-link", { reason: "there is nothing behind its #, which some programs cut off" });
      return true;
    }
    if (!fragment.startsWith(CHANNEL)) return false;
    const memory = await ChannelMemory.open();
    const membership = await memory.membership(fragment.slice(CHANNEL.length));
    if (!membership) throw new KacheryError("not-found", { what: "The channel", detail: "this browser is not on it; it takes an invitation" });
    this.channel = await ChannelPage.open(membership, memory, around);
    if (this.over.aborted) this.channel.close();
    else await this.channel.live();
    return true;
  }

  // --- as a Place ------------------------------------------------------------------------------

  get content(): HTMLElement {
    return byId("content");
  }

  get actions(): HTMLElement {
    return byId("actions");
  }

  get bars(): HTMLElement {
    return byId("status");
  }

  fact(text: string): void {
    byId("facts").prepend(text);
  }

  route(source: string): void {
    byId("route").textContent = `From ${shown(source || "another node")}, through ${location.host}, end-to-end encrypted. Everything shown was verified against the link.`;
  }

  private async showView(visit: Visit): Promise<void> {
    framed = true;
    document.body.classList.add("wide");
    this.view = await View.open(visit, () => {
      this.begun = true;
      this.tell("Verified.");
    });
    if (this.over.aborted) return;
    byId("content").replaceChildren(this.view.element);
    this.route(this.view.source);
  }
}

let page: Page | null = null;
/** A view was opened: the page has given up frames since, so the next link takes a new page. */
let framed = false;

/** Show something else, without leaving what was in the address before in the browser's history. */
function goTo(fragment: string): void {
  history.replaceState(null, "", `${location.pathname}${fragment ? `#${fragment}` : ""}`);
  start();
}

function start(): void {
  if (framed) return location.reload();
  page?.close();
  repair();
  page = new Page();
  void page.open(fragmentOf(location.hash));
}

window.addEventListener("hashchange", start);
window.addEventListener("pagehide", () => page?.close());
window.addEventListener("pageshow", (event) => event.persisted && start());
start();
