/** The page: opens the share link in its address, and shows what it is to. */

import { asKacheryError, KacheryError } from "../errors.js";
import { follow } from "../feed.js";
import { RemoteFile } from "../file.js";
import { hashers } from "../hashing.js";
import { parseFragment, type Share } from "../share.js";
import type { Connect, Socket } from "../transport.js";
import { type Memory, Visit } from "../visit.js";
import { bytesText, byId, make, shown } from "./dom.js";
import { FeedView } from "./feedview.js";
import { save } from "./save.js";
import { show } from "./show.js";
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

/** Programs that rewrite the links in mails make `%23` of `#`: put it back, without asking anybody. */
function repair(): void {
  const found = /^(.*\/)%(?:25)?23([A-Za-z0-9_-]+)$/.exec(location.pathname);
  if (found && !location.hash) history.replaceState(null, "", `${found[1]}#${found[2]}`);
}

class Page {
  private visit: Visit | null = null;
  private view: View | null = null;
  /** What a view fetches from then on is no news. */
  private begun = false;
  private readonly over = new AbortController();

  private tell(text: string, error = false): void {
    if (this.over.signal.aborted) return;
    const status = byId("status");
    if (status.textContent !== text) status.textContent = text;
    status.classList.toggle("error", error);
  }

  async open(fragment: string): Promise<void> {
    for (const id of ["facts", "actions", "content", "route"]) byId(id).replaceChildren();
    byId("title").textContent = document.title = "kachery";
    try {
      if (!fragment) throw new KacheryError("bad-link", { reason: "there is nothing behind its #, which some programs cut off" });
      if (!globalThis.crypto?.subtle)
        throw new KacheryError("unreachable", { what: "what the link is to", reason: "this page did not come over https, so the browser does no cryptography for it" });
      const share = await parseFragment(fragment, (await hashers()).sha1);
      this.describe(share);
      // Beside the page, wherever a reverse proxy has put it.
      const url = new URL("kachery-p2p", location.href.split("#")[0]).href.replace(/^http/, "ws");
      this.visit = new Visit(share, { url, connect, memory, tell: (text) => this.begun || this.tell(`${text} …`) });
      if (share.pass.uses && !this.visit.returning) await this.asked();
      if (this.over.signal.aborted) return;
      if (share.view) await this.showView(this.visit);
      else await (share.target.kind === "file" ? this.showFile(this.visit) : this.showFeed(this.visit));
    } catch (error) {
      this.fail(error);
    }
  }

  close(): void {
    this.over.abort();
    this.view?.close();
    this.visit?.close();
  }

  /** Mail scanners open links, and run what is in pages: of those that are counted, a click takes a use. */
  private async asked(): Promise<void> {
    this.tell("This link can be opened by one browser only.");
    await new Promise<void>((resolve) => this.action("Open it in this browser", resolve));
    byId("actions").replaceChildren();
  }

  private fail(error: unknown): void {
    if (this.over.signal.aborted) return;
    const known = asKacheryError(error);
    if (known.code === "internal") console.error(error);
    this.tell(known.message, true);
    if (byId("actions").childElementCount === 0 && known.code !== "bad-link") this.action("Try again", () => start());
  }

  private action(name: string, work: () => void): HTMLButtonElement {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", work);
    byId("actions").append(button);
    return button;
  }

  private describe(share: Share): void {
    const name = shown(share.view ? share.view.title || "A view" : share.target.name);
    byId("title").textContent = name;
    document.title = `${name} – kachery`;
    const until = new Date(share.pass.expiresAt * 1000);
    byId("facts").textContent = `Shared on channel ${shown(share.channelName, 100)}; this link is good until ${until.toLocaleString()}.`;
  }

  private route(source: string): void {
    byId("route").textContent = `From ${shown(source || "another node")}, through ${location.host}, end-to-end encrypted. Everything shown was verified against the link.`;
  }

  private async showFile(visit: Visit): Promise<void> {
    const file = await RemoteFile.open(visit);
    byId("facts").prepend(`${bytesText(file.size)}. `);
    const button = this.action("Save", () => void this.save(file, button));
    const content = await show(file, (text) => this.tell(text));
    if (this.over.signal.aborted) return;
    byId("content").replaceChildren(content);
    this.route(file.source);
    this.tell("Verified.");
  }

  private async save(file: RemoteFile, button: HTMLButtonElement): Promise<void> {
    button.disabled = true;
    const bar = make("progress", { max: String(file.size), "aria-label": "Saved" });
    byId("status").after(bar);
    try {
      const done = await save(file, (bytes) => {
        bar.value = bytes;
        this.tell(`Saving: ${bytesText(bytes)} of ${bytesText(file.size)}`);
      });
      this.tell(done ? "Saved; all of it was verified." : "Not saved.");
    } catch (error) {
      this.fail(error);
    } finally {
      bar.remove();
      button.disabled = false;
    }
  }

  private async showView(visit: Visit): Promise<void> {
    framed = true;
    document.body.classList.add("wide");
    this.view = await View.open(visit, () => {
      this.begun = true;
      this.tell("Verified.");
    });
    if (this.over.signal.aborted) return;
    byId("content").replaceChildren(this.view.element);
    this.route(this.view.source);
  }

  private async showFeed(visit: Visit): Promise<void> {
    const view = new FeedView();
    byId("content").replaceChildren(view.element);
    const told = (error: KacheryError | null) => {
      if (error) this.tell(`${error.message} Trying again …`, true);
      else this.tell(view.count ? `${view.count} messages; more are shown as they come.` : "No messages yet; they are shown as they come.");
    };
    for await (const messages of follow(visit, this.over.signal, told)) {
      view.add(messages);
      told(null);
      this.route(visit.holders.find((holder) => holder.online)?.label ?? "");
    }
  }
}

let page: Page | null = null;
/** A view was opened: the page has given up frames since, so the next link takes a new page. */
let framed = false;

function start(): void {
  if (framed) return location.reload();
  page?.close();
  repair();
  page = new Page();
  void page.open(location.hash.slice(1));
}

window.addEventListener("hashchange", start);
window.addEventListener("pagehide", () => page?.close());
window.addEventListener("pageshow", (event) => event.persisted && start());
start();
