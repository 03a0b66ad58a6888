/**
 * Ed25519 and X25519: by the browser itself where it has them, else by the library, which takes a tenth of a
 * second until it is warm, and more on a phone. What both give is the same.
 */

import { ed25519, x25519 } from "@noble/curves/ed25519.js";
import { type Bytes, concat, fromBase64url } from "./bytes.js";

type Curve = "Ed25519" | "X25519";

/** PKCS #8 of private keys, up to their 32 bytes. */
const HEADS: Readonly<Record<Curve, Bytes>> = {
  Ed25519: Uint8Array.of(0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20),
  X25519: Uint8Array.of(0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20),
};

export const pkcs8 = (curve: Curve, seed: Bytes): Bytes => concat(HEADS[curve], seed);

/** Whether the browser has a curve: it is asked once, with the key of zeros. */
const known = new Map<Curve, Promise<boolean>>();

function has(curve: Curve): Promise<boolean> {
  let found = known.get(curve);
  if (!found) known.set(curve, (found = imported(curve, new Uint8Array(32)).then(() => true, () => false)));
  return found;
}

const imported = (curve: Curve, seed: Bytes, extractable = false): Promise<CryptoKey> =>
  crypto.subtle.importKey("pkcs8", pkcs8(curve, seed), curve, extractable, curve === "Ed25519" ? ["sign"] : ["deriveBits"]);

/** The public key of 32 bytes that are secret. */
export async function publicOf(curve: Curve, seed: Bytes): Promise<Bytes> {
  if (!(await has(curve))) return (curve === "Ed25519" ? ed25519 : x25519).getPublicKey(seed) as Bytes;
  const { x } = await crypto.subtle.exportKey("jwk", await imported(curve, seed, true));
  return fromBase64url(x!);
}

export async function sign(seed: Bytes, message: Bytes): Promise<Bytes> {
  if (!(await has("Ed25519"))) return ed25519.sign(message, seed) as Bytes;
  return new Uint8Array(await crypto.subtle.sign("Ed25519", await imported("Ed25519", seed), message));
}

/** Whether a signature is good, of a key that could have made it: not of one of small order. */
export async function verify(key: Bytes, message: Bytes, signature: Bytes): Promise<boolean> {
  try {
    if (!(await has("Ed25519"))) return ed25519.verify(signature, message, key, { zip215: false });
    if (ed25519.Point.fromBytes(key).isSmallOrder()) return false;
    const theirs = await crypto.subtle.importKey("raw", key, "Ed25519", false, ["verify"]);
    return await crypto.subtle.verify("Ed25519", theirs, signature, message);
  } catch {
    return false;
  }
}

/** What the two ends of an exchange share. Throws if `point` is of small order. */
export async function shared(secret: Bytes, point: Bytes): Promise<Bytes> {
  if (!(await has("X25519"))) return x25519.getSharedSecret(secret, point) as Bytes;
  const theirs = await crypto.subtle.importKey("raw", point, "X25519", false, []);
  const found = await crypto.subtle.deriveBits({ name: "X25519", public: theirs }, await imported("X25519", secret), 256);
  return new Uint8Array(found);
}
