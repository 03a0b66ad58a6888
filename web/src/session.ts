/**
 * Records: frames sealed and opened under the keys of one session.
 *
 * Headers are opened at once and in order, since record numbers are implicit; what a large tail takes is
 * WebCrypto's, and may be waited for later. What does not authenticate ends the session.
 */

import { gcm } from "@noble/ciphers/aes.js";
import { type Bytes, concat, free } from "./bytes.js";
import { violation } from "./errors.js";
import { MAX_BODY, MAX_HEADER, MAX_HEADERS, MAX_RECORD, MAX_RECORD_FRAMES, MAX_RELAY_TAIL, REKEY_RECORDS } from "./limits.js";
import { asInt, asList, packArray, unpack } from "./msgpack.js";
import { type Keys, nonce, unsealed } from "./noise.js";

/** By so much a sealed body is longer. */
export const SEAL_BYTES = 16;
const TAG = SEAL_BYTES;
/** Bytes from which WebCrypto is faster than the way to it. */
const LARGE = 4_096;
const REKEY_NONCE = concat(new Uint8Array(4), new Uint8Array(8).fill(0xff));
export const DATA = 5;
const NOTHING = new Uint8Array(0);

/** A frame of ours: its packed header, which says how long the rest is, and an opaque tail or a body to be sealed. */
export interface Outgoing {
  readonly header: Uint8Array;
  readonly tail?: Uint8Array;
  readonly body?: Uint8Array;
}

/** A frame of a record, and what came with it. */
export interface Received {
  /** The frame: its tag, and its fields. */
  readonly frame: unknown[];
  readonly tail: Tail;
}

export type Tail =
  | { readonly kind: "none" }
  | { readonly kind: "sealed"; readonly part: boolean; open(): Promise<Bytes> }
  | { readonly kind: "opaque"; readonly bytes: Bytes };

/** Whether nothing else of a message needs its memory: small tails are taken out of it. */
const isMost = (tail: Bytes): boolean => 2 * tail.length > tail.buffer.byteLength;

class Direction {
  private number = 0;
  private imported: Promise<CryptoKey> | null = null;

  constructor(private key: Bytes) {}

  /** The number of the next record, under whose key it is. */
  next(): number {
    const number = this.number++;
    if (number > 0 && number % REKEY_RECORDS === 0) {
      this.key = gcm(this.key, REKEY_NONCE).encrypt(new Uint8Array(32)).slice(0, 32) as Bytes;
      this.imported = null;
    }
    return number;
  }

  seal(number: number, plain: Uint8Array): Bytes {
    return gcm(this.key, nonce(number)).encrypt(plain) as Bytes;
  }

  open(number: number, sealed: Uint8Array): Bytes {
    return unsealed(this.key, number, sealed);
  }

  /** The same later: the key is that of now. */
  openLater(number: number, sealed: Bytes): () => Promise<Bytes> {
    const key = this.key;
    if (sealed.length < LARGE) return async () => unsealed(key, number, sealed);
    this.imported ??= crypto.subtle.importKey("raw", key, "AES-GCM", false, ["decrypt"]);
    const imported = this.imported;
    return async () => {
      const opened = await imported;
      try {
        const plain = crypto.subtle.decrypt({ name: "AES-GCM", iv: nonce(number) }, opened, sealed);
        // What is to be decrypted was copied.
        if (isMost(sealed)) free(sealed);
        return new Uint8Array(await plain);
      } catch {
        throw violation("a body that does not authenticate");
      }
    };
  }
}

export class Session {
  readonly hash: Bytes;
  readonly peer: Bytes;
  private readonly sending: Direction;
  private readonly receiving: Direction;

  constructor(keys: Keys) {
    this.hash = keys.hash;
    this.peer = keys.peer;
    this.sending = new Direction(keys.send);
    this.receiving = new Direction(keys.receive);
  }

  /** A record of frames, of which the last alone may have a body. */
  seal(frames: readonly Outgoing[]): Bytes {
    const number = this.sending.next();
    const tails = frames.map(({ tail, body }, i) => {
      if (body === undefined) return tail ?? NOTHING;
      if (body.length > MAX_BODY) throw violation("a body of ours that is too long");
      if (i < frames.length - 1) throw violation("a body of ours that is not the last");
      return this.sending.seal(2 * number + 1, body);
    });
    for (const { header } of frames) if (header.length > MAX_HEADER) throw violation("a frame of ours that is too long");
    const sealed = this.sending.seal(2 * number, packArray(frames.map(({ header }) => header)));
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, sealed.length);
    return concat(length, sealed, ...tails);
  }

  /** The frames of a record, in the order in which they are to be dealt with. */
  open(record: Bytes): Received[] {
    if (record.length > MAX_RECORD || record.length < 4 + TAG + 1) throw violation("a record of an absurd length");
    const size = new DataView(record.buffer, record.byteOffset).getUint32(0);
    if (size < TAG + 1 || size > MAX_HEADERS + TAG || size > record.length - 4)
      throw violation("headers of an absurd length");
    const number = this.receiving.next();
    const headers = this.receiving.open(2 * number, record.subarray(4, 4 + size));
    const frames = asList(unpack(headers), "frames", 1);
    if (frames.length > MAX_RECORD_FRAMES) throw violation("too many frames in a record");
    let start = 4 + size;
    let bodies = 0;
    const received = frames.map((each) => {
      const frame = asList(each, "a frame", 1);
      const length = frame[0] === DATA ? asInt(frame[4], "the size of a tail", 0, MAX_RELAY_TAIL) : 0;
      if (start + length > record.length) throw violation("a tail that is shorter than announced");
      const bytes = record.subarray(start, start + length);
      const tail = this.tailOf(frame, number, isMost(bytes) ? bytes : bytes.slice());
      if (tail.kind === "sealed" && ++bodies > 1) throw violation("a second body in a record");
      start += length;
      return { frame, tail };
    });
    if (start !== record.length) throw violation("a tail where none was announced");
    return received;
  }

  private tailOf(frame: unknown[], number: number, bytes: Bytes): Tail {
    const kind = frame[0] === DATA ? asInt(frame[3], "a kind of tail", 0, 3) : 0;
    const size = bytes.length;
    if (kind === 0 && size > 0) throw violation("a tail where none was announced");
    if (kind === 0) return { kind: "none" };
    if (kind === 2) return { kind: "opaque", bytes };
    if (size < TAG || size > MAX_BODY + TAG) throw violation("a body of an absurd length");
    return { kind: "sealed", part: kind === 3, open: this.receiving.openLater(2 * number + 1, bytes) };
  }
}
