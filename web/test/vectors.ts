/** Checks this implementation against values that the Python one computed: `vectors FILE`. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { type Bytes, fromHex, hex } from "../src/bytes.js";
import { canonical } from "../src/canonical.js";
import { listed, parseAdmission, parseDocument, rolesOf } from "../src/document.js";
import { checkHead, Following, Frontier } from "../src/feed.js";
import { shared } from "../src/curves.js";
import { treeHashers } from "../src/hashing.js";
import { keyedHash, NodeKey, verified, verify, VisitorKey } from "../src/identity.js";
import { parseInvitation, proveInvitation } from "../src/invitation.js";
import * as limits from "../src/limits.js";
import { proxyOf } from "../src/member.js";
import { keepKey, makeKey, PageKey } from "../src/page_key.js";
import { checkResult, taskKey } from "../src/task.js";
import { parseManifest } from "../src/manifest.js";
import { pack, packArray, packBinaryMap, unpack } from "../src/msgpack.js";
import { Initiator, type Keys } from "../src/noise.js";
import { Outbox } from "../src/outbox.js";
import { blocksOf, cut } from "../src/ranges.js";
import { type Received, SEAL_BYTES, Session } from "../src/session.js";
import { markOf, parseFragment, prove, secretOf } from "../src/share.js";
import { leadsTo } from "../src/tree.js";

type Vector = { [name: string]: string };
type Vectors = { [name: string]: Vector };
const file = JSON.parse(readFileSync(process.argv[2]!, "utf-8")) as { vectors: Vectors; limits: Record<string, number> };
const of = (name: string): ((field: string) => Bytes) => (field) => {
  const value = file.vectors[name]?.[field];
  assert(value !== undefined, `no ${name}.${field}`);
  return fromHex(value);
};
const same = (got: Uint8Array, wanted: Uint8Array, what: string): void => assert.equal(hex(got), hex(wanted), what);
const flipped = (data: Bytes, at: number): Bytes => data.map((byte, i) => (i === at ? byte ^ 1 : byte)) as Bytes;
const checks: { [name: string]: () => void | Promise<void> } = {
  limits() {
    for (const [name, value] of Object.entries(file.limits)) assert.equal((limits as Record<string, unknown>)[name], value, name);
  },

  async signatures() {
    const v = of("signatures");
    const key = new NodeKey(v("seed"));
    same(key.public, v("public"), "public");
    same(key.sign("pass proof", v("message")), v("signature"), "signature");
    assert(!verify(v("public"), "pass", v("message"), v("signature")), "another context");
    // The point of order one signs everything if it is let.
    const small = new Uint8Array(32);
    small[0] = 1;
    const forged = new Uint8Array(64);
    forged[0] = 1;
    assert(!verify(small, "pass", v("message"), forged), "a key of small order");
    const own = await VisitorKey.of(v("seed"));
    same(own.public, v("public"), "public, by the browser");
    same(await own.sign("pass proof", v("message")), v("signature"), "signature, by the browser");
    assert(await verified(v("public"), "pass proof", v("message"), v("signature")));
    for (const at of [0, 31, 32, 63]) assert(!(await verified(v("public"), "pass proof", v("message"), flipped(v("signature"), at))), `byte ${at}`);
    assert(!(await verified(v("public"), "pass", v("message"), v("signature"))), "another context");
    assert(!(await verified(small, "pass", v("message"), forged)), "a key of small order, by the browser");
    await assert.rejects(shared(v("seed"), small), "a point of small order");
  },

  async handshake() {
    const v = of("handshake");
    const begin = async (expected: Bytes) => {
      const initiator = new Initiator(await VisitorKey.of(v("seed")), expected, { static: v("static"), ephemeral: v("ephemeral") });
      same(await initiator.first(), v("message 1"), "message 1");
      return initiator;
    };
    const { third, keys } = await (await begin(v("peer"))).finish(v("message 2"));
    same(third, v("message 3"), "message 3");
    same(keys.hash, v("h"), "h");
    same(keys.send, v("send"), "send");
    same(keys.receive, v("receive"), "receive");
    same(keys.peer, v("peer"), "peer");
    for (let at = 0; at < v("message 2").length; at++)
      await assert.rejects(async () => (await begin(v("peer"))).finish(flipped(v("message 2"), at)), `byte ${at} changed`);
    await assert.rejects(async () => (await begin(v("seed"))).finish(v("message 2")), "another node than was expected");
  },

  async records() {
    const v = of("records");
    const keys: Keys = { send: v("key"), receive: v("key"), hash: v("key"), peer: v("key") };
    const sealing = new Session(keys);
    const opening = new Session(keys);
    same(sealing.seal([{ header: v("header 0") }]), v("record 0"), "record 0");
    opening.open(v("record 0"));
    const [record] = opening.open(v("record 1"));
    assert(record?.tail.kind === "sealed");
    same(await record.tail.open(), v("body 1"), "body 1");
    const [large] = opening.open(v("record 2"));
    assert(large?.tail.kind === "sealed");
    same(await large.tail.open(), v("body 2"), "body 2, by WebCrypto");
    sealing.seal([{ header: v("header 0") }]);
    sealing.seal([{ header: v("header 0") }]);
    for (let n = 3; n < limits.REKEY_RECORDS; n++) sealing.seal([{ header: v("header 0") }]);
    same(sealing.seal([{ header: v("header 0") }]), v("record 65536"), "after the rekey");
    const three = new Session({ ...keys, receive: v("key of three") }).open(v("record of three"));
    assert.deepEqual(
      three.map(({ frame, tail }) => [frame[0], tail.kind]),
      [
        [9, "none"],
        [5, "opaque"],
        [5, "sealed"],
      ],
    );
    const [, opaque, last] = three;
    assert(opaque?.tail.kind === "opaque" && last?.tail.kind === "sealed");
    same(opaque.tail.bytes, v("body 1"), "an opaque tail between others");
    same(await last.tail.open(), v("body 1"), "a sealed tail behind an opaque one");
    for (const name of ["no frames", "two sealed", "too long", "too short"])
      assert.throws(() => new Session({ ...keys, receive: v("key of three") }).open(v(name)), name);
    const late = new Session(keys);
    late.open(v("record 0"));
    assert.throws(() => late.open(v("record 0")), "a repeated record");
    for (let at = 0; at < v("record 0").length; at++)
      assert.throws(() => new Session(keys).open(flipped(v("record 0"), at)), `byte ${at} changed`);
    const tampered = new Session(keys);
    tampered.open(v("record 0"));
    const [changed] = tampered.open(flipped(v("record 1"), v("record 1").length - 1));
    const tail = changed?.tail;
    assert(tail?.kind === "sealed");
    await assert.rejects(tail.open());
  },

  async outbox() {
    const keys: Keys = { send: new Uint8Array(32), receive: new Uint8Array(32), hash: new Uint8Array(32), peer: new Uint8Array(32) };
    const reader = new Session(keys);
    const records: Received[][] = [];
    const outbox = new Outbox(new Session(keys), (record) => records.push(reader.open(record)));
    const ping = (token: number) => ({ header: pack([9, token]) });
    const opaque = (bytes: Bytes) => ({ header: pack([5, 1, null, 2, bytes.length]), tail: bytes });
    const body = (bytes: Bytes) => ({ header: pack([5, 1, null, 1, bytes.length + SEAL_BYTES]), body: bytes });
    const settled = () => new Promise((resolve) => setTimeout(resolve));
    const numbers = () => records.splice(0).map((frames) => frames.map(({ frame }) => frame[1]));
    outbox.put(ping(1));
    assert.deepEqual(numbers(), [], "nothing goes before the task is over");
    await Promise.resolve().then(() => outbox.put(ping(2)));
    await settled();
    assert.deepEqual(numbers(), [[1, 2]], "what is said in one go is one record");
    for (let n = 0; n < 70; n++) outbox.put(ping(n));
    outbox.flush();
    assert.deepEqual(numbers().map((frames) => frames.length), [64, 6], "no more frames than a record may have");
    await settled();
    assert.deepEqual(numbers(), [], "nothing goes twice");
    for (const frame of [opaque(new Uint8Array(20_000).fill(1)), ping(1), body(new Uint8Array(5).fill(2)), ping(2), opaque(new Uint8Array(9))]) outbox.put(frame);
    await settled();
    assert.deepEqual(records.map((frames) => frames.map(({ tail }) => tail.kind)), [["opaque"], ["none", "sealed"], ["none", "opaque"]]);
    const sealed = records[1]![1]!.tail;
    assert(sealed.kind === "sealed");
    same(await sealed.open(), new Uint8Array(5).fill(2), "a body behind another frame");
    assert.throws(() => new Session(keys).seal([body(new Uint8Array(5)), ping(1)]), "a body before another frame");
  },

  ranges() {
    const MIB = 1_048_576;
    assert.deepEqual(cut(0, 5), [[0, 5]]);
    assert.deepEqual(cut(65_536, MIB + 65_536), [[65_536, MIB / 2], [MIB / 2, MIB], [MIB, MIB + 65_536]], "where pieces of anybody end");
    const long = cut(MIB / 4, 1_000 * MIB);
    assert.deepEqual([long.length, long.at(-1)], [256, [127.5 * MIB, 128 * MIB]], "as many as one request may name");
    assert.deepEqual(blocksOf(65_537, 65_538, 1_000_000), [65_536, 131_072]);
    assert.deepEqual(blocksOf(999_999, 1_000_000, 1_000_000), [983_040, 1_000_000]);
  },

  msgpack() {
    const v = of("msgpack");
    same(pack([0, 127, 128, 65_536, 4_294_967_296, -1, "text", Uint8Array.of(1), true, null, { a: 1 }]), v("values"), "values");
    same(
      packArray([pack(0), pack("s"), pack(1.5), pack(""), pack([]), packBinaryMap(v("tag"), [0, []]), pack(new Uint8Array(0))]),
      v("hello"),
      "hello",
    );
    for (const name of ["huge list", "huge text", "huge bytes", "ext", "cut", "trailing"])
      assert.throws(() => unpack(v(name)), name);
  },

  hashes() {
    const v = of("hashes");
    same(keyedHash(16, v("h"), "kachery-channel", v("tagged")), v("tag"), "tag");
    same(markOf(v("secret"), "kachery-file", v("sha1")), v("blinded"), "blinded key");
    same(secretOf(v("seed")), v("pass secret"), "the secret of a pass");
  },

  async tree() {
    const v = of("tree");
    const hash = await treeHashers();
    const blocks = [new Uint8Array(65_536), new Uint8Array(65_536).fill(1), new TextEncoder().encode("end") as Bytes];
    const leaves = blocks.map((block) => hash.leaf(block));
    const parts = (data: Bytes) => Array.from({ length: data.length / 32 }, (_, i) => data.slice(32 * i, 32 * i + 32));
    const check = (start: number, stop: number, proof: Bytes[], root = v("root")) =>
      leadsTo(hash, root, 3, start, leaves.slice(start, stop), proof);
    for (const [start, stop] of [[0, 1], [1, 2], [2, 3], [0, 2], [1, 3], [0, 3]] as const) {
      const proof = parts(v(`proof ${start} ${stop}`));
      assert(check(start, stop, proof), `[${start}, ${stop})`);
      assert(!check(start, stop, [...proof, leaves[0]!]), "too long");
      assert(!check(start, stop, proof, flipped(v("root"), 3)), "another root");
      proof.forEach((_, i) => {
        assert(!check(start, stop, proof.filter((__, j) => i !== j)), "too short");
        assert(!check(start, stop, proof.map((x, j) => (i === j ? flipped(x, 0) : x))), "changed");
      });
    }
    assert(!leadsTo(hash, v("root"), 3, 0, [leaves[1]!, leaves[0]!], parts(v("proof 0 2"))), "exchanged");
    assert(!leadsTo(hash, v("root"), 3, 3, [leaves[0]!], []), "behind the end");
    const manifest = parseManifest(v("manifest"));
    assert.equal(manifest.size, 131_075);
    same(manifest.root!, v("root"), "the manifest's root");
    for (const broken of ["[]", "{}", '{"size":-1,"sha1":"00"}', "{", '{"size":1e300}'])
      assert.throws(() => parseManifest(new TextEncoder().encode(broken)), broken);
  },

  async share() {
    const v = of("share");
    const fragment = new TextDecoder().decode(v("fragment"));
    const share = await parseFragment(fragment);
    same(share.pass.packed, v("pass"), "pass");
    same(share.pass.home, v("home"), "home");
    same(share.seed, v("seed"), "seed");
    assert.equal(share.uri, new TextDecoder().decode(v("uri")));
    assert.equal(share.target.kind === "file" && share.target.name, "my file.txt");
    same(await prove(share, v("verifier"), v("visitor"), v("h")), v("proof"), "proof");
    for (let at = 0; at < fragment.length; at++) {
      const other = fragment[at] === "A" ? "B" : "A";
      await assert.rejects(parseFragment(fragment.slice(0, at) + other + fragment.slice(at + 1)), `letter ${at} changed`);
      await assert.rejects(parseFragment(fragment.slice(0, at)), `cut after ${at}`);
    }
  },

  task() {
    const v = of("task");
    const text = (name: string) => new TextDecoder().decode(v(name));
    const kwargs = canonical(JSON.parse(text("values")) as Record<string, unknown>);
    assert.equal(kwargs, text("kwargs"));
    same(taskKey("count.1", kwargs), v("key"), "key");
    const secret = new Uint8Array(32).fill(8);
    same(markOf(secret, "kachery-task", new TextEncoder().encode("count.1")), v("function key"), "the function's key");
    same(markOf(secret, "kachery-backend", new Uint8Array(0)), v("backends key"), "the key of all backends");
    const wanted = { id: new Uint8Array(16), function: "count.1", type: "query" as const, kwargs };
    const good = (node: Uint8Array) => hex(node) === hex(v("node"));
    assert.equal(new TextDecoder().decode(checkResult(unpack(v("result")), wanted, good).data!), "5");
    for (const changed of [{ kwargs: "{}" }, { function: "count.2" }, { type: "action" as const }])
      assert.throws(() => checkResult(unpack(v("result")), { ...wanted, ...changed }, good), JSON.stringify(changed));
    assert.throws(() => checkResult(unpack(v("result")), wanted, () => false), "of who may not compute");
    for (let at = 0; at < v("result").length; at++)
      assert.throws(() => checkResult(unpack(flipped(v("result"), at)), wanted, good), `byte ${at} changed`);
    for (const value of [NaN, Infinity, "\ud800", undefined, () => 1]) assert.throws(() => canonical({ value }), String(value));
    assert.equal(canonical({ n: 12345678901234567890n, __proto__: 1 }), '{"n":12345678901234567890}');
  },

  async channel() {
    const v = of("channel");
    const document = parseDocument(v("document"), v("channel"));
    assert.equal(document.name, "lab");
    assert.deepEqual(rolesOf(listed(document, v("node"))!.bits), ["request-files", "provide-tasks"]);
    for (let at = 0; at < v("document").length; at += 3)
      assert.throws(() => parseDocument(flipped(v("document"), at), v("channel")), `byte ${at} changed`);
    assert.throws(() => parseDocument(v("document"), v("node")), "another channel");
    const admission = parseAdmission(v("admission"), document)!;
    same(admission.node, v("newcomer"), "the newcomer");
    let counted = 0;
    for (let at = 0; at < v("admission").length; at++) {
      try {
        if (parseAdmission(flipped(v("admission"), at), document)) counted++;
      } catch {
        // It is not even one.
      }
    }
    assert.equal(counted, 0, "an admission that was changed");
    assert.equal(parseAdmission(v("admission"), { ...document, admitters: [] }), null, "by who may not admit");
    assert.equal(parseAdmission(v("admission"), { ...document, secretVersion: 2 }), null, "of an older secret");
    const key = new PageKey(await keepKey(v("seed")));
    same(key.public, v("node"), "the key of a seed");
    same(await key.unseal(v("sealed")), v("secret"), "the secret");
    for (let at = 0; at < v("sealed").length; at++) await assert.rejects(key.unseal(flipped(v("sealed"), at)), `byte ${at} changed`);
    same(await key.sign("pass proof", v("secret")), new NodeKey(v("seed")).sign("pass proof", v("secret")), "signature");
    const made = new PageKey(await makeKey());
    assert(verify(made.public, "channel", v("secret"), await made.sign("channel", v("secret"))), "a key of the browser's own");
  },

  async invitation() {
    const v = of("invitation");
    const line = new TextDecoder().decode(v("line"));
    const invitation = parseInvitation(`Hello!\n> ${line.slice(0, 70)}\n> ${line.slice(70)}\n\nBye`);
    assert.equal(invitation.line, line);
    same(proveInvitation(invitation, v("newcomer"), v("h")), v("proof"), "proof");
    same(proxyOf(invitation, "proxy.example.org"), invitation.bootstraps[0]!.node, "the proxy of this page");
    assert.throws(() => proxyOf(invitation, "other.example.org"), /https:\/\/proxy.example.org/);
    for (let at = 15; at < line.length; at++) {
      assert.throws(() => parseInvitation(line.slice(0, at) + (line[at] === "A" ? "B" : "A") + line.slice(at + 1)), `letter ${at} changed`);
      assert.throws(() => parseInvitation(line.slice(0, at)), `cut after ${at}`);
    }
  },

  async feed() {
    const v = of("feed");
    const parts = (data: Bytes) => Array.from({ length: data.length / 32 }, (_, i) => data.slice(32 * i, 32 * i + 32));
    const plain = (body: Bytes) => ({ kind: "sealed" as const, part: false, open: async () => body });
    const take = async (meta: unknown, body: Bytes, position = 0) =>
      new Following(v("feed"), v("subfeed"), position).take({ meta, tail: plain(body) });
    const meta = unpack(v("part")) as unknown[];
    const messages = await take(meta, v("body"), 3);
    assert.deepEqual(messages.map((x) => x.text), ['{"a":1}', '"two"', "[3]"]);
    assert.deepEqual(messages.map((x) => x.number), [3, 4, 5]);
    assert.equal(messages[2]!.author, hex(v("author")));
    for (let at = 0; at < v("body").length; at++)
      await assert.rejects(take(meta, flipped(v("body"), at), 3), `byte ${at} changed`);
    await assert.rejects(take(meta, v("body"), 4), "another place");
    const head = (meta[6] as unknown[]).slice();
    checkHead(head, v("feed"), v("subfeed"));
    assert.throws(() => checkHead([...head.slice(0, 2), 9, ...head.slice(3)], v("feed"), v("subfeed")), "a longer one");
    assert.throws(() => checkHead(head, v("subfeed"), v("subfeed")), "another feed's");
    const frontier = new Frontier(0, []);
    for (const leaf of parts(v("leaves"))) frontier.append(leaf);
    same(frontier.rootWithin(frontier.size, []), v("root"), "root");
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(`ok ${name}`);
}
