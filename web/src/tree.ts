/** Range proofs of the tree over a file's blocks, as RFC 9162 shapes it, with BLAKE3. */

import { type Bytes, equal } from "./bytes.js";
import type { TreeHashers } from "./hashing.js";

/**
 * Whether the leaves [start, start + leaves.length) of a tree of `count` leaves lead to `root`. `count` is
 * from a trusted place, never from a peer.
 */
export function leadsTo(
  hashers: Pick<TreeHashers, "node">,
  root: Uint8Array,
  count: number,
  start: number,
  leaves: readonly Bytes[],
  proof: readonly Uint8Array[],
): boolean {
  let row = [...leaves];
  let first = start;
  let last = start + leaves.length - 1;
  if (leaves.length === 0 || start < 0 || last >= count) return false;
  let used = 0;
  for (let width = count; width > 1; width = Math.ceil(width / 2)) {
    if (first % 2 === 1) {
      const left = proof[used++];
      if (left === undefined) return false;
      row.unshift(left as Bytes);
      first -= 1;
    }
    if (last % 2 === 0 && last + 1 < width) {
      const right = proof[used++];
      if (right === undefined) return false;
      row.push(right as Bytes);
      last += 1;
    }
    const above: Bytes[] = [];
    for (let i = 0; i < row.length; i += 2) {
      const [left, right] = [row[i]!, row[i + 1]];
      above.push(right === undefined ? left : hashers.node(left, right));
    }
    row = above;
    first = Math.floor(first / 2);
    last = Math.floor(last / 2);
  }
  return used === proof.length && row.length === 1 && equal(row[0]!, root);
}
