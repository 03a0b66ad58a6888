/** The opening of a session: Noise_XX_25519_AESGCM_SHA256, as initiator. */

import { gcm } from "@noble/ciphers/aes.js";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { type Bytes, concat, equal, u64, utf8 } from "./bytes.js";
import { KacheryError, violation } from "./errors.js";
import { publicOf, shared } from "./curves.js";
import { type Signer, verified } from "./identity.js";
import { MAX_HANDSHAKE_MESSAGE, PROTOCOL_VERSION } from "./limits.js";
import { asBytes, asMap, pack, unpack } from "./msgpack.js";

const MAGIC = utf8("kachery-p2p");
export const PREFIX: Bytes = concat(MAGIC, Uint8Array.of(PROTOCOL_VERSION >> 8, PROTOCOL_VERSION & 255));
const NAME = utf8("Noise_XX_25519_AESGCM_SHA256");
const STATIC_CONTEXT = "noise-static";
const TAG = 16;

/** The nonce of Noise's AESGCM: 4 zero bytes, and the number as 8 bytes big-endian. */
export const nonce = (number: number): Bytes => concat(new Uint8Array(4), u64(number));

export interface Keys {
  readonly send: Bytes;
  readonly receive: Bytes;
  readonly hash: Bytes;
  readonly peer: Bytes;
}

/** What is random in a handshake; both 32 bytes. */
export interface Randomness {
  readonly static: Bytes;
  readonly ephemeral: Bytes;
}

export class Initiator {
  private hash: Bytes;
  private chain: Bytes;
  private key: Bytes | null = null;
  private count = 0;
  private remoteEphemeral: Bytes = new Uint8Array(0);

  /** `expected`: the public key of the node that must answer. */
  constructor(
    private readonly node: Signer,
    private readonly expected: Uint8Array,
    private readonly random: Randomness,
  ) {
    this.hash = concat(NAME, new Uint8Array(32 - NAME.length));
    this.chain = this.hash;
    this.mixHash(PREFIX);
  }

  async first(): Promise<Bytes> {
    const ephemeral = await publicOf("X25519", this.random.ephemeral);
    this.mixHash(ephemeral);
    this.mixHash(new Uint8Array(0));
    return concat(PREFIX, ephemeral);
  }

  /** The third message and the keys, from the second message. */
  async finish(message: Uint8Array): Promise<{ third: Bytes; keys: Keys }> {
    const rest = stripped(message);
    if (rest.length < 32 + 32 + TAG + TAG) throw violation("a handshake message that is too short");
    this.remoteEphemeral = rest.slice(0, 32) as Bytes;
    this.mixHash(this.remoteEphemeral);
    await this.mixKey(this.random.ephemeral, this.remoteEphemeral);
    const remoteStatic = this.decrypt(rest.slice(32, 80));
    await this.mixKey(this.random.ephemeral, remoteStatic);
    const peer = await this.checked(this.decrypt(rest.slice(80)), remoteStatic);
    const staticKey = await publicOf("X25519", this.random.static);
    const sealedStatic = this.encrypt(staticKey);
    await this.mixKey(this.random.static, this.remoteEphemeral);
    const signature = await this.node.sign(STATIC_CONTEXT, staticKey);
    const third = concat(PREFIX, sealedStatic, this.encrypt(pack({ id: this.node.public, sig: signature })));
    const [send, receive] = expand(this.chain, new Uint8Array(0));
    return { third, keys: { send, receive, hash: this.hash, peer } };
  }

  private async checked(payload: Uint8Array, remoteStatic: Uint8Array): Promise<Bytes> {
    const credentials = asMap(unpack(payload), "credentials");
    const peer = asBytes(credentials.id, "a node id", 32);
    const signature = asBytes(credentials.sig, "a signature", 64);
    if (!(await verified(peer, STATIC_CONTEXT, remoteStatic, signature))) throw violation("credentials that are forged");
    if (!equal(peer, this.expected))
      throw new KacheryError("unreachable", { what: "the node that the link names", reason: "another one answered" });
    return peer;
  }

  private mixHash(data: Uint8Array): void {
    this.hash = sha256(concat(this.hash, data)) as Bytes;
  }

  private async mixKey(secret: Bytes, point: Bytes): Promise<void> {
    const both = await shared(secret, point).catch(() => {
      throw violation("a key of small order");
    });
    [this.chain, this.key] = expand(this.chain, both);
    this.count = 0;
  }

  private encrypt(plain: Uint8Array): Bytes {
    const sealed = gcm(this.key!, nonce(this.count++), this.hash).encrypt(plain) as Bytes;
    this.mixHash(sealed);
    return sealed;
  }

  private decrypt(sealed: Uint8Array): Bytes {
    const plain = unsealed(this.key!, this.count++, sealed, this.hash);
    this.mixHash(sealed);
    return plain;
  }
}

export function unsealed(key: Uint8Array, number: number, sealed: Uint8Array, data?: Uint8Array): Bytes {
  try {
    return gcm(key, nonce(number), data).decrypt(sealed) as Bytes;
  } catch {
    throw violation("what does not authenticate");
  }
}

function expand(chain: Uint8Array, input: Uint8Array): [Bytes, Bytes] {
  const key = hmac(sha256, chain, input);
  const one = hmac(sha256, key, Uint8Array.of(1)) as Bytes;
  return [one, hmac(sha256, key, concat(one, Uint8Array.of(2))) as Bytes];
}

function stripped(message: Uint8Array): Uint8Array {
  if (message.length > MAX_HANDSHAKE_MESSAGE) throw violation("a handshake message that is too long");
  if (message.length >= PREFIX.length && equal(message.subarray(0, PREFIX.length), PREFIX))
    return message.subarray(PREFIX.length);
  if (message.length === PREFIX.length && equal(message.subarray(0, MAGIC.length), MAGIC)) {
    const theirs = (message[11]! << 8) | message[12]!;
    throw new KacheryError("version-mismatch", { ours: PROTOCOL_VERSION, theirs });
  }
  throw violation("no kachery-p2p node answers");
}
