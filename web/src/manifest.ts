/** The manifest of a large file: its size, and the root of the tree over its blocks. */

import { type Bytes, fromHex } from "./bytes.js";
import { violation } from "./errors.js";
import { BLOCK, MAX_FILE, MAX_PAGE_MANIFEST } from "./limits.js";

export interface Manifest {
  readonly size: number;
  readonly sha1: string;
  /** Null if it has no tree, or one of another kind. */
  readonly root: Bytes | null;
}

/** Throws protocol-violation: it is none. */
export function parseManifest(data: Uint8Array): Manifest {
  if (data.length > MAX_PAGE_MANIFEST) throw violation("a manifest that is too long");
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
  } catch {
    throw violation("a manifest that is not JSON");
  }
  const fields = isObject(value) ? value : {};
  const { size, sha1, tree } = fields;
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0 || size > MAX_FILE)
    throw violation("a manifest without a size");
  if (typeof sha1 !== "string" || !/^[0-9a-f]{40}$/.test(sha1)) throw violation("a manifest without a hash");
  return { size, sha1, root: rootOf(tree) };
}

function rootOf(tree: unknown): Bytes | null {
  if (!isObject(tree) || tree.algorithm !== "blake3" || tree.block !== BLOCK) return null;
  if (typeof tree.root !== "string" || !/^[0-9a-f]{64}$/.test(tree.root)) throw violation("a manifest with a malformed root");
  return fromHex(tree.root);
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
