/** SHA-1 and BLAKE3 in WebAssembly: a page hashes all that it is sent. */

import { createBLAKE3, createSHA1, type IHasher } from "hash-wasm";
import type { Bytes } from "./bytes.js";

export interface Hashers {
  leaf(block: Uint8Array): Bytes;
  node(left: Uint8Array, right: Uint8Array): Bytes;
  sha1(data: Uint8Array): Bytes;
}

const LEAF = Uint8Array.of(0);
const NODE = Uint8Array.of(1);

let ready: Promise<Hashers> | null = null;

/** Loads them once. */
export function hashers(): Promise<Hashers> {
  ready ??= load();
  return ready;
}

async function load(): Promise<Hashers> {
  const [blake3, sha1] = await Promise.all([createBLAKE3(), createSHA1()]);
  const whole = (hasher: IHasher, ...parts: readonly Uint8Array[]): Bytes => {
    hasher.init();
    for (const part of parts) hasher.update(part);
    return hasher.digest("binary") as Bytes;
  };
  return {
    leaf: (block) => whole(blake3, LEAF, block),
    node: (left, right) => whole(blake3, NODE, left, right),
    sha1: (data) => whole(sha1, data),
  };
}

/** A SHA-1 over what comes in pieces. */
export async function runningSha1(): Promise<{ update(data: Uint8Array): void; digest(): string }> {
  const hasher = await createSHA1();
  hasher.init();
  return { update: (data) => void hasher.update(data), digest: () => hasher.digest("hex") };
}
