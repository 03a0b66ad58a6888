/**
 * A long range of a file, asked of one holder: in pieces of a size that suits browsers, as many at a time as
 * one request may name, and the next of them before the last one has come.
 */

import { BLOCK, MAX_PIECE, MAX_RANGES, STALL_SECONDS, STREAM_CREDIT } from "./limits.js";
import { within } from "./link.js";
import type { Item, Stream } from "./stream.js";

export type Range = readonly [start: number, stop: number];

/** [start, stop), cut where pieces of anybody end: as much of it as one request may name. */
export function cut(start: number, stop: number): Range[] {
  const ranges: Range[] = [];
  for (let at = start; at < stop && ranges.length < MAX_RANGES; ) {
    const end = Math.min(stop, (Math.floor(at / MAX_PIECE) + 1) * MAX_PIECE);
    ranges.push([at, end]);
    at = end;
  }
  return ranges;
}

export const nextOf = (stream: Stream): Promise<Item | null> => within(STALL_SECONDS, "The next piece", stream.next());

/** What has come of a range, and how to say that it was dealt with: [`at`, ...) is wanted next. */
export interface Came {
  readonly item: Item;
  done(at: number): void;
}

export class LongRange {
  private readonly streams: Stream[] = [];

  /** [asked, stop) is not asked for yet; both are whole blocks, or the end of the file. */
  constructor(
    private readonly ask: (ranges: readonly Range[]) => Stream,
    private asked: number,
    private readonly stop: number,
  ) {
    this.more();
  }

  private more(): void {
    const ranges = cut(this.asked, this.stop);
    this.asked = ranges.at(-1)?.[1] ?? this.stop;
    this.streams.push(this.ask(ranges));
  }

  /** What comes next; null when all has come, or what came ended. */
  async next(): Promise<Came | null> {
    for (;;) {
      const [stream] = this.streams;
      if (stream === undefined) return null;
      const item = await nextOf(stream);
      if (item) return { item, done: (at) => this.dealtWith(stream, item, at) };
      this.streams.shift();
      if (this.streams.length === 0 && this.asked < this.stop) this.more();
    }
  }

  private dealtWith(stream: Stream, item: Item, at: number): void {
    stream.done(item.cost);
    const left = this.asked - at;
    if (this.streams.length === 1 && this.asked < this.stop && left <= STREAM_CREDIT) this.more();
  }

  end(): void {
    for (const stream of this.streams) stream.end();
  }
}

/** The blocks that a range touches. */
export const blocksOf = (start: number, stop: number, size: number): Range => [
  Math.floor(start / BLOCK) * BLOCK,
  Math.min(Math.ceil(stop / BLOCK) * BLOCK, size),
];
