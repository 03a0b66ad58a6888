/**
 * A page that is a member of a channel: it joined by an invitation, and may ask for what its roles allow.
 *
 * It provides nothing and serves nothing. What it knows of the channel is its document, which it takes from
 * the proxy whenever that has a newer one, and the admissions that it hears of.
 */

import { Access, type Holder, type Options } from "./access.js";
import { type Bytes, concat, equal, fromHex, hex, utf8 } from "./bytes.js";
import { type Admission, type ChannelDocument, listed, parseAdmission, parseDocument, rolesOf } from "./document.js";
import { KacheryError, violation } from "./errors.js";
import { keyedHash } from "./identity.js";
import { type Invitation, proveInvitation } from "./invitation.js";
import {
  ADMISSIONS_PER_NOTE,
  CIRCUIT_CREDIT,
  MAX_ADMISSIONS,
  MAX_CHANNEL_DOCUMENT,
  MAX_ONLINE,
  STALL_SECONDS,
} from "./limits.js";
import { guestOf, Link, within } from "./link.js";
import { asBytes, asList, asMap } from "./msgpack.js";
import type { PageKey } from "./page_key.js";
import { type Goal, parseTarget } from "./share.js";
import type { Stream } from "./stream.js";
import { CircuitTransport, WebSocketTransport } from "./transport.js";

/** What is kept of a membership. */
export interface Membership {
  readonly channel: Bytes;
  /** The node of the proxy from which the page comes. */
  readonly proxy: Bytes;
  /** What this page calls itself. */
  readonly label: string;
  readonly document: Bytes;
  readonly admission: Bytes | null;
}

export interface MemberOptions extends Options {
  /** Keeps what changed. */
  readonly keep: (membership: Membership) => void;
  /** Somebody came or went, or the document changed. */
  readonly changed: () => void;
}

const WANTED = ["request-files", "request-feeds", "request-tasks"];

/** Whom to dial for an invitation on a page that comes from `host`. Throws `unreachable`. */
export function proxyOf(invitation: Invitation, host: string): Bytes {
  const urls = invitation.bootstraps.map(({ url, node }) => ({ node, url: new URL(url) }));
  const found = urls.find(({ url }) => url.host === host) ?? urls.find(({ url }) => isLoopback(url.host) && isLoopback(host) && portOf(url.host) === portOf(host));
  if (found) return found.node;
  const pages = urls.map(({ url }) => `${url.protocol === "wss:" ? "https" : "http"}://${url.host}/`).join(" or ");
  throw new KacheryError("unreachable", { what: `channel ${invitation.name}`, reason: `a page talks to where it comes from alone: open ${pages}, and paste the invitation there` });
}

const portOf = (host: string): string => /:([0-9]+)$/.exec(host)?.[1] ?? "";
const isLoopback = (host: string): boolean => /^(localhost|127\.0\.0\.1|\[::1\])(:|$)/.test(host);

/** Becomes a member. Throws `invitation-refused`, `bad-invitation`, `unreachable`, others of links. */
export async function join(invitation: Invitation, key: PageKey, label: string, proxy: Bytes, options: Options): Promise<Membership> {
  const { channel, admitter } = invitation;
  if (Date.now() / 1000 >= invitation.expiresAt) throw new KacheryError("invitation-refused", { reason: "its time is over" });
  options.tell?.("Connecting to the proxy");
  const link = await Link.open(await WebSocketTransport.dial(options.url, options.connect), key, proxy, guestOf(channel));
  try {
    if (equal(proxy, admitter)) return await ask(link, invitation, key, label, proxy);
    options.tell?.("Asking who sent the invitation");
    const circuit = (first: Bytes) => link.stream("join.circuit", { channel, node: admitter, first }, CIRCUIT_CREDIT);
    const inner = await Link.open(new CircuitTransport(circuit), key, admitter, guestOf(channel));
    try {
      return await ask(inner, invitation, key, label, proxy);
    } finally {
      inner.close();
    }
  } catch (error) {
    if (error instanceof KacheryError && error.code === "unreachable")
      throw new KacheryError("unreachable", { what: "who sent the invitation", reason: "that computer must run, and be connected to the proxy" });
    throw error;
  } finally {
    link.close();
  }
}

