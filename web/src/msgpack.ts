/**
 * The one door for untrusted msgpack: bounded, and with checks that turn a value into what it must be.
 * Maps with binary keys, which the library does not write, are written here for the hello alone.
 */

import { Decoder, Encoder } from "@msgpack/msgpack";
import { type Bytes, concat, hex } from "./bytes.js";
import { violation } from "./errors.js";
import { MAX_BODY, MAX_LIST_ITEMS } from "./limits.js";

const encoder = new Encoder();
const decoder = new Decoder({
  maxStrLength: MAX_BODY,
  maxBinLength: MAX_BODY,
  maxArrayLength: MAX_LIST_ITEMS,
  maxMapLength: MAX_LIST_ITEMS,
  maxExtLength: 0,
  mapKeyConverter: (key) => (key instanceof Uint8Array ? hex(key) : typeof key === "number" ? key : String(key)),
});

export const pack = (value: unknown): Bytes => encoder.encode(value) as Bytes;

export function unpack(data: Uint8Array): unknown {
  try {
    return decoder.decode(data);
  } catch (error) {
    throw violation(`not a msgpack value: ${error instanceof Error ? error.message : ""}`);
  }
}

/** A map whose one key is bytes. */
export const packBinaryMap = (key: Uint8Array, value: unknown): Bytes =>
  concat(Uint8Array.of(0x81), pack(key), pack(value));

/** An array of values of which some are packed already. */
export const packArray = (items: readonly Uint8Array[]): Bytes => {
  const { length } = items;
  if (length > 0xffff) throw new RangeError("a short array");
  return concat(length > 15 ? Uint8Array.of(0xdc, length >> 8, length) : Uint8Array.of(0x90 | length), ...items);
};

export function asList(value: unknown, what: string, least = 0, most = MAX_LIST_ITEMS): unknown[] {
  if (!Array.isArray(value) || value.length < least || value.length > most)
    throw violation(`${what} is no list of ${least} to ${most}`);
  return value;
}

export function asMap(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Uint8Array)
    throw violation(`${what} is no map`);
  return value as Record<string, unknown>;
}

export function asBytes(value: unknown, what: string, least: number, most = least): Bytes {
  if (!(value instanceof Uint8Array) || value.length < least || value.length > most)
    throw violation(`${what} is not ${least} to ${most} bytes`);
  return value as Bytes;
}

export function asInt(value: unknown, what: string, least: number, most: number): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < least || value > most)
    throw violation(`${what} is no whole number from ${least} to ${most}`);
  return value;
}

export function asText(value: unknown, what: string, most: number): string {
  if (typeof value !== "string" || value.length > most) throw violation(`${what} is no text of ${most}`);
  return value;
}

export function asBool(value: unknown, what: string): boolean {
  if (typeof value !== "boolean") throw violation(`${what} is no boolean`);
  return value;
}

export const asHashes = (value: unknown, what: string, most: number): Bytes[] =>
  asList(value, what, 0, most).map((hash) => asBytes(hash, what, 32));
