/** npy files: what the header says, and statistics over values that stream by. */

import { type Bytes, concat } from "../bytes.js";
import { KacheryError } from "../errors.js";
import { MAX_NPY_HEADER } from "../limits.js";
import type { Values } from "../view/api.js";

export interface Header {
  readonly dtype: string;
  readonly fortran: boolean;
  readonly shape: readonly number[];
  /** Where the values begin, in bytes. */
  readonly offset: number;
}

const bad = (reason: string): KacheryError => new KacheryError("bad-input", { what: "The array", reason });

/** From the beginning of the file. Throws `bad-input`. */
export function parseHeader(data: Bytes): Header {
  const magic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
  if (data.length < 12 || magic.some((byte, i) => data[i] !== byte)) throw bad("it is no npy file");
  const view = new DataView(data.buffer, data.byteOffset);
  const wide = data[6]! >= 2;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const begin = wide ? 12 : 10;
  if (length > MAX_NPY_HEADER || begin + length > data.length) throw bad("its header is too long");
  const text = new TextDecoder().decode(data.subarray(begin, begin + length));
  const dtype = /'descr':\s*'([^']{1,40})'/.exec(text)?.[1];
  const order = /'fortran_order':\s*(True|False)/.exec(text)?.[1];
  const shape = /'shape':\s*\(([\d,\s]*)\)/.exec(text)?.[1];
  if (order === undefined || shape === undefined) throw bad("its header is not what numpy writes");
  return {
    dtype: dtype ?? "a structured type",
    fortran: order === "True",
    shape: shape.split(",").filter((part) => part.trim()).map(Number),
    offset: begin + length,
  };
}

type Read = (view: DataView, at: number, little: boolean) => number;

const READERS: Readonly<Record<string, readonly [number, Read]>> = {
  b1: [1, (v, at) => v.getUint8(at)],
  i1: [1, (v, at) => v.getInt8(at)],
  u1: [1, (v, at) => v.getUint8(at)],
  i2: [2, (v, at, e) => v.getInt16(at, e)],
  u2: [2, (v, at, e) => v.getUint16(at, e)],
  i4: [4, (v, at, e) => v.getInt32(at, e)],
  u4: [4, (v, at, e) => v.getUint32(at, e)],
  i8: [8, (v, at, e) => Number(v.getBigInt64(at, e))],
  u8: [8, (v, at, e) => Number(v.getBigUint64(at, e))],
  f2: [2, (v, at, e) => half(v.getUint16(at, e))],
  f4: [4, (v, at, e) => v.getFloat32(at, e)],
  f8: [8, (v, at, e) => v.getFloat64(at, e)],
};

function half(bits: number): number {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/** Bytes of one value. Throws `bad-input` for a type that is not read here. */
export function itemSize(dtype: string): number {
  const found = READERS[dtype.slice(1)];
  if (!found || !"<>|=".includes(dtype[0]!)) throw bad(`values of the type ${dtype.slice(0, 40)} are not read here`);
  return found[0];
}

const ARRAYS = {
  b1: Uint8Array, i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array,
  i8: BigInt64Array, u8: BigUint64Array, f4: Float32Array, f8: Float64Array,
} as const;

/** Values as an array of the language, in the order of this machine; a memory of its own. */
export function typed(dtype: string, bytes: Bytes): Values {
  const size = itemSize(dtype);
  const kind = dtype.slice(1);
  const data = bytes.slice(0, bytes.length - (bytes.length % size));
  if (kind === "f2") {
    const view = new DataView(data.buffer);
    return Float32Array.from({ length: data.length / 2 }, (_, i) => half(view.getUint16(2 * i, dtype[0] !== ">")));
  }
  if (dtype[0] === ">") for (let at = 0; at < data.length; at += size) data.subarray(at, at + size).reverse();
  return new ARRAYS[kind as keyof typeof ARRAYS](data.buffer);
}

/** Least, greatest, mean and standard deviation of what is added; values that are no numbers are counted apart. */
export class Statistics {
  count = 0;
  nan = 0;
  least = Infinity;
  greatest = -Infinity;
  readonly first: number[] = [];
  private mean_ = 0;
  private squares = 0;
  private rest: Bytes = new Uint8Array(0);

  private constructor(
    private readonly size: number,
    private readonly read: Read,
    private readonly little: boolean,
    private readonly told: (value: number) => void,
  ) {}

  /** Null for a type without statistics: complex numbers, text, structures. `told`: of each value. */
  static of(dtype: string, told: (value: number) => void): Statistics | null {
    const found = READERS[dtype.slice(1)];
    return found && "<>|=".includes(dtype[0]!) ? new Statistics(found[0], found[1], dtype[0] !== ">", told) : null;
  }

  add(bytes: Bytes): void {
    const data = this.rest.length ? concat(this.rest, bytes) : bytes;
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const whole = data.length - (data.length % this.size);
    for (let at = 0; at < whole; at += this.size) this.take(this.read(view, at, this.little));
    this.rest = data.slice(whole) as Bytes;
  }

  private take(value: number): void {
    this.told(value);
    if (this.first.length < 100) this.first.push(value);
    if (Number.isNaN(value)) {
      this.nan += 1;
      return;
    }
    this.count += 1;
    if (value < this.least) this.least = value;
    if (value > this.greatest) this.greatest = value;
    // Welford's way: sums of squares of large numbers would lose all their digits.
    const step = value - this.mean_;
    this.mean_ += step / this.count;
    this.squares += step * (value - this.mean_);
  }

  get mean(): number {
    return this.count ? this.mean_ : NaN;
  }

  get deviation(): number {
    return this.count ? Math.sqrt(this.squares / this.count) : NaN;
  }
}
