/**
 * Access to what a channel's members hold: from a proxy to links with them, end to end.
 *
 * The page dials the proxy from which it comes, asks who has a content, and opens a circuit to one of them.
 * The proxy moves what it cannot read. What ends is made anew when it is needed. How one is let in is for
 * those to say who make something of this: visitors (visit.ts) and members (member.ts).
 */

import { type Bytes, equal, hex } from "./bytes.js";
import { asKacheryError, KacheryError } from "./errors.js";
import { HOLDERS_SECONDS, LOOKUP_HOLD_SECONDS, LOOKUP_SECONDS, MAX_ANSWER_NODES, MAX_HOLDERS, MAX_LABEL } from "./limits.js";
import type { Link } from "./link.js";
import { asBool, asBytes, asInt, asList, asMap, asText } from "./msgpack.js";
import type { Goal } from "./share.js";
import type { Connect } from "./transport.js";

export interface Holder {
  readonly id: Bytes;
  readonly label: string;
  readonly online: boolean;
}

export interface Options {
  /** Of the proxy: `wss://host`. */
  readonly url: string;
  readonly connect: Connect;
  /** Told what is being done, in words. */
  readonly tell?: (text: string) => void;
}

/** Errors after which no other try is of any use. */
const FINAL = new Set(["share-refused", "version-mismatch", "clock-skew", "bad-link", "too-large", "removed"]);
export const isFinal = (error: KacheryError): boolean => FINAL.has(error.code);

/** What says less than whatever else was said. */
const VAGUE = new Set(["unreachable", "not-found", "no-backend"]);

const KINDS = { file: "files", feed: "feeds", task: "tasks" } as const;

export abstract class Access {
  private proxy: Promise<Link> | null = null;
  private readonly links = new Map<string, Promise<Link>>();
  protected closed = false;
  /** Whom the last look-up named. */
  holders: readonly Holder[] = [];
  /** For a while nobody need be asked again who has the same. */
  private readonly looked = new Map<Goal, { readonly holders: readonly Holder[]; readonly at: number }>();
  /** Who sent what is not what was named, and what was said then: they are not asked again. */
  private readonly banned = new Map<string, KacheryError>();

  protected constructor(protected readonly options: Options) {}

  /** The channel on which everything is asked for. */
  abstract readonly channel: Bytes;
  /** Of the channel's secret, under which the keys are made. */
  protected abstract readonly secretVersion: number;
  /** Blinded keys of a content. */
  protected abstract keysOf(goal: Goal): readonly Bytes[];
  /** Whom to ask besides those who are named. */
  protected abstract others(goal: Goal): readonly Holder[];
  /** Whether a node may be asked for it, whatever the proxy says. */
  protected abstract trusts(goal: Goal, node: Bytes): boolean;
  /** Dial the proxy, and be let in. */
  protected abstract enter(): Promise<Link>;
  /** A new link with a node, end to end, on which it lets this page ask. */
  protected abstract makeLink(node: Bytes): Promise<Link>;

  /** The link with the proxy, which lets this page in. */
  atProxy(): Promise<Link> {
    if (this.closed) throw new KacheryError("link-closed", { reason: "the page does not need it any more" });
    this.proxy ??= this.enter().then(
      (link) => {
        void link.ended.then(() => (this.proxy = null));
        return link;
      },
      (error: unknown) => {
        this.proxy = null;
        throw error;
      },
    );
    return this.proxy;
  }

  /** A link with a node, made once. */
  reach(node: Bytes): Promise<Link> {
    const name = hex(node);
    let found = this.links.get(name);
    if (!found) {
      found = this.makeLink(node);
      this.links.set(name, found);
      const forget = () => this.links.delete(name);
      found.then((link) => link.ended.then(forget), forget);
    }
    return found;
  }