async function ask(link: Link, invitation: Invitation, key: PageKey, label: string, proxy: Bytes): Promise<Membership> {
  const { channel } = invitation;
  const params = { channel, invitation: invitation.key.public, proof: proveInvitation(invitation, key.public, link.hash), label };
  const { data, meta } = await documentFrom(link.stream("join", params));
  const document = parseDocument(data, channel);
  const admission = asMap(meta, "an answer").admission ?? null;
  const checked = admission === null ? null : parseAdmission(asBytes(admission, "an admission", 1, 2_000), document);
  return { channel, proxy, label, document: data, admission: checked?.packed ?? null };
}

/** A document that comes in bodies, and the meta of the first. */
async function documentFrom(stream: Stream): Promise<{ data: Bytes; meta: unknown }> {
  const parts: Bytes[] = [];
  let meta: unknown;
  let size = 0;
  try {
    for (let item = await within(STALL_SECONDS, "The document", stream.next()); item !== null; item = await within(STALL_SECONDS, "The document", stream.next())) {
      if (item.tail.kind !== "sealed") throw violation("a document without bytes");
      if (parts.length === 0) meta = item.meta;
      parts.push(await item.tail.open());
      size += parts[parts.length - 1]!.length;
      if (size > MAX_CHANNEL_DOCUMENT) throw violation("a document that is too long");
      stream.done(item.cost);
    }
  } finally {
    stream.end();
  }
  return { data: concat(...parts), meta };
}

export class Member extends Access {
  document: ChannelDocument;
  /** The nodes that the proxy says are connected; null: not known yet. */
  online: readonly Bytes[] | null = null;
  /** Of others who joined while the owner was away, by node. */
  readonly admitted = new Map<string, Admission>();
  private admission: Admission | null;
  private secret: Bytes | null = null;
  private pulling = false;

  private constructor(
    private membership: Membership,
    private readonly key: PageKey,
    protected override readonly options: MemberOptions,
  ) {
    super(options);
    this.document = parseDocument(membership.document, membership.channel);
    this.admission = membership.admission ? parseAdmission(membership.admission, this.document) : null;
  }

  static async open(membership: Membership, key: PageKey, options: MemberOptions): Promise<Member> {
    const made = new Member(membership, key, options);
    await made.unseal();
    return made;
  }

  get channel(): Bytes {
    return this.membership.channel;
  }

  get id(): Bytes {
    return this.key.public;
  }

  /** What this page may do. */
  get roles(): string[] {
    return this.rolesOf(this.id);
  }

  /** What a node may do. */
  rolesOf(node: Uint8Array): string[] {
    const { expiresAt } = this.document;
    if (expiresAt !== null && Date.now() / 1000 >= expiresAt) return [];
    const entry = listed(this.document, node) ?? this.admissionOf(node);
    return rolesOf(entry?.bits ?? 0);
  }

  nameOf(node: Uint8Array): string {
    return (listed(this.document, node) ?? this.admissionOf(node))?.label || hex(node).slice(0, 8);
  }

  private admissionOf(node: Uint8Array): Admission | undefined {
    return equal(node, this.id) ? (this.admission ?? undefined) : this.admitted.get(hex(node));
  }

  private async unseal(): Promise<void> {
    const entry = listed(this.document, this.id) ?? this.admission;
    this.secret = entry?.sealed.length ? await this.key.unseal(entry.sealed) : null;
  }

  // --- what Access asks ------------------------------------------------------------------------

  protected get secretVersion(): number {
    return this.document.secretVersion;
  }

  protected keysOf({ target }: Goal): readonly Bytes[] {
    const { secret } = this;
    if (!secret) throw new KacheryError("access-denied", { who: "this browser", cause: "it has not been given the channel's secret" });
    const key = (person: string, identifier: Uint8Array) => keyedHash(16, secret, person, identifier);
    switch (target.kind) {
      case "file":
        return [target.sha1, ...(target.manifest ? [target.manifest] : [])].map((sha1) => key("kachery-file", fromHex(sha1)));
      case "feed":
        return [key("kachery-feed", concat(target.feed, target.subfeed))];
      case "task":
        return [target.function ? key("kachery-task", utf8(target.function)) : key("kachery-backend", new Uint8Array(0))];
    }
  }

  protected others(): readonly Holder[] {
    return [];
  }

  trusts(goal: Goal, node: Bytes): boolean {
    return goal.target.kind !== "task" || this.computes(node);
  }

