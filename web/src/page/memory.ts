/**
 * What this browser keeps of channels that it joined: its own key, which nobody can read out of it, the
 * memberships, and the tasks that it waits for. It is in IndexedDB, of this page's origin alone.
 */

import { type Bytes, hex } from "../bytes.js";
import { KacheryError } from "../errors.js";
import { KEPT_RUNS, KEPT_URIS } from "../limits.js";
import type { Membership } from "../member.js";
import { type KeptKey, makeKey, PageKey } from "../page_key.js";
import type { Wanted } from "../task.js";

const STORES = ["keys", "channels", "uris", "runs"] as const;
type Store = (typeof STORES)[number];
const KEY = "node";

/** A task that was asked for. `begunAt`: the node that was told that the action may begin. */
export interface KeptRun {
  readonly channel: string;
  readonly task: Wanted;
  readonly since: number;
  readonly begunAt: Bytes | null;
}

export class ChannelMemory {
  private constructor(private readonly database: IDBDatabase) {}

  /** Throws `unreachable` where the browser keeps nothing, as in some private windows. */
  static async open(): Promise<ChannelMemory> {
    try {
      const request = indexedDB.open("kachery", 1);
      request.onupgradeneeded = () => STORES.forEach((name) => request.result.createObjectStore(name));
      return new ChannelMemory(await settled(request));
    } catch {
      throw new KacheryError("unreachable", { what: "the channel", reason: "this browser keeps nothing for the page; open it in a normal window" });
    }
  }

  private store(name: Store, mode: IDBTransactionMode): IDBObjectStore {
    return this.database.transaction(name, mode, { durability: "strict" }).objectStore(name);
  }

  private async put(name: Store, key: string, value: unknown): Promise<void> {
    const store = this.store(name, "readwrite");
    store.put(value, key);
    await finished(store.transaction);
  }

  private async drop(name: Store, key: string): Promise<void> {
    const store = this.store(name, "readwrite");
    store.delete(key);
    await finished(store.transaction);
  }

  /** This browser's key; made, once, if there is none. */
  async key(): Promise<PageKey> {
    const kept = await settled<KeptKey | undefined>(this.store("keys", "readonly").get(KEY));
    if (kept) return new PageKey(kept);
    const made = await makeKey();
    const store = this.store("keys", "readwrite");
    // Another window may have made one meanwhile: the first stays.
    const first = await settled<KeptKey | undefined>(store.get(KEY));
    try {
      if (!first) store.put(made, KEY);
    } catch {
      throw new KacheryError("unreachable", { what: "the channel", reason: "this browser keeps no keys here; open the page in a normal window" });
    }
    await finished(store.transaction);
    // The browser would otherwise be free to throw it away when it needs room.
    void navigator.storage?.persist?.().catch(() => undefined);
    return new PageKey(first ?? made);
  }

  memberships(): Promise<Membership[]> {
    return settled<Membership[]>(this.store("channels", "readonly").getAll());
  }

  membership(channel: string): Promise<Membership | undefined> {
    return settled<Membership | undefined>(this.store("channels", "readonly").get(channel));
  }

  keep(membership: Membership): Promise<void> {
    return this.put("channels", hex(membership.channel), membership);
  }

  async forget(channel: string): Promise<void> {
    for (const run of await this.runs(channel)) await this.endRun(run.task);
    await this.drop("uris", channel);
    await this.drop("channels", channel);
  }

  /** What was opened on a channel, the newest first. */
  async uris(channel: string): Promise<string[]> {
    return (await settled<string[] | undefined>(this.store("uris", "readonly").get(channel))) ?? [];
  }

  keepUri(channel: string, uri: string): Promise<void> {
    return this.changeUris(channel, (before) => [uri, ...before.filter((each) => each !== uri)].slice(0, KEPT_URIS));
  }

  dropUri(channel: string, uri: string): Promise<void> {
    return this.changeUris(channel, (before) => before.filter((each) => each !== uri));
  }

  /** In one transaction: of two that are opened at the same time, in two windows perhaps, both are kept. */
  private async changeUris(channel: string, change: (before: string[]) => string[]): Promise<void> {
    const store = this.store("uris", "readwrite");
    const before = (await settled<string[] | undefined>(store.get(channel))) ?? [];
    store.put(change(before), channel);
    await finished(store.transaction);
  }

  async runs(channel: string): Promise<KeptRun[]> {
    const all = await settled<KeptRun[]>(this.store("runs", "readonly").getAll());
    return all.filter((run) => run.channel === channel).sort((a, b) => a.since - b.since);
  }

  async keepRun(run: KeptRun): Promise<void> {
    const all = await this.runs(run.channel);
    // Actions that began are looked after until it is known how they ended.
    const old = all.filter((each) => each.begunAt === null).slice(0, Math.max(0, all.length - KEPT_RUNS));
    for (const each of old) await this.endRun(each.task);
    await this.put("runs", hex(run.task.id), run);
  }

  endRun(task: Wanted): Promise<void> {
    return this.drop("runs", hex(task.id));
  }
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("the browser's database"));
  });
}

function finished(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error ?? new Error("the browser's database"));
  });
}
