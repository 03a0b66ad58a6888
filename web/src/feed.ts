/** A subfeed on a visit: its messages as they come, none that its key did not sign. */

import { sha256 } from "@noble/hashes/sha2.js";
import { type Bytes, concat, equal, hex, u64, utf8 } from "./bytes.js";
import { asKacheryError, KacheryError, violation } from "./errors.js";
import { verify } from "./identity.js";
import { MAX_FEED_MESSAGES, MAX_PROOF_HASHES, MAX_RUN, MAX_SLICE_RUNS, MAX_TRIES, RETRY_FIRST, RETRY_MOST, SHOWN_MESSAGES, STALL_SECONDS } from "./limits.js";
import { within } from "./link.js";
import { asBytes, asHashes, asInt, asList, pack } from "./msgpack.js";
import type { Item, Stream } from "./stream.js";
import type { Goal } from "./share.js";
import { type Access, isFinal } from "./access.js";
import type { Visit } from "./visit.js";

export interface Message {
  readonly number: number;
  /** Unix time in ms. */
  readonly timestamp: number;
  /** The node that submitted it, in hex; empty for the owner. */
  readonly author: string;
  /** JSON. */
  readonly text: string;
}

const sha = (...parts: Uint8Array[]): Bytes => sha256(concat(...parts)) as Bytes;
const nodeHash = (left: Uint8Array, right: Uint8Array): Bytes => sha(Uint8Array.of(1), left, right);
const bit = (value: number, level: number): number => Math.floor(value / 2 ** level) % 2;

/** The right edge of a growing RFC 9162 tree. */
export class Frontier {
  private readonly levels: (Bytes | undefined)[] = [];

  /** `peaks`: for each set bit of `size`, the largest subtree first. Throws protocol-violation. */
  constructor(
    public size: number,
    peaks: readonly Bytes[],
  ) {
    const set = [];
    for (let level = 0; 2 ** level <= size; level++) if (bit(size, level)) set.unshift(level);
    if (set.length !== peaks.length) throw violation("peaks that do not fit");
    set.forEach((level, i) => (this.levels[level] = peaks[i]));
  }

  copy(): Frontier {
    return new Frontier(this.size, this.levels.filter((peak) => peak !== undefined).reverse() as Bytes[]);
  }

  append(leaf: Bytes): void {
    let node = leaf;
    let level = 0;
    for (; this.levels[level]; level++) {
      node = nodeHash(this.levels[level]!, node);
      this.levels[level] = undefined;
    }
    this.levels[level] = node;
    this.size += 1;
  }

  /** The root of a tree of `count` leaves that begins with this one. Throws protocol-violation. */
  rootWithin(count: number, right: readonly Bytes[]): Bytes {
    if (count < this.size || this.size === 0) throw violation("a proof to a shorter log");
    let node: Bytes | undefined;
    let used = 0;
    for (let level = 0, width = count; ; level++, width = Math.ceil(width / 2)) {
      const last = Math.floor((this.size - 1) / 2 ** level);
      const peak = this.levels[level];
      if (!node) node = peak;
      else if (peak) node = nodeHash(peak, node);
      if (node && last % 2 === 0 && last + 1 < width) {
        const sibling = right[used++];
        if (!sibling) throw violation("a proof that is too short");
        node = nodeHash(node, sibling);
      }
      if (width === 1) break;
    }
    if (used !== right.length || !node) throw violation("a proof that is too long");
    return node;
  }
}

export interface Head {
  readonly size: number;
  readonly root: Bytes;
}

/** A head, if the feed's key signed it. Throws `forged-feed`, protocol-violation. */
export function checkHead(value: unknown, feed: Uint8Array, subfeed: Uint8Array): Head {
  const items = asList(value, "a head", 6, 6);
  const size = asInt(items[2], "a size", 1, MAX_FEED_MESSAGES);
  const root = asBytes(items[3], "a root", 32);
  const names = equal(asBytes(items[0], "a feed", 32), feed) && equal(asBytes(items[1], "a subfeed", 20), subfeed);
  const signature = asBytes(items[5], "a signature", 64);
  if (!names || !verify(feed, "feed head", pack(items.slice(0, 5)), signature))
    throw new KacheryError("forged-feed", { source: "Another node" });
  return { size, root };
}

