/**
 * A link: one session with one node over one transport. This end is always its initiator, asks, and
 * serves nothing: what the other side asks is refused, as docs/protocol.md says.
 */

import { type Bytes, concat, hex } from "./bytes.js";
import { asKacheryError, KacheryError, violation } from "./errors.js";
import { keyedHash, type Signer } from "./identity.js";
import {
  DEAD_SECONDS,
  HANDSHAKE_SECONDS,
  MAX_FILE,
  MAX_LABEL,
  PING_SECONDS,
  REQUEST_SECONDS,
  STREAM_CREDIT,
} from "./limits.js";
import { asInt, asList, asMap, asText, pack, packArray, packBinaryMap } from "./msgpack.js";
import { Initiator } from "./noise.js";
import { Outbox } from "./outbox.js";
import { DATA, type Outgoing, type Received, SEAL_BYTES, Session } from "./session.js";
import { Stream } from "./stream.js";
import type { Transport } from "./transport.js";

const [HELLO, REQUEST, RESPONSE, FAILURE, OPEN, , CREDIT, END, NOTE, PING, PONG, BYE] = [
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
] as const;
const SOFTWARE = "kachery-web";
const MAX_ID = 2 ** 53 - 1;

/** What this end says of itself: on which channel it is, with which version of its document. */
export interface Greeting {
  readonly channel: Uint8Array;
  readonly version: number;
  readonly roles: readonly string[];
  readonly label: string;
}

/** Of who holds an invitation or a pass, and is no member. */
export const guestOf = (channel: Uint8Array): Greeting => ({ channel, version: 0, roles: [], label: "" });

interface Answer {
  resolve(result: unknown): void;
  reject(error: KacheryError): void;
}

/** Seconds, as a promise that is rejected. */
export async function within<T>(seconds: number, what: string, work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new KacheryError("deadline-exceeded", { what, seconds })), seconds * 1000);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

export class Link {
  /** What the other node calls itself. */
  label = "";
  /** Of its channels, as tags: see `versionOf`. */
  private channels: Record<string, unknown> = {};
  /** Hears what the other side says without being asked. */
  onNote: (topic: unknown, params: unknown) => void = () => undefined;
  closedBy: KacheryError | null = null;
  private number = -1;
  private readonly outbox: Outbox;
  private readonly answers = new Map<number, Answer>();
  private readonly streams = new Map<number, Stream>();
  private greeted = false;
  private heard = Date.now();
  private readonly timer: ReturnType<typeof setInterval>;
  private onGreeted!: () => void;
  private onEnded!: (error: KacheryError) => void;
  private readonly hello: Promise<void>;
  /** When it has ended, and by what. */
  readonly ended: Promise<KacheryError>;

  private constructor(
    private readonly transport: Transport,
    private readonly session: Session,
  ) {
    this.outbox = new Outbox(session, (record) => transport.send(record));
    this.hello = new Promise((resolve) => (this.onGreeted = resolve));
    this.ended = new Promise((resolve) => (this.onEnded = resolve));
    this.timer = setInterval(() => this.watch(), (PING_SECONDS * 1000) / 2);
    // A process of node must not go on for it.
    (this.timer as { unref?: () => void }).unref?.();
  }

  /**
   * Handshake and greet.
   *
   * Throws a KacheryError: why there is no link. The transport is closed then.
   */
  static async open(transport: Transport, node: Signer, expected: Uint8Array, greeting: Greeting): Promise<Link> {
    try {
      const link = await within(HANDSHAKE_SECONDS, "The handshake", Link.shakeHands(transport, node, expected));
      link.sayHello(node, greeting);
      void link.run();
      const first = Promise.race([link.hello, link.ended]);
      await within(HANDSHAKE_SECONDS, "The greeting", first);
      if (link.closedBy) throw link.closedBy;
      return link;
    } catch (error) {
      transport.close();
      throw asKacheryError(error);
    }
  }

