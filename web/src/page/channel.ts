/**
 * The page of a channel, for its members: who is online, which functions are on offer and what runs, and
 * what is behind a URI. It is left, and comes back, with the connection; what it waits for goes on.
 */

import { hex } from "../bytes.js";
import { asKacheryError, KacheryError } from "../errors.js";
import { LOOK_AGAIN_SECONDS, RETRY_FIRST, RETRY_MOST } from "../limits.js";
import { Member, type Membership } from "../member.js";
import { type Offer, offers } from "../offers.js";
import { taskGoal } from "../share.js";
import { makeTask, type Wanted } from "../task.js";
import type { Connect } from "../transport.js";
import { byId, make, shown } from "./dom.js";
import { ArgumentsForm } from "./form.js";
import type { ChannelMemory, KeptRun } from "./memory.js";
import { addAction, type Place, showFeed, showFile } from "./place.js";
import { RunView } from "./run_view.js";

const MOST_OPEN = 8;

/** What is on the page of a function. `said`: what its form was made of. */
interface Offered {
  readonly element: HTMLDetailsElement;
  readonly busy: HTMLElement;
  readonly button: HTMLButtonElement;
  readonly said: string;
}

export interface Surroundings {
  readonly url: string;
  readonly connect: Connect;
  readonly over: AbortSignal;
  tell(text: string, error?: boolean): void;
  /** Show this instead; empty: where one begins. */
  leave(fragment: string): void;
}

export class ChannelPage {
  private readonly members = make("ul", { class: "members", "aria-label": "Members" });
  private readonly functions = make("div", { class: "functions" });
  private readonly runs = make("div", {});
  private readonly opened = make("div", {});
  private readonly known = make("ul", { class: "known", "aria-label": "Opened before" });
  private readonly offered = new Map<string, Offered>();
  private readonly running = new Set<RunView>();
  private wake: () => void = () => undefined;
  private lost = true;
  private readonly name: string;

  private constructor(
    private readonly member: Member,
    private readonly memory: ChannelMemory,
    private readonly around: Surroundings,
  ) {
    this.name = hex(member.channel);
  }

  static async open(membership: Membership, memory: ChannelMemory, around: Surroundings): Promise<ChannelPage> {
    let page: ChannelPage | null = null;
    const member = await Member.open(membership, await memory.key(), {
      url: around.url,
      connect: around.connect,
      keep: (changed) => void memory.keep(changed).catch(() => undefined),
      changed: () => page?.showMembers(),
    });
    page = new ChannelPage(member, memory, around);
    await page.build();
    return page;
  }

  close(): void {
    for (const run of this.running) run.close();
    this.member.close();
    this.wake();
  }

  private async build(): Promise<void> {
    const { member } = this;
    byId("title").textContent = shown(member.document.name, 100);
    document.title = `${shown(member.document.name, 100)} – kachery`;
    byId("facts").textContent = `You are ${shown(member.nameOf(member.id), 60)}, node ${hex(member.id).slice(0, 8)}, on this channel.`;
    byId("route").textContent = `Through ${location.host}, end-to-end encrypted.`;
    addAction({ actions: byId("actions") }, "Leave this channel", () => void this.leave());
    byId("content").replaceChildren(
      section("Functions", this.functions),
      section("Runs", this.runs),
      section("Open", this.opener(), this.known, this.opened),
      section("Members", this.members),
    );
    this.functions.replaceChildren(make("p", { class: "note" }, "Asking what is on offer …"));
    this.showMembers();
    await this.showKnown();
    for (const run of await this.memory.runs(this.name)) this.run(run.task, run);
  }

  /** Until the page is left, or the channel is: look who is there and what is on offer. */
  async live(): Promise<void> {
    let pause = RETRY_FIRST;
    const wake = () => this.wake();
    window.addEventListener("online", wake);
    try {
      while (!this.around.over.aborted) {
        try {
          const link = await this.member.atProxy();
          if (this.lost) void link.ended.then(() => this.disconnected());
          this.lost = false;
          await this.member.lookAround();
          await this.look();
          this.around.tell("Connected.");
          pause = RETRY_FIRST;
          await this.sleep(LOOK_AGAIN_SECONDS);
        } catch (error) {
          const known = asKacheryError(error);
          if (this.around.over.aborted) return;
          if (known.code === "internal") console.error(error);
          if (known.code === "removed" || known.code === "version-mismatch" || known.code === "clock-skew") return this.removed(known);
          this.around.tell(`${known.message} Trying again …`, true);
          await this.sleep(pause * (0.5 + Math.random() / 2));
          pause = Math.min(2 * pause, RETRY_MOST);
        }
      }
    } finally {
      window.removeEventListener("online", wake);
    }
  }

