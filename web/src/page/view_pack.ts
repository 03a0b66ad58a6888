/** The files of a view, from their pack: see kachery_p2p/protocol/files/view_pack.py. */

import { sha1Of } from "../hashing.js";
import { byCodePoint, type Bytes, hex } from "../bytes.js";
import { KacheryError } from "../errors.js";
import { MAX_VIEW } from "../limits.js";
import { asInt, asMap, asText } from "../msgpack.js";

const MAGIC = "kachery-view 1 ";
const MOST_FILES = 4_096;

/** By path; each is what its listing says. Throws `bad-input`, `corrupt-content`, protocol-violation. */
export async function parsePack(pack: Bytes): Promise<Map<string, Bytes>> {
  const line = new TextDecoder("latin1").decode(pack.subarray(0, MAGIC.length + 12));
  const size = new RegExp(`^${MAGIC}([0-9]{1,9})\n`).exec(line)?.[1];
  if (!size) throw new KacheryError("bad-input", { what: "The view", reason: "this page cannot read its pack; it may be of a newer version" });
  const begin = MAGIC.length + size.length + 1;
  const listing: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(pack.subarray(begin, begin + Number(size))));
  const files = new Map<string, Bytes>();
  let at = begin + Number(size);
  for (const [path, entry] of walk("", asMap(listing, "a listing"))) {
    const length = asInt(entry.size, "a size", 0, MAX_VIEW);
    const data = pack.subarray(at, at + length);
    if (data.length !== length || hex(await sha1Of(data)) !== asText(entry.sha1, "a hash", 40) || files.size >= MOST_FILES)
      throw new KacheryError("corrupt-content", { what: path.slice(0, 100), source: "the view" });
    files.set(path, data);
    at += length;
  }
  return files;
}

/** As `Directory.walk` of the Python code: the files of a folder before those of the folders in it. */
function* walk(prefix: string, folder: Record<string, unknown>): Generator<[string, Record<string, unknown>], void, undefined> {
  const inside = (name: string) => Object.entries(asMap(folder[name] ?? {}, name)).sort(([a], [b]) => byCodePoint(a, b));
  for (const [name, entry] of inside("files")) yield [prefix + name, asMap(entry, "a file")];
  for (const [name, entry] of inside("dirs")) yield* walk(`${prefix}${name}/`, asMap(entry, "a folder"));
}
