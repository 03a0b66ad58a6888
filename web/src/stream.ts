/**
 * One stream that this end opened: what comes on it, within the credit that was given.
 *
 * What has come and was not dealt with is bounded by that credit, whatever the other side does.
 */

import { type Bytes, concat } from "./bytes.js";
import { KacheryError, violation } from "./errors.js";
import { FRAME_OVERHEAD, MAX_BODY, MIN_FRAGMENT } from "./limits.js";
import { SEAL_BYTES, type Tail } from "./session.js";

export interface Item {
  readonly meta: unknown;
  readonly tail: Tail;
  readonly cost: number;
}

/** What a stream needs of its link. */
export interface StreamHost {
  credit(id: number, more: number): void;
  data(id: number, meta: unknown, tail: Bytes): void;
  sealed(id: number, meta: unknown, body: Bytes): void;
  bare(id: number, meta: unknown): void;
  ended(id: number): void;
  sayEnd(id: number): void;
}

export class Stream {
  private readonly items: Item[] = [];
  /** Of a body that is not all there. */
  private parts: (Tail & { kind: "sealed" })[] = [];
  private partBytes = 0;
  private wake: (() => void)[] = [];
  private error: KacheryError | null = null;
  private over = false;
  private granted: number;
  private owed = 0;
  private mine = 0;
  private firstCredit = 0;

  constructor(
    private readonly host: StreamHost,
    readonly id: number,
    private readonly credit: number,
  ) {
    this.granted = credit;
  }

  /** The next piece; null after a good end. Throws the error with which the other side ended it. */
  async next(): Promise<Item | null> {
    while (this.items.length === 0) {
      if (this.error) throw this.error;
      if (this.over) return null;
      await this.changed();
    }
    return this.items.shift()!;
  }

  /** A piece was dealt with: the other side may send as much again. */
  done(cost: number): void {
    this.owed += cost;
    if (this.over || this.owed < Math.min(this.credit / 8, 1_048_576)) return;
    this.granted += this.owed;
    this.host.credit(this.id, this.owed);
    this.owed = 0;
  }

  /** How much the other side lets this end have under way, which it says first of all. */
  async window(): Promise<number> {
    while (this.firstCredit === 0) await this.open();
    return this.firstCredit;
  }

  /** Send a piece with an opaque tail as soon as there is credit for it. */
  async sendOpaque(meta: unknown, tail: Bytes): Promise<void> {
    const cost = tail.length + FRAME_OVERHEAD;
    while (this.mine < cost) await this.open();
    this.mine -= cost;
    this.host.data(this.id, meta, tail);
  }

  /** Send a piece with a body that is sealed, of which there is no more than one record holds. */
  async sendSealed(meta: unknown, body: Bytes): Promise<void> {
    const cost = body.length + SEAL_BYTES + FRAME_OVERHEAD;
    while (this.mine < cost) await this.open();
    this.mine -= cost;
    this.host.sealed(this.id, meta, body);
  }

  /** Send a piece without a body. */
  async sendMeta(meta: unknown): Promise<void> {
    while (this.mine < FRAME_OVERHEAD) await this.open();
    this.mine -= FRAME_OVERHEAD;
    this.host.bare(this.id, meta);
  }

  /** Nothing more is wanted of it. */
  end(): void {
    if (!this.over) this.host.sayEnd(this.id);
    this.finish(null);
    this.items.length = 0;
  }

  // --- what the link hears ---------------------------------------------------------------------

  onData(meta: unknown, tail: Tail, size: number): void {
    const part = tail.kind === "sealed" && tail.part;
    const cost = part ? size - SEAL_BYTES : size + FRAME_OVERHEAD;
    this.granted -= cost;
    if (this.granted < 0) throw violation("more data than there was credit for");
    if (part) {
      this.partBytes += cost;
      if (cost < MIN_FRAGMENT || this.partBytes >= MAX_BODY) throw violation("a part of an absurd length");
      this.parts.push(tail);
      return;
    }
    this.items.push({ meta, tail: this.whole(tail, size), cost: cost + this.partBytes });
    this.parts = [];
    this.partBytes = 0;
    this.ring();
  }

  /** A body of which `tail` is the last part. */
  private whole(tail: Tail, size: number): Tail {
    if (this.parts.length === 0) return tail;
    if (tail.kind !== "sealed" || this.partBytes + size - SEAL_BYTES > MAX_BODY) {
      throw violation("a body in parts that is none");
    }
    const all = [...this.parts, tail];
    const open = async () => concat(...(await Promise.all(all.map((each) => each.open()))));
    return { kind: "sealed", part: false, open };
  }

  onCredit(more: number): void {
    this.mine += more;
    if (this.mine > 2 ** 40) throw violation("absurd credit");
    this.firstCredit ||= more;
    this.ring();
  }

  finish(error: KacheryError | null): void {
    if (this.over) return;
    this.over = true;
    this.error = error;
    this.host.ended(this.id);
    this.ring();
  }

  private async open(): Promise<void> {
    if (this.over) throw this.error ?? new KacheryError("link-closed", { reason: "the stream ended" });
    await this.changed();
  }

  private changed(): Promise<void> {
    return new Promise((resolve) => this.wake.push(resolve));
  }

  private ring(): void {
    const waiting = this.wake;
    this.wake = [];
    for (const resolve of waiting) resolve();
  }
}
