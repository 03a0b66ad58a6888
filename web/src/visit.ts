/**
 * A visit: who opened a share link, and shows its pass to the proxy and, end to end, to those who hold what
 * it is to.
 */

import { type Bytes, equal, fromHex, hex } from "./bytes.js";
import { Access, type Holder, type Options } from "./access.js";
import { VisitorKey } from "./identity.js";
import { CIRCUIT_CREDIT } from "./limits.js";
import { guestOf, Link } from "./link.js";
import { asBytes, asMap } from "./msgpack.js";
import { type Goal, parseTarget, prove, secretOf, type Share } from "./share.js";
import { CircuitTransport, WebSocketTransport } from "./transport.js";

/** Where a key and a stamp are kept between loads of the page, for links whose uses are counted. */
export interface Memory {
  get(name: string): string | null;
  set(name: string, value: string): void;
}

export interface VisitOptions extends Options {
  readonly memory?: Memory;
}

export class Visit extends Access {
  private readonly node: Promise<VisitorKey>;
  private readonly remember: () => void;
  private readonly given = new WeakMap<Goal, Holder>();
  private stamp: Bytes = new Uint8Array(0);
  /** This browser opened it before, as one of those that are counted. */
  readonly returning: boolean;

  constructor(
    readonly share: Share,
    options: VisitOptions,
  ) {
    super(options);
    const { uses, id } = share.pass;
    // One whose uses are counted is one visitor's: a page that is loaded again is the same visitor.
    const name = `kachery-visit-${hex(id)}`;
    const kept = uses ? options.memory?.get(name) : null;
    this.returning = Boolean(kept && /^[0-9a-f]{64}$/.test(kept));
    const seed = this.returning ? fromHex(kept!) : crypto.getRandomValues(new Uint8Array(32));
    this.remember = () => {
      if (uses) options.memory?.set(name, hex(seed));
    };
    this.node = VisitorKey.of(seed);
  }

  get channel(): Bytes {
    return this.share.pass.channel;
  }

  protected get secretVersion(): number {
    return this.share.secretVersion;
  }

  protected keysOf(goal: Goal): readonly Bytes[] {
    return goal.keys;
  }

  /** The node that made the link may always be asked. */
  protected others(goal: Goal): readonly Holder[] {
    return this.given.has(goal) ? [] : [this.home];
  }

  /** Files and feeds prove themselves. What somebody computed is the word of who did: of those alone counts it
   * whom the link names. */
  trusts(goal: Goal, node: Bytes): boolean {
    const runners = this.share.view?.runners ?? [];
    return goal.target.kind !== "task" || equal(node, this.share.pass.home) || runners.some((each) => equal(each, node));
  }

  protected async enter(): Promise<Link> {
    const { share, options } = this;
    options.tell?.("Connecting to the proxy");
    const transport = await WebSocketTransport.dial(options.url, options.connect);
    const link = await Link.open(transport, await this.node, share.proxy, guestOf(this.channel));
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
      const proof = await prove(this.share, home.peer, (await this.node).public, home.hash);
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
      proof: await prove(this.share, link.peer, (await this.node).public, link.hash),
      stamp: this.stamp,
    });
  }

  private async circuit(proxy: Link, node: Bytes): Promise<Link> {
    const { channel } = this;
    const ask = (first: Bytes) => proxy.stream("visit.circuit", { channel, node, first }, CIRCUIT_CREDIT);
    return Link.open(new CircuitTransport(ask), await this.node, node, guestOf(channel));
  }

  protected async makeLink(node: Bytes): Promise<Link> {
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

  /** Do something with the node that made the link, which alone counts uses and takes messages. */
  async withHome<T>(work: (link: Link, holder: Holder) => Promise<T>): Promise<T> {
    return work(await this.reach(this.share.pass.home), this.home);
  }

  /** A file that one node alone lets this visitor have: what it computed for it. */
  goalAt(uri: string, node: Bytes): Goal {
    const goal: Goal = { uri, target: parseTarget(uri), keys: [], mayAppend: false };
    this.given.set(goal, { id: node, label: "who computed it", online: true });
    return goal;
  }

  protected override async look(goal: Goal): Promise<readonly Holder[]> {
    const holder = this.given.get(goal);
    return holder ? [holder] : super.look(goal);
  }

  private get home(): Holder {
    return { id: this.share.pass.home, label: "who shared it", online: true };
  }
}