  private static async shakeHands(transport: Transport, node: Signer, expected: Uint8Array): Promise<Link> {
    const random = () => crypto.getRandomValues(new Uint8Array(32));
    const initiator = new Initiator(node, expected, { static: random(), ephemeral: random() });
    transport.send(await initiator.first());
    const second = await transport.receive();
    if (second === null) throw new KacheryError("link-closed", { reason: "the other side hung up" });
    const { third, keys } = await initiator.finish(second);
    transport.send(third);
    return new Link(transport, new Session(keys));
  }

  get peer(): Bytes {
    return this.session.peer;
  }

  /** The handshake's hash, to which proofs are bound. */
  get hash(): Bytes {
    return this.session.hash;
  }

  private sayHello(node: Signer, { channel, version, roles, label }: Greeting): void {
    const tag = tagOf(this.hash, channel, node.public);
    this.write(
      packArray([
        pack(HELLO),
        pack(SOFTWARE),
        pack(Date.now() / 1000),
        pack(label),
        pack([]),
        packBinaryMap(tag, [version, roles]),
        pack(new Uint8Array(0)),
      ]),
    );
  }

  /** Which version of a channel's document the other side says it has; 0 if it says none. */
  versionOf(channel: Uint8Array): number {
    const said = this.channels[hex(tagOf(this.hash, channel, this.peer))];
    return said === undefined ? 0 : asInt(asList(said, "a channel", 2)[0], "a version", 0, Number.MAX_SAFE_INTEGER);
  }

  private async run(): Promise<void> {
    try {
      for (;;) {
        const message = await this.transport.receive();
        if (message === null) throw new KacheryError("link-closed", { reason: "the other side is gone" });
        this.heard = Date.now();
        for (const received of this.session.open(message)) {
          this.handle(received);
          if (this.closedBy) return;
        }
      }
    } catch (error) {
      const known = asKacheryError(error);
      if (known.code === "protocol-violation") this.sayBye(known);
      this.finish(known);
    }
  }

  /** Ask, and wait for the answer. Throws what the other side answered, or why it did not. */
  async request(method: string, params: unknown, seconds = REQUEST_SECONDS): Promise<unknown> {
    this.requireOpen();
    const id = this.nextId();
    const answer = new Promise<unknown>((resolve, reject) => this.answers.set(id, { resolve, reject }));
    this.write(pack([REQUEST, id, method, params]));
    try {
      return await within(seconds, method, answer);
    } catch (error) {
      if (this.answers.delete(id)) this.write(pack([END, id, "", {}]));
      throw error;
    } finally {
      this.answers.delete(id);
    }
  }

  /** Open a stream, on which the other side may send `credit` bytes at first. */
  stream(method: string, params: unknown, credit = STREAM_CREDIT): Stream {
    this.requireOpen();
    const id = this.nextId();
    const stream = new Stream(
      {
        credit: (id, more) => this.write(pack([CREDIT, id, more])),
        data: (id, meta, tail) => this.put({ header: pack([DATA, id, meta, 2, tail.length]), tail }),
        sealed: (id, meta, body) => this.put({ header: pack([DATA, id, meta, 1, body.length + SEAL_BYTES]), body }),
        bare: (id, meta) => this.write(pack([DATA, id, meta, 0, 0])),
        ended: (id) => this.streams.delete(id),
        sayEnd: (id) => this.write(pack([END, id, "", {}])),
      },
      id,
      credit,
    );
    this.streams.set(id, stream);
    this.write(pack([OPEN, id, method, params, credit]));
    return stream;
  }

  /** Say something that is not answered. */
  note(topic: string, params: unknown): void {
    this.write(pack([NOTE, topic, params]));
  }

  close(): void {
    if (this.closedBy) return;
    const error = new KacheryError("link-closed", { reason: "it is not needed any more" });
    this.sayBye(error);
    this.finish(error);
  }

  private nextId(): number {
    this.number += 2;
    return this.number;
  }

  private requireOpen(): void {
    if (this.closedBy) throw this.closedBy;
  }

