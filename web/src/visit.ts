/**
 * A visit: from a share link to links with those who hold what it is to.
 *
 * The page dials the proxy from which it comes, shows its pass there, asks who has the content, and opens
 * a circuit to one of them, to whom it shows the pass again, end to end. The proxy moves what it cannot
 * read. What ends is made anew when it is needed.
 */

import { type Bytes, equal, fromHex, hex } from "./bytes.js";
import { asKacheryError, KacheryError } from "./errors.js";
import { NodeKey } from "./identity.js";
import { CIRCUIT_CREDIT, HOLDERS_SECONDS, LOOKUP_HOLD_SECONDS, LOOKUP_SECONDS, MAX_ANSWER_NODES, MAX_HOLDERS, MAX_LABEL } from "./limits.js";
import { Link } from "./link.js";
import { asBool, asBytes, asInt, asList, asMap, asText } from "./msgpack.js";
import { type Goal, prove, secretOf, type Share } from "./share.js";
import { CircuitTransport, type Connect, WebSocketTransport } from "./transport.js";

export interface Holder {
  readonly id: Bytes;
  readonly label: string;
  readonly online: boolean;
}

/** Where a key and a stamp are kept between loads of the page, for links whose uses are counted. */
export interface Memory {
  get(name: string): string | null;
  set(name: string, value: string): void;
}

export interface Options {
  /** Of the proxy: `wss://host`. */
  readonly url: string;
  readonly connect: Connect;
  readonly memory?: Memory;
  /** Told what is being done, in words. */
  readonly tell?: (text: string) => void;
}

/** Errors after which no other try is of any use. */
const FINAL = new Set(["share-refused", "version-mismatch", "clock-skew", "bad-link", "too-large"]);
export const isFinal = (error: KacheryError): boolean => FINAL.has(error.code);

export class Visit {
  private readonly node: NodeKey;
  private readonly remember: () => void;
  private stamp: Bytes = new Uint8Array(0);
  private proxy: Promise<Link> | null = null;
  private readonly links = new Map<string, Promise<Link>>();
  private closed = false;
  /** This browser opened it before, as one of those that are counted. */
  readonly returning: boolean;
  /** Whom the last look-up named. */
  holders: readonly Holder[] = [];
  /** For a while nobody need be asked again who has the same. */
  private readonly looked = new Map<Goal, { readonly holders: readonly Holder[]; readonly at: number }>();
  /** Who sent what is not what the link names, and what was said then: they are not asked again. */
  private readonly banned = new Map<string, KacheryError>();

  constructor(
    readonly share: Share,
    private readonly options: Options,
  ) {
    const { uses, id } = share.pass;
    // One whose uses are counted is one visitor's: a page that is loaded again is the same visitor.
    const name = `kachery-visit-${hex(id)}`;
    const kept = uses ? this.options.memory?.get(name) : null;
    this.returning = Boolean(kept && /^[0-9a-f]{64}$/.test(kept));
    const seed = this.returning ? fromHex(kept!) : crypto.getRandomValues(new Uint8Array(32));
    this.remember = () => {
      if (uses) this.options.memory?.set(name, hex(seed));
    };
    this.node = new NodeKey(seed);
  }

  /** The link with the proxy, on which the pass was shown. */
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

  private async enter(): Promise<Link> {
    const { share, options } = this;
    options.tell?.("Connecting to the proxy");
    const transport = await WebSocketTransport.dial(options.url, options.connect);
    const link = await Link.open(transport, this.node, share.proxy, share.pass.channel);
    try {
      const atProxy = new Uint8Array(0); // which has no use for the secret
      await this.show(link, atProxy);
      if (share.pass.uses && this.stamp.length === 0) {
        await this.beCounted(link);
        await this.show(link, atProxy);
      }
      return link;
    } catch (error) {
      link.close();
      throw error;
    }
  }

  /** Have the node that made the link count this visit. */
  private async beCounted(proxy: Link): Promise<void> {
    const { pass } = this.share;
    const home = await this.circuit(proxy, pass.home);
    try {
      const proof = prove(this.share, home.peer, this.node.public, home.hash);
      this.remember();
      const answer = await home.request("visit.use", { channel: pass.channel, visitor_pass: pass.id, proof });
      this.stamp = asBytes(asMap(answer, "an answer").stamp, "a stamp", 64);
    } finally {
      home.close();
    }
  }

