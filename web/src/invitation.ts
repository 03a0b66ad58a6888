/** Invitation lines: see kachery_p2p/protocol/channels/invitation.py. */

import { sha256 } from "@noble/hashes/sha2.js";
import { type Bytes, equal, fromBase64url } from "./bytes.js";
import { type Bootstrap, bootstrapOf } from "./document.js";
import { KacheryError } from "./errors.js";
import { NodeKey } from "./identity.js";
import { MAX_INVITATION_BOOTSTRAPS, MAX_INVITATION_TEXT, MAX_LABEL } from "./limits.js";
import { asBytes, asInt, asList, asText, pack, unpack } from "./msgpack.js";

export const INVITATION_PREFIX = "kachery-invite:";
const VERSION = 1;
const CHECK = 4;

export interface Invitation {
  /** Without what mail programs put into it. */
  readonly line: string;
  readonly channel: Bytes;
  readonly name: string;
  /** The node to ask. */
  readonly admitter: Bytes;
  readonly key: NodeKey;
  /** Unix time in seconds. */
  readonly expiresAt: number;
  readonly bootstraps: readonly Bootstrap[];
}

const bad = (reason: string): KacheryError => new KacheryError("bad-invitation", { reason });

/** The invitation in a text; around it may be what mail programs put there. Throws `bad-invitation`. */
export function parseInvitation(text: string): Invitation {
  if (text.length > MAX_INVITATION_TEXT) throw bad("it is too long");
  const found = /kachery-invite:([A-Za-z0-9_=\s>-]*)/.exec(text);
  if (!found) throw bad(`it does not begin with ${INVITATION_PREFIX}`);
  const letters = found[1]!.trimStart().split(/\n[\s>]*\n/)[0]!;
  for (const one of [letters.replace(/[\s>=]/g, ""), (letters.split(/\s/)[0] ?? "").replace(/=+$/, "")]) {
    const packed = unwrapped(one);
    if (packed) return fromPacked(packed, INVITATION_PREFIX + one);
  }
  throw bad("a part of it is missing, or was changed on the way");
}

function unwrapped(letters: string): Bytes | null {
  try {
    const data = fromBase64url(letters);
    const packed = data.slice(CHECK);
    return packed.length && equal(sha256(packed).subarray(0, CHECK), data.subarray(0, CHECK)) ? packed : null;
  } catch {
    return null;
  }
}

function fromPacked(packed: Bytes, line: string): Invitation {
  try {
    const items = asList(unpack(packed), "an invitation", 1);
    if (items[0] !== VERSION) throw bad(`it is of version ${String(items[0]).slice(0, 10)}, and this page reads ${VERSION}`);
    return {
      line,
      channel: asBytes(items[1], "a channel", 32),
      name: asText(items[2], "a name", MAX_LABEL),
      admitter: asBytes(items[3], "a node id", 32),
      key: new NodeKey(asBytes(items[4], "a seed", 32)),
      expiresAt: asInt(items[5], "a time", 0, 253_402_300_799),
      bootstraps: asList(items[6], "bootstraps", 1, MAX_INVITATION_BOOTSTRAPS).map(bootstrapOf),
    };
  } catch (error) {
    if (error instanceof KacheryError && error.code === "bad-invitation") throw error;
    throw bad("it is of another kind than this page knows");
  }
}

/** That the node `newcomer` has it, for one session with its admitter. */
export const proveInvitation = (invitation: Invitation, newcomer: Uint8Array, hash: Uint8Array): Bytes =>
  invitation.key.sign("invitation", pack([invitation.channel, invitation.admitter, newcomer, hash]));
