/** A view on the page: its files, verified, in a frame that can reach this page's answers and nothing else. */

import { KacheryError } from "../errors.js";
import { RemoteFile } from "../file.js";
import { MAX_VIEW } from "../limits.js";
import type { Start } from "../view/messages.js";
import type { Visit } from "../visit.js";
import { make, shown } from "./dom.js";
import { parsePack } from "./view_pack.js";
import { ViewHost } from "./view_host.js";

const LISTING = 1_048_576;
const MOST_TROUBLES = 20;
/** Until a question can be answered. */
const QUESTION_MS = 700;

export class View {
  readonly element: HTMLElement;
  readonly source: string;
  private host: ViewHost | null = null;
  private readonly question = make("div", { class: "question", role: "alertdialog", "aria-label": "The view asks", hidden: "" });
  private asked: Promise<unknown> = Promise.resolve();

  private constructor(frame: HTMLIFrameElement, troubles: HTMLElement, file: RemoteFile) {
    this.element = make("div", {}, this.question, frame, troubles);
    this.source = file.source;
  }

  /** Fetches and verifies the view; it starts when its element is on the page. `ready`: it is there. */
  static async open(visit: Visit, ready: () => void): Promise<View> {
    const { view } = visit.share;
    const file = await RemoteFile.open(visit, visit.share);
    if (file.size > MAX_VIEW + LISTING) throw new KacheryError("too-large", { what: "The view", reason: `views have ${MAX_VIEW} bytes at most` });
    const files = await parsePack(await file.bytes());
    const start: Start = { kachery: 1, title: view!.title, data: view!.data, files };
    const frame = make("iframe", { class: "view", src: "view.html", sandbox: "allow-scripts", referrerpolicy: "no-referrer", title: view!.title || "A view" });
    const troubles = make("ul", { class: "note", "aria-label": "What the view tried" });
    const made = new View(frame, troubles, file);
    const trouble = (text: string) => {
      if (troubles.childElementCount < MOST_TROUBLES) troubles.append(make("li", {}, text));
    };
    let loads = 0;
    frame.addEventListener("load", () => {
      // Our document, then the one that it makes of the view.
      if (++loads === 2) return;
      if (loads > 2) {
        made.host?.close();
        return trouble("The view left its frame, and was stopped. Load the page again to see it.");
      }
      forbidFrames();
      const { port1, port2 } = new MessageChannel();
      made.host = new ViewHost(visit, port1, { ready, trouble, allows: (name) => made.allows(name) });
      // It has no origin that could be named; nothing but our own document can be in it yet.
      frame.contentWindow!.postMessage(start, "*", [port2]);
    });
    return made;
  }

  /** Ask the person whether an action may run: one question at a time. */
  private allows(name: string): Promise<boolean> {
    const answer = this.asked.then(() => this.ask(name));
    this.asked = answer;
    return answer;
  }

  private async ask(name: string): Promise<boolean> {
    const text = `This view wants to run the action ${shown(name, 100)} on a computer of the channel, now and later on this page.`;
    const allow = make("button", { type: "button", disabled: "" }, "Allow");
    const refuse = make("button", { type: "button", disabled: "" }, "Refuse");
    this.question.replaceChildren(make("p", {}, text), allow, " ", refuse);
    this.question.hidden = false;
    // A click that was meant for what was here before is none.
    setTimeout(() => (allow.disabled = refuse.disabled = false), QUESTION_MS);
    const said = await new Promise<boolean>((resolve) => {
      allow.addEventListener("click", () => resolve(true));
      refuse.addEventListener("click", () => resolve(false));
    });
    this.question.hidden = true;
    this.question.replaceChildren();
    return said;
  }

  close(): void {
    this.host?.close();
  }
}

/**
 * From now on no frame of this page goes anywhere: a view that leads its own frame to some address, with what
 * it read in it, gets nowhere. Policies can be added to a page, and never taken back.
 */
function forbidFrames(): void {
  document.head.append(make("meta", { "http-equiv": "Content-Security-Policy", content: "frame-src 'none'" }));
}
