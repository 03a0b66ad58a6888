/**
 * The key of a page that is a member: made and kept by the browser, which signs with it and opens what is
 * sealed for it, and never gives it away again.
 *
 * A node is known by an Ed25519 key, and what is for it alone is sealed to the X25519 form of the same key.
 * WebCrypto keeps a key for one of the two, so both are handed to it at the beginning, when they are made;
 * after that they are nowhere else.
 */

import { hsalsa, xsalsa20poly1305 } from "@noble/ciphers/salsa.js";
import { ed25519 } from "@noble/curves/ed25519.js";
import { blake2b } from "@noble/hashes/blake2.js";
import { type Bytes, concat } from "./bytes.js";
import { pkcs8 } from "./curves.js";
import { KacheryError, violation } from "./errors.js";
import { type Signer, signed } from "./identity.js";

/** What a browser's database keeps; the two keys as what cannot be exported. */
export interface KeptKey {
  readonly public: Bytes;
  readonly signing: CryptoKey;
  readonly opening: CryptoKey;
}

/** Throws `unreachable` where the browser has no such keys. */
export async function makeKey(): Promise<KeptKey> {
  const { subtle } = crypto;
  try {
    const pair = (await subtle.generateKey("Ed25519", true, ["sign"])) as CryptoKeyPair;
    const whole = new Uint8Array(await subtle.exportKey("pkcs8", pair.privateKey));
    const seed = whole.slice(-32);
    const kept = await keepKey(seed);
    for (const secret of [whole, seed]) secret.fill(0);
    return kept;
  } catch (error) {
    const reason = `this browser cannot keep such a key (${error instanceof Error ? error.name : "?"}); a newer one can`;
    throw new KacheryError("unreachable", { what: "the channel", reason });
  }
}

/** The same of a seed, 32 bytes, which the caller forgets. */
export async function keepKey(seed: Bytes): Promise<KeptKey> {
  const { subtle } = crypto;
  const hash = new Uint8Array(await subtle.digest("SHA-512", seed));
  const [first, second] = [pkcs8("Ed25519", seed), pkcs8("X25519", hash.slice(0, 32))];
  const kept = {
    public: ed25519.getPublicKey(seed) as Bytes,
    signing: await subtle.importKey("pkcs8", first, "Ed25519", false, ["sign"]),
    opening: await subtle.importKey("pkcs8", second, "X25519", false, ["deriveBits"]),
  };
  for (const secret of [hash, first, second]) secret.fill(0);
  return kept;
}

export class PageKey implements Signer {
  constructor(private readonly kept: KeptKey) {}

  get public(): Bytes {
    return this.kept.public;
  }

  async sign(context: string, message: Uint8Array): Promise<Bytes> {
    return new Uint8Array(await crypto.subtle.sign("Ed25519", this.kept.signing, signed(context, message)));
  }

  /** What was sealed for this node: a sealed box of libsodium. Throws protocol-violation. */
  async unseal(sealed: Bytes): Promise<Bytes> {
    const theirs = sealed.slice(0, 32);
    const mine = ed25519.utils.toMontgomery(this.public);
    try {
      const from = await crypto.subtle.importKey("raw", theirs, "X25519", true, []);
      const shared = new Uint8Array(await crypto.subtle.deriveBits({ name: "X25519", public: from }, this.kept.opening, 256));
      const nonce = blake2b(concat(theirs, mine), { dkLen: 24 });
      return xsalsa20poly1305(boxKey(shared), nonce).decrypt(sealed.slice(32)) as Bytes;
    } catch {
      throw violation("a sealed secret that is not for this page");
    }
  }
}

/** HSalsa20 of a shared secret and a nonce of zeros. */
function boxKey(shared: Uint8Array): Bytes {
  const words = (bytes: Uint8Array) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    return Uint32Array.from({ length: bytes.length / 4 }, (_, i) => view.getUint32(4 * i, true));
  };
  const key = new Uint32Array(8);
  hsalsa(words(new TextEncoder().encode("expand 32-byte k")), words(shared), new Uint32Array(4), key);
  const out = new Uint8Array(32);
  key.forEach((word, i) => new DataView(out.buffer).setUint32(4 * i, word, true));
  return out;
}
