/** What is in a share link, see kachery_p2p/protocol/channels/share_link.py and docs/protocol.md. */

import { sha1 } from "@noble/hashes/legacy.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { type Bytes, equal, fromBase64url, fromHex } from "./bytes.js";
import { KacheryError } from "./errors.js";
import { keyedHash, signWith, verified } from "./identity.js";
import { MAX_FRAGMENT, MAX_FUNCTION_ID, MAX_LABEL, MAX_LINK_RUNNERS, MAX_PASS_BYTES, MAX_PASS_SCOPE, MAX_VIEW_DATA, MAX_VIEW_TITLE } from "./limits.js";
import { asBool, asBytes, asInt, asList, asText, pack, unpack } from "./msgpack.js";

const VERSION = 1;
const CHECK = 4;
const MAX_SECONDS = 253_402_300_799;

export interface Pass {
  /** As it stands in the link. */
  readonly packed: Bytes;
  readonly channel: Bytes;
  /** The node that made it. */
  readonly home: Bytes;
  readonly id: Bytes;
  /** 0: any number. */
  readonly uses: number;
  /** Unix time in seconds. */
  readonly expiresAt: number;
}

export type Target =
  | { readonly kind: "file"; readonly sha1: string; readonly manifest: string | null; readonly name: string }
  | { readonly kind: "task"; readonly function: string; readonly name: string }
  | { readonly kind: "feed"; readonly feed: Bytes; readonly subfeed: Bytes; readonly name: string };

/** Something that a link is to. `mayAppend`: messages may be added to that subfeed. */
export interface Goal {
  readonly uri: string;
  readonly target: Target;
  /** Blinded keys by which a proxy finds who has it. */
  readonly keys: readonly Bytes[];
  readonly mayAppend: boolean;
  /** Its manifest is of the very bytes that its SHA-1 is of: who made the link has computed both. */
  readonly sameBytes?: boolean;
}

/** That the link's file is the pack of a view, and what the view is given. */
export interface LinkedView {
  readonly title: string;
  /** JSON. */
  readonly data: string;
  readonly goals: readonly Goal[];
  /** Functions that it may have run. */
  readonly tasks: readonly Goal[];
  /** Nodes whose word for what they computed counts. */
  readonly runners: readonly Bytes[];
}

export interface Share extends Goal {
  readonly channelName: string;
  readonly pass: Pass;
  readonly seed: Bytes;
  readonly view: LinkedView | null;
  readonly secretVersion: number;
  readonly proxy: Bytes;
}

const bad = (reason: string): KacheryError => new KacheryError("bad-link", { reason });

/** Takes what follows `#`. Throws `bad-link`. */
export async function parseFragment(fragment: string): Promise<Share> {
  if (fragment.length > MAX_FRAGMENT) throw bad("it is too long");
  let data: Bytes;
  try {
    data = fromBase64url(fragment.trim());
  } catch {
    throw bad("it was changed on the way");
  }
  const packed = data.subarray(CHECK);
  if (data.length <= CHECK || !equal(sha256(packed).subarray(0, CHECK), data.subarray(0, CHECK)))
    throw bad("a part of it is missing, or was changed on the way");
  try {
    return await fromPacked(packed);
  } catch (error) {
    if (error instanceof KacheryError && error.code === "bad-link") throw error;
    throw bad("it is of another kind than this page knows");
  }
}

async function fromPacked(packed: Uint8Array): Promise<Share> {
  const items = asList(unpack(packed), "a link", 1);
  if (items[0] !== VERSION) throw bad(`it is of version ${String(items[0]).slice(0, 10)}, and this page reads ${VERSION}`);
  return {
    ...goalOf(items[4], items[5], false),
    sameBytes: asBool(items[9] ?? false, "same_bytes"),
    channelName: asText(items[1], "a name", MAX_LABEL),
    pass: await parsePass(asBytes(items[2], "a pass", 1, MAX_PASS_BYTES)),
    seed: asBytes(items[3], "a seed", 32),
    view: viewOf(items[8] ?? null),
    secretVersion: asInt(items[6], "a version", 1, Number.MAX_SAFE_INTEGER),
    proxy: asBytes(items[7], "a node id", 32),
  };
}