  private write(header: Uint8Array): void {
    this.put({ header });
  }

  private put(frame: Outgoing): void {
    if (!this.closedBy) this.outbox.put(frame);
  }

  private sayBye(error: KacheryError): void {
    this.write(pack([BYE, error.code, { reason: String(error.fields.reason ?? "").slice(0, 400) }]));
  }

  private finish(error: KacheryError): void {
    if (this.closedBy) return;
    this.closedBy = error;
    clearInterval(this.timer);
    this.outbox.flush();
    this.transport.close();
    for (const answer of this.answers.values()) answer.reject(error);
    this.answers.clear();
    for (const stream of [...this.streams.values()]) stream.finish(error);
    this.onEnded(error);
  }

  private watch(): void {
    const silent = (Date.now() - this.heard) / 1000;
    if (silent > DEAD_SECONDS) this.finish(new KacheryError("stalled", { what: "The connection", seconds: DEAD_SECONDS }));
    else if (silent >= PING_SECONDS) this.write(pack([PING, 1]));
  }

  private handle({ frame, tail }: Received): void {
    const [tag, first, ...rest] = frame;
    if (!this.greeted && tag !== HELLO && tag !== BYE) throw violation("a frame before the hello");
    switch (tag) {
      case HELLO:
        if (this.greeted) throw violation("a second hello");
        this.greeted = true;
        this.label = asText(rest[1], "a label", MAX_LABEL);
        this.channels = asMap(rest[3], "channels");
        this.onGreeted();
        break;
      case REQUEST:
        this.write(pack([FAILURE, asInt(first, "a number", 0, MAX_ID), "protocol-violation", { reason: "a page serves nothing" }]));
        break;
      case OPEN:
        this.write(pack([END, asInt(first, "a number", 0, MAX_ID), "protocol-violation", { reason: "a page serves nothing" }]));
        break;
      case RESPONSE:
        this.take(first)?.resolve(rest[0]);
        break;
      case FAILURE:
        this.take(first)?.reject(told(rest));
        break;
      case DATA: {
        const size = tail.kind === "none" ? 0 : asInt(rest[2], "a size", 0, MAX_FILE);
        this.streamOf(first)?.onData(rest[0], tail, size);
        break;
      }
      case CREDIT:
        this.streamOf(first)?.onCredit(asInt(rest[0], "credit", 1, 2 ** 40));
        break;
      case END:
        this.take(first)?.reject(told(rest));
        this.streamOf(first)?.finish(rest[0] === "" ? null : told(rest));
        break;
      case PING:
        this.write(pack([PONG, asInt(first, "a token", -MAX_ID, MAX_ID)]));
        break;
      case NOTE:
        if (first === "channels") this.channels = asMap(rest[0], "channels");
        this.onNote(first, rest[0]);
        break;
      case PONG:
        break;
      case BYE:
        this.finish(told([first, ...rest]));
        break;
      default:
        throw violation("a frame that is not known");
    }
  }

  private take(id: unknown): Answer | undefined {
    const number = this.known(id);
    const answer = this.answers.get(number);
    this.answers.delete(number);
    return answer;
  }

  private streamOf(id: unknown): Stream | undefined {
    return this.streams.get(this.known(id));
  }

  /** A number of an exchange that there is or was; of one that the other side began, nothing is kept. */
  private known(id: unknown): number {
    const number = asInt(id, "a number", 0, MAX_ID);
    if (number % 2 === 1 && number > this.number) throw violation("a number that was never given");
    return number;
  }
}

/** By which a node names a channel to who knows it. */
const tagOf = (hash: Uint8Array, channel: Uint8Array, node: Uint8Array): Bytes =>
  keyedHash(16, hash, "kachery-channel", concat(channel, node));

/** An error that came: a code and fields. One that blames the receiver counts as the other side's. */
function told(items: readonly unknown[]): KacheryError {
  const code = asText(items[0], "a code", MAX_LABEL);
  return new KacheryError(code || "cancelled", asMap(items[1] ?? {}, "fields"));
}

