/**
 * Channel documents and admissions, as far as a page needs them: who is on the channel, what may they do,
 * which proxies are there, and the secret, which is sealed for this page's own key.
 *
 * Invariant: what is made here was signed by the channel's owner, or by a node that the owner lets admit.
 */

import type { Bytes } from "./bytes.js";
import { equal, hex } from "./bytes.js";
import { KacheryError } from "./errors.js";
import { verify } from "./identity.js";
import { MAX_BOOTSTRAPS, MAX_CHANNEL_DOCUMENT, MAX_LABEL, MAX_MEMBERS, MAX_URL } from "./limits.js";
import { asBytes, asInt, asList, asMap, asText, pack, unpack } from "./msgpack.js";

export const ROLES = [
  "provide-files", "request-files", "provide-feeds", "request-feeds", "provide-tasks", "request-tasks", "proxy",
] as const;
const ALL_BITS = 2 ** ROLES.length - 1;
const MAX_SECONDS = 253_402_300_799;
const FORMAT = "kachery-channel";
const SEALED = 80;

export const rolesOf = (bits: number): string[] => ROLES.filter((_, bit) => (bits >> bit) % 2 === 1);

export interface Bootstrap {
  readonly url: string;
  readonly node: Bytes;
}

export interface Member {
  readonly node: Bytes;
  readonly label: string;
  readonly bits: number;
  /** The secret, for it alone; empty if it needs none. */
  readonly sealed: Bytes;
}

export interface ChannelDocument {
  /** As it travels. */
  readonly signed: Bytes;
  readonly channel: Bytes;
  readonly name: string;
  readonly version: number;
  /** Unix time in seconds, or null: for good. */
  readonly expiresAt: number | null;
  readonly bootstraps: readonly Bootstrap[];
  readonly members: readonly Member[];
  readonly secretVersion: number;
  readonly admitters: readonly { readonly node: Bytes; readonly bits: number }[];
}

export interface Admission extends Member {
  /** As it travels. */
  readonly packed: Bytes;
  readonly admitter: Bytes;
  readonly secretVersion: number;
}

const bad = (reason: string): KacheryError => new KacheryError("bad-channel-document", { reason });

export function bootstrapOf(value: unknown): Bootstrap {
  const entry = asMap(value, "a bootstrap");
  return { url: asText(entry.url, "a URL", MAX_URL), node: asBytes(entry.node_id, "a node id", 32) };
}

function memberOf(value: unknown): Member {
  const entry = asMap(value, "a member");
  return {
    node: asBytes(entry.node_id, "a node id", 32),
    label: asText(entry.label, "a label", MAX_LABEL),
    bits: asInt(entry.roles, "roles", 0, ALL_BITS),
    sealed: asBytes(entry.sealed, "a sealed secret", 0, SEALED),
  };
}

/** Throws `bad-channel-document`: it is none of that channel, or its owner did not sign it. */
export function parseDocument(signed: Bytes, channel: Uint8Array): ChannelDocument {
  if (signed.length > MAX_CHANNEL_DOCUMENT) throw bad("it is too large");
  try {
    const outer = asList(unpack(signed), "a document", 2, 2);
    const body = asBytes(outer[0], "a body", 1, MAX_CHANNEL_DOCUMENT);
    const fields = asMap(unpack(body), "a body");
    if (fields.format !== FORMAT || fields.version_of_format !== 1) throw bad("it is of another format than this page knows");
    const id = asBytes(fields.channel_id, "a channel", 32);
    if (!equal(id, channel)) throw bad("it is of another channel");
    if (!verify(id, "channel", body, asBytes(outer[1], "a signature", 64))) throw bad("its owner did not sign it");
    return {
      signed,
      channel: id,
      name: asText(fields.name, "a name", MAX_LABEL),
      version: asInt(fields.version, "a version", 1, Number.MAX_SAFE_INTEGER),
      expiresAt: fields.expires_at === null ? null : asInt(fields.expires_at, "a time", 0, MAX_SECONDS),
      bootstraps: asList(fields.bootstraps, "bootstraps", 0, MAX_BOOTSTRAPS).map(bootstrapOf),
      members: asList(fields.members, "members", 0, MAX_MEMBERS).map(memberOf),
      secretVersion: asInt(fields.secret_version, "a version", 1, Number.MAX_SAFE_INTEGER),
      admitters: asList(fields.admitters ?? [], "admitters", 0, MAX_MEMBERS).map((each) => {
        const entry = asMap(each, "an admitter");
        return { node: asBytes(entry.node_id, "a node id", 32), bits: asInt(entry.roles, "roles", 0, ALL_BITS) };
      }),
    };
  } catch (error) {
    if (error instanceof KacheryError && error.code === "bad-channel-document") throw error;
    throw bad(error instanceof Error ? error.message : "it is malformed");
  }
}

export const listed = (document: ChannelDocument, node: Uint8Array): Member | undefined =>
  document.members.find((member) => equal(member.node, node));

/** An admission, if it counts under `document`; null if it does not. Throws a protocol-violation. */
export function parseAdmission(packed: Bytes, document: ChannelDocument): Admission | null {
  const items = asList(unpack(packed), "an admission", 10, 10);
  const admission: Admission = {
    packed,
    admitter: asBytes(items[1], "a node id", 32),
    node: asBytes(items[2], "a node id", 32),
    label: asText(items[3], "a label", MAX_LABEL),
    bits: asInt(items[4], "roles", 1, ALL_BITS),
    secretVersion: asInt(items[5], "a version", 1, Number.MAX_SAFE_INTEGER),
    sealed: asBytes(items[6], "a sealed secret", SEALED),
  };
  const may = document.admitters.find((each) => equal(each.node, admission.admitter))?.bits ?? 0;
  const has = listed(document, admission.admitter)?.bits ?? 0;
  const counts =
    equal(asBytes(items[0], "a channel", 32), document.channel) &&
    admission.secretVersion === document.secretVersion &&
    (admission.bits & ~(may & has)) === 0 &&
    !listed(document, admission.node);
  const signature = asBytes(items[9], "a signature", 64);
  if (!counts || !verify(admission.admitter, "admission", pack(items.slice(0, 9)), signature)) return null;
  return admission;
}

export const nodeName = (document: ChannelDocument, node: Uint8Array): string => listed(document, node)?.label || hex(node).slice(0, 8);
