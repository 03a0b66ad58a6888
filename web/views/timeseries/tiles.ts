/**
 * The recording and the levels above it, in tiles that are fetched when they are on screen.
 *
 * Invariants: what is kept is bounded; of tiles that are wanted and not there, those wanted last come first.
 */

import type { Kachery, NpyArray } from "../../src/view/api.js";

/** One level: `factor` samples are an entry; level 0 is the recording. */
export interface Level {
  readonly factor: number;
  readonly uri: string;
  /** Its first row in the array at `uri`, and its rows. */
  readonly start: number;
  readonly count: number;
}

export interface Tile {
  /** Its first entry in the level. */
  readonly first: number;
  readonly entries: number;
  /** Entries x channels, or entries x 2 x channels above the recording. */
  readonly values: ArrayLike<number | bigint>;
}

const TILE_BYTES = 131_072;
const KEPT_BYTES = 134_217_728;
const AT_ONCE = 6;

export class Tiles {
  /** Bytes that were fetched so far. */
  fetched = 0;
  failure: Error | null = null;
  private readonly kept = new Map<string, Tile & { readonly bytes: number }>();
  private readonly coming = new Set<string>();
  private wanted: { level: Level; index: number; name: string }[] = [];
  private size = 0;

  constructor(
    private readonly kachery: Kachery,
    private readonly channels: number,
    private readonly itemBytes: number,
    private readonly changed: () => void,
  ) {}

  /** Entries of a tile: a power of two. */
  entries(level: Level): number {
    const width = this.channels * this.itemBytes * (level.factor > 1 ? 2 : 1);
    return 2 ** Math.max(4, Math.floor(Math.log2(TILE_BYTES / width)));
  }

  get busy(): boolean {
    return this.coming.size > 0 || this.wanted.length > 0;
  }

  /** The tiles that have entries [first, stop) and are here; with `fetch`, the others are fetched. */
  take(level: Level, first: number, stop: number, fetch: boolean): { tiles: Tile[]; whole: boolean } {
    const width = this.entries(level);
    const tiles: Tile[] = [];
    let whole = true;
    if (fetch) this.wanted = [];
    for (let index = Math.floor(Math.max(0, first) / width); index * width < Math.min(stop, level.count); index++) {
      const name = `${level.factor} ${index}`;
      const tile = this.kept.get(name);
      if (tile) {
        this.kept.delete(name);
        this.kept.set(name, tile);
        tiles.push(tile);
        continue;
      }
      whole = false;
      if (fetch && !this.coming.has(name)) this.wanted.push({ level, index, name });
    }
    if (fetch) this.go();
    return { tiles, whole };
  }

  private go(): void {
    while (this.coming.size < AT_ONCE && this.wanted.length > 0) {
      const { level, index, name } = this.wanted.shift()!;
      this.coming.add(name);
      void this.fetch(level, index, name);
    }
  }

  private async fetch(level: Level, index: number, name: string): Promise<void> {
    const width = this.entries(level);
    const first = index * width;
    const stop = Math.min(first + width, level.count);
    try {
      const { data }: NpyArray = await this.kachery.npy(level.uri, level.start + first, level.start + stop);
      this.failure = null;
      this.fetched += data.byteLength;
      this.kept.set(name, { first, entries: stop - first, values: data, bytes: data.byteLength });
      this.size += data.byteLength;
      for (const [oldest, { bytes }] of this.kept) {
        if (this.size <= KEPT_BYTES) break;
        this.kept.delete(oldest);
        this.size -= bytes;
      }
    } catch (error) {
      this.failure = error as Error;
    } finally {
      this.coming.delete(name);
    }
    this.go();
    this.changed();
  }
}
