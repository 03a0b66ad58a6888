/**
 * SHA-1 and BLAKE3: a page hashes all that it is sent. What comes at once the browser itself hashes; what comes in
 * pieces, and trees, are WebAssembly's, which is loaded when it is needed: small things are shown without.
 */

import { createBLAKE3, createSHA1 } from "hash-wasm";
import type { Bytes } from "./bytes.js";

/** Of a tree: each is of a whole. */
export interface TreeHashers {
  leaf(block: Uint8Array): Bytes;
  node(left: Uint8Array, right: Uint8Array): Bytes;
}

const LEAF = Uint8Array.of(0);
const NODE = Uint8Array.of(1);

let ready: Promise<TreeHashers> | null = null;

/** Loads them once. */
export function treeHashers(): Promise<TreeHashers> {
  ready ??= load();
  return ready;
}

async function load(): Promise<TreeHashers> {
  const blake3 = await createBLAKE3();
  const whole = (...parts: readonly Uint8Array[]): Bytes => {
    blake3.init();
    for (const part of parts) blake3.update(part);
    return blake3.digest("binary") as Bytes;
  };
  return { leaf: (block) => whole(LEAF, block), node: (left, right) => whole(NODE, left, right) };
}

export const sha1Of = async (data: Bytes): Promise<Bytes> => new Uint8Array(await crypto.subtle.digest("SHA-1", data));

/** A SHA-1 over what comes in pieces. */
export async function runningSha1(): Promise<{ update(data: Uint8Array): void; digest(): string }> {
  const hasher = await createSHA1();
  hasher.init();
  return { update: (data) => void hasher.update(data), digest: () => hasher.digest("hex") };
}