/** One stream of `feed.follow`, checked. */
export class Following {
  head: Head | null = null;
  private frontier: Frontier | null = null;

  constructor(
    private readonly feed: Bytes,
    private readonly subfeed: Bytes,
    private readonly position: number,
  ) {}

  /** What a part brings. Throws when it is not what the feed's key signed. */
  async take(item: Pick<Item, "meta" | "tail">): Promise<Message[]> {
    const part = asList(item.meta, "a part", 6);
    const start = asInt(part[2], "a place", 0, MAX_FEED_MESSAGES);
    const runs = asList(part[3], "runs", 0, MAX_SLICE_RUNS).map(runOf);
    if (part[7]) throw new KacheryError("feed-forked");
    if (part[6]) this.takeHead(checkHead(part[6], this.feed, this.subfeed));
    if (runs.length === 0) return [];
    if (item.tail.kind !== "sealed") throw violation("messages without their texts");
    return this.takeMessages(start, runs, await item.tail.open(), part);
  }

  private takeHead(head: Head): void {
    const same = this.head !== null && this.head.size === head.size;
    if (same && !equal(this.head!.root, head.root)) throw new KacheryError("feed-forked");
    this.head = head;
  }

  private takeMessages(start: number, runs: Run[], body: Bytes, part: unknown[]): Message[] {
    const frontier = this.frontier?.copy() ?? new Frontier(this.position, asHashes(part[4], "peaks", MAX_PROOF_HASHES));
    if (start !== frontier.size) throw violation("messages that are not the next");
    const texts = split(body);
    if (texts.length !== runs.reduce((sum, run) => sum + run.count, 0)) throw violation("another number of messages");
    const found: Message[] = [];
    for (const run of runs) {
      const prefix = concat(Uint8Array.of(0), u64(run.timestamp), Uint8Array.of(run.author.length), run.author);
      for (let i = 0; i < run.count; i++) {
        const text = texts[found.length]!;
        const decoded = new TextDecoder().decode(text);
        found.push({ number: frontier.size, timestamp: run.timestamp, author: hex(run.author), text: decoded });
        frontier.append(sha(prefix, text));
      }
    }
    const { head } = this;
    if (!head) throw violation("messages before a head");
    const right = asHashes(part[5], "a proof", MAX_PROOF_HASHES);
    if (!equal(frontier.rootWithin(head.size, right), head.root))
      throw new KacheryError("forged-feed", { source: "Another node" });
    this.frontier = frontier;
    return found;
  }
}

interface Run {
  readonly count: number;
  readonly timestamp: number;
  readonly author: Bytes;
}

function runOf(value: unknown): Run {
  const [count, timestamp, author] = asList(value, "a run", 3, 3);
  return {
    count: asInt(count, "a count", 1, MAX_RUN),
    timestamp: asInt(timestamp, "a time", 0, Number.MAX_SAFE_INTEGER),
    author: author === null ? new Uint8Array(0) : asBytes(author, "an author", 32),
  };
}

function split(body: Bytes): Bytes[] {
  const found: Bytes[] = [];
  let from = 0;
  for (let at = body.indexOf(10); at >= 0; at = body.indexOf(10, from)) {
    found.push(body.subarray(from, at));
    from = at + 1;
  }
  found.push(body.subarray(from));
  return found;
}

/**
 * The newest messages of the subfeed, or those from number `from` on, and those that come, until `signal`
 * ends it. After an interruption it goes on behind the last one. Throws what no other try would mend. `tell`
 * hears of interruptions (null: it goes on).
 */
