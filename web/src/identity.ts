/** Keys of nodes, and signatures that name what they are for. */

import { ed25519 } from "@noble/curves/ed25519.js";
import { blake2b } from "@noble/hashes/blake2.js";
import { type Bytes, concat, utf8 } from "./bytes.js";
import * as curves from "./curves.js";

const DOMAIN = utf8("kachery-p2p:");

export const signed = (context: string, message: Uint8Array): Bytes =>
  concat(DOMAIN, utf8(context), Uint8Array.of(0), message);

/** Whoever can sign as a node; a key of the browser's own does so later. */
export interface Signer {
  readonly public: Bytes;
  sign(context: string, message: Uint8Array): Bytes | Promise<Bytes>;
}

export class NodeKey implements Signer {
  readonly public: Bytes;

  /** `seed`: 32 bytes; whoever has it is the node. */
  constructor(readonly seed: Bytes) {
    this.public = ed25519.getPublicKey(seed) as Bytes;
  }

  sign(context: string, message: Uint8Array): Bytes {
    return ed25519.sign(signed(context, message), this.seed) as Bytes;
  }
}

/** The key of a node that is so for a while, such as a visitor. */
export class VisitorKey implements Signer {
  private constructor(
    private readonly key: Bytes,
    private readonly seed: Bytes,
  ) {}

  get public(): Bytes {
    return this.key;
  }

  static async of(seed: Bytes): Promise<VisitorKey> {
    return new VisitorKey(await curves.publicOf("Ed25519", seed), seed);
  }

  sign(context: string, message: Uint8Array): Promise<Bytes> {
    return signWith(this.seed, context, message);
  }
}

export const signWith = (seed: Bytes, context: string, message: Uint8Array): Promise<Bytes> => curves.sign(seed, signed(context, message));

/** As `verify`, and faster where the browser can do it. */
export const verified = (key: Bytes, context: string, message: Uint8Array, signature: Bytes): Promise<boolean> =>
  curves.verify(key, signed(context, message), signature);

export function verify(key: Uint8Array, context: string, message: Uint8Array, signature: Uint8Array): boolean {
  try {
    return ed25519.verify(signature, signed(context, message), key, { zip215: false });
  } catch {
    return false;
  }
}

/** Keyed BLAKE2b with a personalisation, which is padded with zero bytes to 16. */
export function keyedHash(size: number, key: Uint8Array | undefined, person: string, message: Uint8Array): Bytes {
  const personalization = new Uint8Array(16);
  personalization.set(utf8(person));
  return blake2b(message, { dkLen: size, personalization, ...(key ? { key } : {}) }) as Bytes;
}