  /** Whether a node may compute on the channel. */
  computes(node: Uint8Array): boolean {
    return this.rolesOf(node).includes("provide-tasks");
  }

  protected async enter(): Promise<Link> {
    this.options.tell?.("Connecting to the proxy");
    const transport = await WebSocketTransport.dial(this.options.url, this.options.connect);
    const link = await this.greet(transport, this.membership.proxy);
    link.onNote = (topic, params) => this.hear(link, topic, params);
    void this.update(link);
    try {
      await this.lookAround(link);
    } catch (error) {
      link.close();
      const gone = link.closedBy?.code === "not-a-member" || (error instanceof KacheryError && error.code === "not-a-member");
      throw gone ? new KacheryError("removed", { channel: this.document.name }) : error;
    }
    return link;
  }

  private greet(transport: WebSocketTransport | CircuitTransport, node: Bytes): Promise<Link> {
    const { channel, label } = this.membership;
    const roles = WANTED.filter((role) => this.roles.includes(role));
    return Link.open(transport, this.key, node, { channel, version: this.document.version, roles, label });
  }

  protected async makeLink(node: Bytes): Promise<Link> {
    const proxy = await this.atProxy();
    if (equal(proxy.peer, node)) return proxy;
    const { channel } = this;
    const ask = (first: Bytes) => proxy.stream("circuit", { channel, node, first }, CIRCUIT_CREDIT);
    return this.greet(new CircuitTransport(ask), node);
  }

  // --- what is heard ---------------------------------------------------------------------------

  private hear(link: Link, topic: unknown, params: unknown): void {
    if (topic === "channels") void this.update(link);
    if (topic !== "channel.admissions") return;
    const note = asMap(params, "a note");
    if (!equal(asBytes(note.channel, "a channel", 32), this.channel)) return;
    for (const packed of asList(note.admissions, "admissions", 0, ADMISSIONS_PER_NOTE)) {
      const found = parseAdmission(asBytes(packed, "an admission", 1, 2_000), this.document);
      if (found && this.admitted.size < MAX_ADMISSIONS) this.admitted.set(hex(found.node), found);
    }
    this.options.changed();
  }

  /** Take the newer document that the other side says it has. */
  private async update(link: Link): Promise<void> {
    if (this.pulling || link.versionOf(this.channel) <= this.document.version) return;
    this.pulling = true;
    try {
      const { data } = await documentFrom(link.stream("channel.document", { channel: this.channel }));
      const document = parseDocument(data, this.channel);
      if (document.version > this.document.version) await this.take(document);
    } catch {
      // Who is a member no more is not given it; the link says so.
    } finally {
      this.pulling = false;
    }
  }

  private async take(document: ChannelDocument): Promise<void> {
    this.document = document;
    for (const [node, each] of this.admitted) if (!parseAdmission(each.packed, document)) this.admitted.delete(node);
    this.admission = this.admission && parseAdmission(this.admission.packed, document);
    await this.unseal();
    this.membership = { ...this.membership, document: document.signed, admission: this.admission?.packed ?? null };
    this.options.keep(this.membership);
    this.options.changed();
  }

  /** Ask the proxy who is there. */
  async lookAround(link?: Link): Promise<void> {
    const proxy = link ?? (await this.atProxy());
    const answer = asMap(await proxy.request("channel.online", { channel: this.channel }), "an answer");
    // The proxy names others; that it is there itself, its answer shows.
    this.online = [proxy.peer, ...asList(answer.nodes, "nodes", 0, MAX_ONLINE).map((node) => asBytes(node, "a node id", 32))];
    this.options.changed();
  }

  /** Do something with all who have a content and are online, at once. */
  async everybody(goal: Goal, most: number, work: (holder: Holder) => Promise<void>): Promise<void> {
    const holders = await this.ask(await this.atProxy(), goal, 0);
    await Promise.all(holders.filter((holder) => holder.online).slice(0, most).map(work));
  }

  /** What a URI of a file or a subfeed names, as it is asked for. Throws `bad-input`. */
  goal(uri: string): Goal {
    try {
      return { uri, target: parseTarget(uri), keys: [], mayAppend: false };
    } catch {
      throw new KacheryError("bad-input", { what: uri.slice(0, 100), reason: "it is no URI of a file (sha1://...) or of a subfeed (feed://.../name)" });
    }
  }
}