  private disconnected(): void {
    this.lost = true;
    if (!this.around.over.aborted) this.around.tell("The connection ended. Trying again …", true);
    this.member.online = null;
    this.showMembers();
    this.wake();
  }

  private removed(error: KacheryError): void {
    this.around.tell(error.message, true);
    this.functions.replaceChildren();
    this.offered.clear();
    for (const run of this.running) run.close();
  }

  private sleep(seconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, 1000 * seconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  private async leave(): Promise<void> {
    if (!confirm(`Forget channel ${this.member.document.name} in this browser? To come back, you need another invitation.`)) return;
    await this.memory.forget(this.name);
    this.around.leave("");
  }

  // --- members ---------------------------------------------------------------------------------

  private showMembers(): void {
    const { member } = this;
    const online = new Set((member.online ?? []).map(hex));
    online.add(hex(member.id));
    const everybody = new Map(member.document.members.map((each) => [hex(each.node), each.node]));
    for (const [node, each] of member.admitted) everybody.set(node, each.node);
    everybody.set(hex(member.id), member.id);
    const state = (node: string) => (member.online === null && node !== hex(member.id) ? "not known" : online.has(node) ? "online" : "offline");
    const order: Record<string, number> = { online: 0, "not known": 1, offline: 2 };
    const rows = [...everybody].map(([node, id]) => ({ name: member.nameOf(id), node, state: state(node), you: node === hex(member.id) }));
    rows.sort((a, b) => order[a.state]! - order[b.state]! || (a.name < b.name ? -1 : 1));
    this.members.replaceChildren(
      ...rows.slice(0, 500).map(({ name, node, state, you }) =>
        make("li", { class: state === "online" ? "online" : "" }, make("span", {}, shown(name, 60)), make("span", { class: "note" }, ` ${node.slice(0, 8)}, ${state}${you ? ", this browser" : ""}`)),
      ),
    );
  }

  // --- functions -------------------------------------------------------------------------------

  private async look(): Promise<void> {
    if (!this.member.roles.includes("request-tasks")) {
      this.functions.replaceChildren(make("p", { class: "note" }, "This browser may not have functions run: the channel's owner has not given it the role request-tasks."));
      return;
    }
    const { offers: found, silent } = await offers(this.member);
    const names = new Set(found.map(nameOf));
    for (const [name, { element, busy, button }] of this.offered) {
      if (names.has(name)) continue;
      // Who is writing into its form goes on when it is back.
      if (!element.open) this.withdraw(name);
      button.disabled = true;
      busy.textContent = " nobody who is connected offers it now";
    }
    for (const offer of found) this.offer(offer);
    const notes = silent.map((text) => make("li", {}, shown(text, 300)));
    const all = [...this.offered].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, each]) => each.element);
    const rest = [...(all.length ? [] : [make("p", { class: "note" }, "Nobody who is connected offers a function.")]), ...(notes.length ? [make("ul", { class: "note" }, ...notes)] : [])];
    // What is there stays where it is, so that nobody loses what they were writing.
    for (const child of [...this.functions.children]) if (!all.includes(child as HTMLDetailsElement)) child.remove();
    all.forEach((element, i) => {
      const there = this.functions.children.item(i);
      if (there !== element) this.functions.insertBefore<HTMLElement>(element, there);
    });
    this.functions.append(...rest);
  }

  private withdraw(name: string): void {
    this.offered.get(name)?.element.remove();
    this.offered.delete(name);
  }

  private offer(offer: Offer): void {
    const said = JSON.stringify([offer.signature, offer.allowed]);
    let known = this.offered.get(nameOf(offer));
    if (known && known.said !== said) {
      this.withdraw(nameOf(offer));
      known = undefined;
    }
    if (!known) {
      const busy = make("span", { class: "note" });
      const button = make("button", { type: "submit" }, offer.type === "action" ? "Run this action" : "Run");
      known = { element: this.offerElement(offer, busy, button), busy, button, said };
      this.offered.set(nameOf(offer), known);
    }
    known.button.disabled = !offer.allowed;
    known.busy.textContent = ` ${offer.type}, on ${shown(offer.nodes.join(", "), 100)}; ${offer.running} of ${offer.slots} running, ${offer.queued} queued`;
  }

  private offerElement(offer: Offer, busy: HTMLElement, button: HTMLButtonElement): HTMLDetailsElement {
    const form = new ArgumentsForm(offer.signature);
    const denied = offer.allowed ? [] : [make("p", { class: "note" }, "That node does not let others run it.")];
    const about = offer.signature?.about ? [make("p", {}, shown(offer.signature.about))] : [];
    const element = make("form", {}, ...about, form.element, ...denied, button);
    element.addEventListener("submit", (event) => {
      event.preventDefault();
      const values = form.values();
      if (values) this.start(offer, values);
    });
    return make("details", {}, make("summary", {}, make("span", { class: "leaf" }, shown(offer.function, 100)), busy), element);
  }

  private start(offer: Offer, values: Record<string, unknown>): void {
    let task: Wanted;
    try {
      task = makeTask(offer.function, offer.type, values);
    } catch (error) {
      return this.around.tell(asKacheryError(error).message, true);
    }
    const kept: KeptRun = { channel: this.name, task, since: Date.now(), begunAt: null };
    void this.memory.keepRun(kept).catch(() => undefined);
    this.run(task, kept).element.scrollIntoView({ block: "nearest" });
  }

  private run(task: Wanted, kept: KeptRun): RunView {
    const view = new RunView(this.member, taskGoal(task.function), task);
    this.runs.prepend(view.element);
    this.running.add(view);
    const options = {
      computes: (node: Uint8Array) => this.member.computes(node),
      // On the disk before the word is given: an action that may have begun is not begun elsewhere.
      noted: (node: Uint8Array<ArrayBuffer>) => this.memory.keepRun({ ...kept, begunAt: node }),
      ...(kept.begunAt ? { begunAt: kept.begunAt } : {}),
    };
    void view.follow(options, (uri) => this.member.goal(uri)).then((ended) => {
      this.running.delete(view);
      if (ended) return this.memory.endRun(task).catch(() => undefined);
      return undefined;
    });
    return view;
  }

  // --- what is behind a URI --------------------------------------------------------------------

  private opener(): HTMLElement {
    const input = make("input", { type: "text", id: "uri", placeholder: "sha1://… or feed://…/name", autocomplete: "off", spellcheck: "false" });
    const form = make("form", { class: "row" }, make("label", { for: "uri" }, "A file or a subfeed"), input, make("button", { type: "submit" }, "Open"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const uri = input.value.trim();
      if (uri && this.openUri(uri)) input.value = "";
    });
    return form;
  }

  private openUri(uri: string): boolean {
    let opened: Opened;
    try {
      opened = new Opened(this.member, uri);
    } catch (error) {
      this.around.tell(asKacheryError(error).message, true);
      return false;
    }
    this.opened.prepend(opened.element);
    while (this.opened.childElementCount > MOST_OPEN) this.opened.lastElementChild!.remove();
    void this.memory.keepUri(this.name, uri).then(() => this.showKnown()).catch(() => undefined);
    void opened.show();
    return true;
  }

  private async showKnown(): Promise<void> {
    const rows = (await this.memory.uris(this.name)).map((uri) => {
      const open = make("button", { type: "button", class: "plain leaf" }, shown(uri, 120));
      open.addEventListener("click", () => void this.openUri(uri));
      const forget = make("button", { type: "button", "aria-label": `Forget ${shown(uri, 80)}` }, "Forget");
      forget.addEventListener("click", () => void this.memory.dropUri(this.name, uri).then(() => this.showKnown()));
      return make("li", {}, open, " ", forget);
    });
    this.known.replaceChildren(...rows);
  }
}