export async function* follow(
  visit: Access,
  signal: AbortSignal,
  tell: (error: KacheryError | null) => void,
  goal: Goal,
  from: number | null = null,
): AsyncGenerator<Message[], void, undefined> {
  let position = from;
  let pause = RETRY_FIRST;
  while (!signal.aborted) {
    try {
      position ??= Math.max(0, (await newest(visit, goal)) - SHOWN_MESSAGES);
      for await (const messages of followOnce(visit, goal, position, signal)) {
        tell(null);
        pause = RETRY_FIRST;
        position += messages.length;
        if (messages.length) yield messages;
      }
    } catch (error) {
      const known = asKacheryError(error);
      if (isFinal(known)) throw known;
      tell(known);
    }
    if (signal.aborted) return;
    await new Promise((resolve) => setTimeout(resolve, pause * 1000 * (0.5 + Math.random() / 2)));
    pause = Math.min(2 * pause, RETRY_MOST);
  }
}

const params = (visit: Access, { target }: Goal, position: number, quiet: boolean) => {
  if (target.kind !== "feed") throw violation("no subfeed");
  return { target, wire: { channel: visit.channel, feed: target.feed, subfeed: target.subfeed, position, stop: null, quiet } };
};

/** How long the log is: the first word of a holder. */
async function newest(visit: Access, goal: Goal): Promise<number> {
  const { target, wire } = params(visit, goal, 0, true);
  return visit.withHolders(goal, async (link) => {
    const stream = link.stream("feed.follow", wire);
    try {
      const item = await stream.next();
      const head = item && asList(item.meta, "a part", 6)[6];
      return head ? checkHead(head, target.feed, target.subfeed).size : 0;
    } finally {
      stream.end();
    }
  }, MAX_TRIES);
}

async function* followOnce(visit: Access, goal: Goal, position: number, signal: AbortSignal): AsyncGenerator<Message[], void, undefined> {
  const { target, wire } = params(visit, goal, position, false);
  const following = new Following(target.feed, target.subfeed, position);
  const { stream, first } = await visit.withHolders(goal, async (link) => {
    const opened = link.stream("feed.follow", wire);
    return { stream: opened, first: await opened.next() };
  }, MAX_TRIES);
  const stop = () => stream.end();
  signal.addEventListener("abort", stop);
  try {
    for (let item: Item | null = first; item !== null; item = await next(stream, item)) yield await following.take(item);
  } finally {
    signal.removeEventListener("abort", stop);
    stream.end();
  }
}

async function next(stream: Stream, before: Item): Promise<Item | null> {
  stream.done(before.cost);
  return stream.next();
}

/**
 * Append messages, each JSON without line breaks, to a subfeed of the node that made the link. Resolves, when
 * they are on its disk, to the number of the first. `id` names this submission, 16 bytes: repeating it with
 * the same id appends nothing twice.
 */
export async function append(visit: Visit, goal: Goal, texts: readonly string[], id: Bytes): Promise<number> {
  const { target } = goal;
  if (target.kind !== "feed") throw violation("no subfeed");
  const wire = { channel: visit.share.pass.channel, feed: target.feed, subfeed: target.subfeed, name: target.name, submission: id };
  const body = utf8(texts.join("\n"));
  for (let tries = 1; ; tries++) {
    try {
      return await visit.withHome(async (link) => {
        const stream = link.stream("feed.submit", wire);
        try {
          await within(STALL_SECONDS, "The other side", stream.sendSealed([texts.length], body));
          const item = await within(STALL_SECONDS, "The other side", stream.next());
          if (item === null) throw violation("no answer to messages");
          return asInt(asList(item.meta, "an answer", 2)[0], "a number", 0, MAX_FEED_MESSAGES);
        } finally {
          stream.end();
        }
      });
    } catch (error) {
      // The proxy may be restarting; what was refused is refused again.
      const again = ["link-closed", "unreachable", "stalled", "deadline-exceeded"].includes(asKacheryError(error).code);
      if (!again || tries >= MAX_TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(RETRY_MOST, RETRY_FIRST * 2 ** tries)));
    }
  }
}