function goalOf(text: unknown, list: unknown, mayAppend: boolean): Goal {
  const uri = asText(text, "a URI", MAX_FRAGMENT);
  const keys = asList(list, "keys", 0, MAX_PASS_SCOPE).map((key) => asBytes(key, "a key", 16));
  return { uri, target: parseTarget(uri), keys, mayAppend };
}

/** A function, as those are looked for who run it. */
export const taskGoal = (name: string, keys: readonly Bytes[] = []): Goal => ({
  uri: "",
  target: { kind: "task", function: name, name },
  keys,
  mayAppend: false,
});

function viewOf(value: unknown): LinkedView | null {
  if (value === null) return null;
  const [title, data, contents, tasks = [], runners = []] = asList(value, "a view", 3);
  return {
    title: asText(title, "a title", MAX_VIEW_TITLE),
    data: new TextDecoder("utf-8", { fatal: true }).decode(asBytes(data, "the data of a view", 1, MAX_VIEW_DATA)),
    goals: asList(contents, "contents", 0, MAX_PASS_SCOPE).map((each) => {
      const [uri, keys, append] = asList(each, "a content", 3);
      return goalOf(uri, keys, asBool(append, "may_append"));
    }),
    tasks: asList(tasks, "functions", 0, MAX_PASS_SCOPE).map((each) => {
      const [name, keys] = asList(each, "a function", 2);
      return taskGoal(asText(name, "a function", MAX_FUNCTION_ID), asList(keys, "keys", 1, 1).map((key) => asBytes(key, "a key", 16)));
    }),
    runners: asList(runners, "nodes", 0, MAX_LINK_RUNNERS).map((each) => asBytes(each, "a node id", 32)),
  };
}

/** Checks its form and its signature; whether it counts is for those to say to whom it is shown. */
export async function parsePass(packed: Bytes): Promise<Pass> {
  const items = asList(unpack(packed), "a pass", 11, 11);
  const channel = asBytes(items[0], "a channel", 32);
  const home = asBytes(items[1], "a node id", 32);
  const signer = asBool(items[2], "by_owner") ? channel : home;
  const signature = asBytes(items[10], "a signature", 64);
  if (!(await verified(signer, "pass", pack(items.slice(0, 10)), signature))) throw bad("its signature is wrong");
  return {
    packed,
    channel,
    home,
    id: asBytes(items[3], "an id", 32),
    uses: asInt(items[6], "uses", 0, Number.MAX_SAFE_INTEGER),
    expiresAt: asInt(items[9], "a time", 0, MAX_SECONDS),
  };
}

/** What a URI names. Throws `bad-link`. */
export function parseTarget(uri: string): Target {
  const file = /^sha1:\/\/([0-9a-f]{40})(?:\/([^?#]*))?(?:\?manifest=([0-9a-f]{40}))?$/.exec(uri);
  if (file) {
    const label = (file[2] ?? "").replace(/%(20|23|3F|25)/g, (code) => decodeURIComponent(code));
    return { kind: "file", sha1: file[1]!, manifest: file[3] ?? null, name: label || file[1]!.slice(0, 12) };
  }
  const feed = /^feed:\/\/([0-9a-f]{64})\/(.+)$/.exec(uri);
  if (!feed) throw bad("it names neither a file nor a subfeed");
  let name: string;
  try {
    name = decodeURIComponent(feed[2]!);
  } catch {
    throw bad("the name of its subfeed is malformed");
  }
  const hashed = /^~([0-9a-f]{40})$/.exec(name);
  const subfeed = hashed ? fromHex(hashed[1]!) : (sha1(new TextEncoder().encode(name)) as Bytes);
  return { kind: "feed", feed: fromHex(feed[1]!), subfeed, name };
}

/** The secret of the marks in a pass, from the seed of its key. */
export const secretOf = (seed: Bytes): Bytes => keyedHash(32, undefined, "kachery-pass", seed);

/** The proof that this visitor holds the pass, for one session with the node `verifier`. */
export function prove(share: Share, verifier: Uint8Array, visitor: Uint8Array, hash: Uint8Array): Promise<Bytes> {
  return signWith(share.seed, "pass proof", pack([share.pass.channel, verifier, visitor, hash]));
}

export const markOf = (secret: Uint8Array, person: "kachery-file" | "kachery-feed" | "kachery-task" | "kachery-backend", identifier: Uint8Array): Bytes =>
  keyedHash(16, secret, person, identifier);