  /** Who has all of it; those that are online first. */
  protected async look(goal: Goal): Promise<readonly Holder[]> {
    const proxy = await this.atProxy();
    const before = this.looked.get(goal);
    if (before && Date.now() - before.at < HOLDERS_SECONDS * 1000) return before.holders;
    this.options.tell?.(goal.target.kind === "task" ? "Asking who runs it" : "Asking who has it");
    let found = await this.ask(proxy, goal, 0);
    if (!found.some((holder) => holder.online)) found = await this.ask(proxy, goal, LOOKUP_HOLD_SECONDS);
    this.looked.set(goal, { holders: found, at: Date.now() });
    this.holders = found;
    return found;
  }

  protected async ask(proxy: Link, goal: Goal, hold: number): Promise<Holder[]> {
    const keys = this.keysOf(goal);
    const params = {
      channel: this.channel,
      kind: KINDS[goal.target.kind],
      keys,
      secret_version: this.secretVersion,
      hold: hold * 1000,
    };
    const answer = asMap(await proxy.request("who-has", params, LOOKUP_SECONDS + hold), "an answer");
    const nodes = asList(answer.nodes, "nodes", 0, MAX_ANSWER_NODES).map(holderOf);
    const places = asList(answer.holders, "holders", keys.length, keys.length).map((list) =>
      asList(list, "places", 0, MAX_HOLDERS).map((place) => asInt(place, "a place", 0, MAX_ANSWER_NODES)),
    );
    const all = nodes.filter((node, i) => places.every((list) => list.includes(i)) && this.trusts(goal, node.id));
    return all.sort((a, b) => Number(b.online) - Number(a.online));
  }

  ban(id: Bytes, error: KacheryError): KacheryError {
    this.banned.set(hex(id), error);
    return error;
  }

  /**
   * Do something with one holder after the other until it is done. `work` may be called several times and
   * goes on where it was; what it throws that is not final leads to the next one.
   */
  async withHolders<T>(goal: Goal, work: (link: Link, holder: Holder) => Promise<T>, most: number): Promise<T> {
    let last: KacheryError | null = null;
    const known = await this.look(goal);
    const everybody = [...known.filter((holder) => holder.online), ...this.others(goal)].filter(
      (holder, i, all) => all.findIndex((other) => equal(other.id, holder.id)) === i,
    );
    const candidates = everybody.filter((holder) => !this.banned.has(hex(holder.id)));
    if (everybody.length && candidates.length === 0) throw this.banned.get(hex(everybody[0]!.id))!;
    for (const holder of candidates.slice(0, most)) {
      try {
        this.options.tell?.(`Asking ${holder.label || hex(holder.id).slice(0, 8)}`);
        return await work(await this.reach(holder.id), holder);
      } catch (error) {
        const said = asKacheryError(error);
        // What one holder does not allow or have, another may; the first real reason is told.
        if (isFinal(said)) throw said;
        this.looked.delete(goal);
        if (!last || (VAGUE.has(last.code) && said.code !== "unreachable") || !VAGUE.has(said.code)) last = said;
      }
    }
    throw this.explained(goal, last);
  }

  private explained(goal: Goal, last: KacheryError | null): KacheryError {
    const offline = this.holders.filter((holder) => !holder.online).map((holder) => holder.label || hex(holder.id).slice(0, 8));
    if (offline.length === 0 && last && last.code !== "unreachable") return last;
    const does = goal.target.kind === "task" ? ["run", "runs"] : ["have", "has"];
    const detail = offline.length
      ? `${offline.slice(0, 5).join(", ")} ${offline.length > 1 ? does[0] : does[1]} it, but ${offline.length > 1 ? "are" : "is"} offline`
      : `no computer that ${does[1]} it is connected to the proxy now; one must run`;
    return new KacheryError("not-found", { what: goal.target.name, detail });
  }

  close(): void {
    this.closed = true;
    for (const link of this.links.values()) void link.then((x) => x.close(), () => undefined);
    void this.proxy?.then((x) => x.close(), () => undefined);
  }
}

function holderOf(value: unknown): Holder {
  const node = asMap(value, "a node");
  return {
    id: asBytes(node.node, "a node id", 32),
    label: asText(node.label, "a label", MAX_LABEL),
    online: asBool(node.online, "online"),
  };
}
