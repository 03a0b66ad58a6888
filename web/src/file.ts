/** A file on a visit: verified before a byte of it is handed out, and gone on with when a holder goes. */

import { type Bytes, fromHex, hex } from "./bytes.js";
import { asKacheryError, KacheryError, violation } from "./errors.js";
import { runningSha1, sha1Of, type TreeHashers, treeHashers } from "./hashing.js";
import {
  BLOCK,
  INLINE_FILE,
  MAX_FILE,
  MAX_PAGE_MANIFEST,
  MAX_PROOF_HASHES,
  MAX_TRIES,
  MAX_WHOLE_FILE,
  RETRY_FIRST,
  RETRY_MOST,
} from "./limits.js";
import type { Link } from "./link.js";
import { type Manifest, parseManifest } from "./manifest.js";
import { asHashes, asInt, asList, asMap } from "./msgpack.js";
import { blocksOf, type Came, LongRange, nextOf } from "./ranges.js";
import type { Item } from "./stream.js";
import { leadsTo } from "./tree.js";
import type { Goal, Target } from "./share.js";
import { type Access, type Holder, isFinal } from "./access.js";

export interface Piece {
  readonly offset: number;
  readonly bytes: Bytes;
}

interface Info {
  readonly size: number;
  readonly inline: Bytes | null;
}

type FileTarget = Extract<Target, { kind: "file" }>;

export class RemoteFile {
  private whole: Bytes | null = null;
  /** From whom the last bytes came. */
  source = "";

  private constructor(
    private readonly visit: Access,
    private readonly goal: Goal,
    private readonly target: FileTarget,
    /** In bytes. */
    readonly size: number,
    private readonly manifest: Manifest | null,
    private readonly hash: TreeHashers | null,
  ) {}

  get name(): string {
    return this.target.name;
  }

  /** Finds out how large it is, and by what it can be verified. */
  static async open(visit: Access, goal: Goal): Promise<RemoteFile> {
    const { target } = goal;
    if (target.kind !== "file") throw violation("no file");
    // It is fetched while who has the file is found.
    const loading = target.manifest ? treeHashers() : null;
    return visit.withHolders(goal, async (link, holder) => {
      const named = target.manifest ? await fetchManifest(visit, link, target) : null;
      const info = await open(visit, link, target.sha1);
      if (named && named.size !== info.size) throw violation("a file of another size than its manifest says");
      if (!named?.root && info.size > MAX_WHOLE_FILE) {
        const reason = "it can be verified as a whole only; whoever shares it should store it anew";
        throw new KacheryError("too-large", { what: target.name, reason });
      }
      const file = new RemoteFile(visit, goal, target, info.size, named?.root ? named : null, await loading);
      if (info.inline) file.whole = await file.checked(info.inline, holder.label);
      file.source = holder.label;
      return file;
    }, MAX_TRIES);
  }

