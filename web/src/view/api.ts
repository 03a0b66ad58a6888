/** What a view finds as the global `kachery`: the whole of what it can reach. See docs/views.md. */

export interface Message {
  readonly number: number;
  /** Unix time in ms. */
  readonly timestamp: number;
  /** The node that submitted it, in hex; empty for the feed's owner. */
  readonly author: string;
  readonly value: unknown;
}

export type Values =
  | Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array
  | BigInt64Array | BigUint64Array | Float32Array | Float64Array;

export interface NpyArray {
  readonly dtype: string;
  /** Of what was loaded: its first number is smaller than the file's if a range was asked for. */
  readonly shape: readonly number[];
  readonly fortran: boolean;
  /** In the order of the file; float16 as 32-bit floats. */
  readonly data: Values;
}

export interface Feed {
  /** Messages as they come, from number `from` on; without it the newest 500 first. */
  follow(from?: number): AsyncIterable<readonly Message[]>;
  /** Resolves to the number of the first, when they are on the disk of the feed's owner. */
  append(...values: readonly unknown[]): Promise<number>;
}

/** How a task stands. */
export interface TaskProgress {
  /** `queued`, `ready`, `running`, or how it ended. */
  readonly state: string;
  /** How many are before it in the queue. */
  readonly place: number;
  /** 0 to 1, or null: the function does not say. */
  readonly fraction: number | null;
  readonly message: string;
  /** What it printed since the last time. */
  readonly log: string;
}

export interface TaskOptions {
  /** As the function was registered; `pure-calculation` by default. Before an action the person is asked. */
  readonly type?: "pure-calculation" | "query" | "action";
  readonly progress?: (progress: TaskProgress) => void;
  /** Cancels it. */
  readonly signal?: AbortSignal;
}

export interface Kachery {
  /** What view_url() was given as `data`. */
  readonly data: unknown;
  readonly title: string;
  info(uri: string): Promise<{ readonly name: string; readonly size: number }>;
  /** Bytes [start, end); all of it by default. */
  bytes(uri: string, start?: number, end?: number): Promise<Uint8Array>;
  text(uri: string, start?: number, end?: number): Promise<string>;
  json(uri: string): Promise<unknown>;
  /** Rows [start, end) of its first axis; all of it by default. */
  npy(uri: string, start?: number, end?: number): Promise<NpyArray>;
  feed(uri: string): Feed;
  /**
   * Has a function run by a computer of the channel, if `view_url(..., tasks=[...])` named it. Resolves to what
   * it returned: a JSON value, bytes (Uint8Array), or an array (NpyArray). An array among the arguments is
   * `{ $npy: uri }`.
   */
  task(functionId: string, kwargs?: Readonly<Record<string, unknown>>, options?: TaskOptions): Promise<unknown>;
  /** A file of the view itself, by its path. */
  asset(path: string): Uint8Array;
  /** The same as a URL for an element of the view. */
  assetUrl(path: string): string;
}