const nameOf = (offer: Offer): string => `${offer.function} ${offer.type}`;

const section = (title: string, ...children: Node[]): HTMLElement => make("section", {}, make("h2", {}, title), ...children);

/** A file or a subfeed that was opened. It ends when its element is taken off the page. */
class Opened implements Place {
  readonly element: HTMLElement;
  readonly content = make("div", {});
  readonly actions = make("div", { class: "actions" });
  readonly bars: HTMLElement;
  private readonly status = make("p", { class: "state", role: "status" });
  private readonly about = make("p", { class: "note" });
  private readonly closing = new AbortController();
  private readonly goal;

  constructor(
    private readonly member: Member,
    uri: string,
  ) {
    this.goal = member.goal(uri);
    this.bars = this.status;
    this.element = make("section", { class: "opened" }, make("h3", {}, shown(this.goal.target.name)), this.about, this.status, this.actions, this.content);
  }

  get over(): AbortSignal {
    return this.closing.signal;
  }

  async show(): Promise<void> {
    addAction(this, "Close", () => {
      this.closing.abort();
      this.element.remove();
    });
    try {
      this.tell("Asking who has it …");
      await (this.goal.target.kind === "file" ? showFile : showFeed)(this.member, this.goal, this);
    } catch (error) {
      this.fail(error);
    }
  }

  tell(text: string, error = false): void {
    if (!this.element.isConnected) this.closing.abort();
    if (this.status.textContent !== text) this.status.textContent = text;
    this.status.classList.toggle("error", error);
  }

  fail(error: unknown): void {
    const known = asKacheryError(error);
    if (known.code === "internal") console.error(error);
    this.tell(known.message, true);
  }

  fact(text: string): void {
    this.about.prepend(text);
  }

  route(source: string): void {
    if (source) this.about.textContent = `From ${shown(source)}.`;
  }
}