  /** Bytes [start, stop) in order, in pieces; each was verified. */
  async *read(start = 0, stop = this.size): AsyncGenerator<Piece, void, undefined> {
    if (!(start >= 0 && start <= stop && stop <= this.size)) throw new RangeError("outside of the file");
    if (!this.manifest?.root) {
      yield { offset: start, bytes: (await this.all()).subarray(start, stop) };
      return;
    }
    let at = start;
    let tries = 0;
    let damage: KacheryError | null = null;
    while (at < stop) {
      const before = at;
      try {
        for await (const piece of this.proven(at, stop)) {
          const from = Math.max(at, piece.offset);
          const to = Math.min(stop, piece.offset + piece.bytes.length);
          at = to;
          yield { offset: from, bytes: piece.bytes.subarray(from - piece.offset, to - piece.offset) };
        }
      } catch (error) {
        const known = asKacheryError(error);
        tries = at > before ? 0 : tries + 1;
        // The same again: there is nobody else.
        if (isFinal(known) || tries >= MAX_TRIES || known === damage) throw known;
        if (known.code === "corrupt-content") {
          damage = known;
          continue;
        }
        // The proxy may be restarting.
        await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(RETRY_MOST, RETRY_FIRST * 2 ** tries)));
      }
    }
  }

  /** The same in one piece: for small ranges. */
  async bytes(start = 0, stop = this.size): Promise<Bytes> {
    const whole = new Uint8Array(stop - start);
    for await (const { offset, bytes } of this.read(start, stop)) whole.set(bytes, offset - start);
    return whole;
  }

  /** All of it to `sink`. Its SHA-1 is compared at the end, unless each block tells as much. What a sink is given is its own. `tell`: bytes so far. */
  async pour(sink: (bytes: Bytes) => void | Promise<void>, tell: (done: number) => void): Promise<void> {
    const sum = this.manifest?.root && this.goal.sameBytes ? null : await runningSha1();
    let done = 0;
    for await (const { bytes } of this.read()) {
      sum?.update(bytes);
      done += bytes.length;
      await sink(bytes);
      tell(done);
    }
    if (sum && sum.digest() !== this.target.sha1) throw this.damaged(this.source);
  }

  private async *proven(from: number, to: number): AsyncGenerator<Piece, void, undefined> {
    // The generator hands out what comes from one holder; another call asks the next one.
    const [start, stop] = blocksOf(from, to, this.size);
    const { range, first, link, holder } = await this.visit.withHolders(this.goal, async (link, holder) => {
      this.source = holder.label;
      const sha1 = fromHex(this.target.sha1);
      const range = new LongRange((ranges) => link.stream("file.read", { channel: this.visit.channel, sha1, ranges, proofs: true }), start, stop);
      // The first piece is waited for here, so that a holder that has it not is not asked again.
      return { range, first: await range.next(), link, holder };
    }, MAX_TRIES);
    try {
      let at = start;
      let next = ahead(first);
      for (;;) {
        const current = await next;
        if (current === null) {
          if (at < stop) throw violation("a range that ends too soon");
          return;
        }
        next = range.next().then(ahead);
        next.catch(() => undefined);
        const bytes = this.verified(current, at, stop, link, holder);
        const end = at + bytes.length; // afterwards they are the caller's
        yield { offset: at, bytes };
        at = end;
        current.done(at);
      }
    } finally {
      range.end();
    }
  }

  private verified({ item, body }: Opened, at: number, stop: number, link: Link, holder: Holder): Bytes {
    const [offset, proof] = asList(item.meta, "a piece", 2);
    if (asInt(offset, "an offset", 0, MAX_FILE) !== at) throw violation("a piece that is not the next");
    const end = at + body.length;
    if (body.length === 0 || end > stop || (end % BLOCK !== 0 && end !== this.size))
      throw violation("a piece of an absurd length");
    const leaves: Bytes[] = [];
    for (let from = 0; from < body.length; from += BLOCK) leaves.push(this.hash!.leaf(body.subarray(from, from + BLOCK)));
    const hashes = asHashes(proof, "a proof", 2 * MAX_PROOF_HASHES);
    const count = Math.ceil(this.size / BLOCK);
    if (leadsTo(this.hash!, this.manifest!.root!, count, at / BLOCK, leaves, hashes)) return body;
    // It relies on being told: its disk may have changed what nobody wrote to.
    link.note("file.doubt", { channel: this.visit.channel, sha1: fromHex(this.target.sha1), start: at, stop: end });
    throw this.visit.ban(holder.id, this.damaged(holder.label));
  }

  private async all(): Promise<Bytes> {
    this.whole ??= await this.visit.withHolders(this.goal, async (link, holder) => {
      this.source = holder.label;
      return this.checked(await readAll(this.visit, link, this.target.sha1, this.size), holder.label);
    }, MAX_TRIES);
    return this.whole;
  }

  private async checked(data: Bytes, source: string): Promise<Bytes> {
    if (data.length !== this.size || hex(await sha1Of(data)) !== this.target.sha1) throw this.damaged(source);
    return data;
  }

  private damaged(source: string): KacheryError {
    return new KacheryError("corrupt-content", { what: this.name, source: source || "another node" });
  }
}

interface Opened extends Came {
  readonly body: Bytes;
}

/** Its body is opened while the one before is looked at. */
async function ahead(came: Came | null): Promise<Opened | null> {
  return came && { ...came, body: await bodyOf(came.item) };
}

function bodyOf({ tail }: Item): Promise<Bytes> {
  if (tail.kind !== "sealed") throw violation("a piece without bytes");
  return tail.open();
}

async function open(visit: Access, link: Link, sha1: string): Promise<Info> {
  const answer = asMap(await link.request("file.open", { channel: visit.channel, sha1: fromHex(sha1) }), "an answer");
  const size = asInt(answer.size, "a size", 0, MAX_FILE);
  const inline = answer.inline;
  if (inline !== null && !(inline instanceof Uint8Array && inline.length === size && size <= INLINE_FILE))
    throw violation("an inline content of another length");
  return { size, inline: inline as Bytes | null };
}

async function readAll(visit: Access, link: Link, sha1: string, size: number): Promise<Bytes> {
  const whole = new Uint8Array(size);
  if (size === 0) return whole;
  const params = { channel: visit.channel, sha1: fromHex(sha1), ranges: [[0, size]], proofs: false };
  const stream = link.stream("file.read", params);
  try {
    let at = 0;
    for (let item = await nextOf(stream); item !== null; item = await nextOf(stream)) {
      const body = await bodyOf(item);
      const [offset] = asList(item.meta, "a piece", 2);
      if (offset !== at || body.length === 0 || at + body.length > size) throw violation("a piece that is not the next");
      whole.set(body, at);
      at += body.length;
      stream.done(item.cost);
    }
    if (at < size) throw violation("a file that ends too soon");
    return whole;
  } finally {
    stream.end();
  }
}

async function fetchManifest(visit: Access, link: Link, target: FileTarget): Promise<Manifest> {
  const sha1 = target.manifest!;
  const info = await open(visit, link, sha1);
  if (info.size > MAX_PAGE_MANIFEST) throw violation("a manifest that is too long");
  const data = info.inline ?? (await readAll(visit, link, sha1, info.size));
  if (hex(await sha1Of(data)) !== sha1) throw new KacheryError("corrupt-content", { what: "The manifest", source: "another node" });
  const manifest = parseManifest(data);
  if (manifest.sha1 !== target.sha1) throw violation("a manifest of another file");
  return manifest;
}