  private async show(link: Link, secret: Bytes): Promise<void> {
    const { pass } = this.share;
    await link.request("visit", {
      channel: pass.channel,
      visitor_pass: pass.packed,
      secret,
      proof: prove(this.share, link.peer, this.node.public, link.hash),
      stamp: this.stamp,
    });
  }

  private async circuit(proxy: Link, node: Bytes): Promise<Link> {
    const { channel } = this.share.pass;
    const ask = (first: Bytes) => proxy.stream("visit.circuit", { channel, node, first }, CIRCUIT_CREDIT);
    return Link.open(new CircuitTransport(ask), this.node, node, channel);
  }

  /** A link with a holder, end to end, on which the pass was shown. */
  private reach(node: Bytes): Promise<Link> {
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

  private async makeLink(node: Bytes): Promise<Link> {
    const proxy = await this.atProxy();
    // The proxy may be the holder itself: it is linked already, but was not shown the secret.
    if (equal(proxy.peer, node)) {
      await this.show(proxy, secretOf(this.share.seed));
      return proxy;
    }
    const link = await this.circuit(proxy, node);
    try {
      await this.show(link, secretOf(this.share.seed));
      return link;
    } catch (error) {
      link.close();
      throw error;
    }
  }

  /** Who has all of it; those that are online first. The node that made the link may always be asked. */
  private async look(goal: Goal): Promise<readonly Holder[]> {
    const proxy = await this.atProxy();
    const before = this.looked.get(goal);
    if (before && Date.now() - before.at < HOLDERS_SECONDS * 1000) return before.holders;
    this.options.tell?.("Asking who has it");
    let found = await this.ask(proxy, goal, 0);
    if (!found.some((holder) => holder.online)) found = await this.ask(proxy, goal, LOOKUP_HOLD_SECONDS);
    this.looked.set(goal, { holders: found, at: Date.now() });
    this.holders = found;
    return found;
  }

  private async ask(proxy: Link, goal: Goal, hold: number): Promise<Holder[]> {
    const { share } = this;
    const params = {
      channel: share.pass.channel,
      kind: goal.target.kind === "file" ? "files" : "feeds",
      keys: goal.keys,
      secret_version: share.secretVersion,
      hold: hold * 1000,
    };
    const answer = asMap(await proxy.request("who-has", params, LOOKUP_SECONDS + hold), "an answer");
    const nodes = asList(answer.nodes, "nodes", 0, MAX_ANSWER_NODES).map(holderOf);
    const places = asList(answer.holders, "holders", goal.keys.length, goal.keys.length).map((list) =>
      asList(list, "places", 0, MAX_HOLDERS).map((place) => asInt(place, "a place", 0, MAX_ANSWER_NODES)),
    );
    const all = nodes.filter((_, i) => places.every((list) => list.includes(i)));
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
    const { home } = this;
    const everybody = [...known.filter((holder) => holder.online), home].filter(
      (holder, i, all) => all.findIndex((other) => equal(other.id, holder.id)) === i,
    );
    const candidates = everybody.filter((holder) => !this.banned.has(hex(holder.id)));
    if (candidates.length === 0) throw this.banned.get(hex(everybody[0]!.id))!;
    for (const holder of candidates.slice(0, most)) {
      try {
        this.options.tell?.(`Asking ${holder.label || hex(holder.id).slice(0, 8)}`);
        return await work(await this.reach(holder.id), holder);
      } catch (error) {
        const said = asKacheryError(error);
        // What one holder does not allow or have, another may; the first real reason is told.
        if (isFinal(said)) throw said;
        this.looked.delete(goal);
        if (!(last && said.code === "unreachable")) last = said;
      }
    }
    throw this.explained(goal, last);
  }

  /** Do something with the node that made the link, which alone counts uses and takes messages. */
  async withHome<T>(work: (link: Link, holder: Holder) => Promise<T>): Promise<T> {
    return work(await this.reach(this.share.pass.home), this.home);
  }

  private get home(): Holder {
    return { id: this.share.pass.home, label: "who shared it", online: true };
  }

  private explained(goal: Goal, last: KacheryError | null): KacheryError {
    const offline = this.holders.filter((holder) => !holder.online).map((holder) => holder.label || hex(holder.id).slice(0, 8));
    if (offline.length === 0 && last && last.code !== "unreachable") return last;
    const detail = offline.length
      ? `${offline.slice(0, 5).join(", ")} ${offline.length > 1 ? "have" : "has"} it, but ${offline.length > 1 ? "are" : "is"} offline`
      : "no computer that has it is connected to the proxy now; the one that shared it must run";
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
