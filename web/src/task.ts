/**
 * Tasks: functions that other nodes run. A run is followed to its end; an action begins once at most.
 *
 * Before this end says that an action may begin, it notes where (`noted`), and from then on it asks no other
 * node. What counts as a result was signed by the node that computed it.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { type Access, type Holder, isFinal } from "./access.js";
import { type Bytes, concat, equal, hex, utf8 } from "./bytes.js";
import { canonical } from "./canonical.js";
import { asKacheryError, KacheryError, violation } from "./errors.js";
import { verify } from "./identity.js";
import { MAX_FRAGMENT, MAX_FUNCTION_ID, MAX_INLINE_RESULT, MAX_TASK_LOG, MAX_TASK_REASON, MAX_TASKS_QUEUED, MAX_TRIES, RETRY_FIRST, RETRY_MOST, SHORT_TASK_KWARGS } from "./limits.js";
import type { Link } from "./link.js";
import { asBool, asBytes, asInt, asList, asText, pack } from "./msgpack.js";
import type { Goal } from "./share.js";
import type { Stream } from "./stream.js";

export const TASK_TYPES = ["pure-calculation", "query", "action"] as const;
export type TaskType = (typeof TASK_TYPES)[number];

export interface TaskUpdate {
  readonly state: string;
  /** How many are before it in the queue. */
  readonly place: number;
  /** 0 to 1, or null: not known. */
  readonly fraction: number | null;
  readonly message: string;
  /** What was printed since the update before. */
  readonly log: string;
  readonly reason: string;
  readonly traceback: string;
  readonly result: TaskResult | null;
  /** It was there before. */
  readonly found: boolean;
}

export interface TaskResult {
  readonly node: Bytes;
  /** Unix time in ms. */
  readonly timestamp: number;
  readonly format: "json" | "npy" | "bytes" | "pkl";
  /** Null: it is the file at `uri`. */
  readonly data: Bytes | null;
  readonly uri: string | null;
}

/** A task as it is asked for. `id`: 16 random bytes; the same again runs nothing anew. */
export interface Wanted {
  readonly id: Bytes;
  readonly function: string;
  readonly type: TaskType;
  /** Canonical. */
  readonly kwargs: string;
}

export interface RunOptions {
  readonly signal: AbortSignal;
  tell(update: TaskUpdate, holder: Holder): void;
  /** Called before an action may begin, with the node that will do it. */
  noted?(node: Bytes): Promise<void>;
  /** Where the action may have begun, if this is a page that was loaded again. */
  begunAt?: Bytes;
  /** Whether a node's results count: on this channel it may compute them. */
  computes(node: Bytes): boolean;
}

const ENDS = new Set(["finished", "failed", "cancelled", "unknown", "absent"]);
const AGAIN = new Set(["link-closed", "unreachable", "stalled", "deadline-exceeded", "busy"]);
const pause = (tries: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(RETRY_MOST, RETRY_FIRST * 2 ** tries)));

export const makeTask = (name: string, type: TaskType, kwargs: Readonly<Record<string, unknown>>): Wanted => ({
  id: crypto.getRandomValues(new Uint8Array(16)),
  function: name,
  type,
  kwargs: canonical(kwargs),
});

export const taskKey = (name: string, kwargs: string): Bytes =>
  sha256(concat(utf8("kachery-p2p:task\0"), utf8(name), Uint8Array.of(0), utf8(kwargs))) as Bytes;

/** What a task ended with. Throws why there is no result: `task-failed`, `task-cancelled`, `task-unknown`, others. */
export async function runTask(access: Access, goal: Goal, task: Wanted, options: RunOptions): Promise<TaskResult> {
  const run = new Run(access, goal, task, options);
  for (let tries = 0; ; tries++) {
    const before = run.heard;
    try {
      return await run.once();
    } catch (error) {
      const known = asKacheryError(error);
      if (options.signal.aborted) throw new KacheryError("task-cancelled", { function: task.function, reason: "it was cancelled here" });
      if (run.heard > before) tries = 0;
      if (isFinal(known) || !AGAIN.has(known.code) || tries >= MAX_TRIES) throw run.explained(known);
      await pause(tries);
    }
  }
}

class Run {
  /** How many updates came. */
  heard = 0;
  private at: Bytes | null;

  constructor(
    private readonly access: Access,
    private readonly goal: Goal,
    private readonly task: Wanted,
    private readonly options: RunOptions,
  ) {
    this.at = options.begunAt ?? null;
  }

  explained(error: KacheryError): KacheryError {
    if (!this.at || error.code.startsWith("task-")) return error;
    return new KacheryError("task-unknown", { function: this.task.function, reason: error.message });
  }

  /** Ask, and follow it to its end. */
  async once(): Promise<TaskResult> {
    const ask = async (link: Link, holder: Holder) => {
      const stream = await this.open(link);
      const first = await stream.next();
      if (first === null) throw violation("no word of a task");
      return { stream, holder, first };
    };
    const at = this.at;
    const { stream, holder, first } = at
      ? await ask(await this.access.reach(at), { id: at, label: "", online: true })
      : await this.access.withHolders(this.goal, ask, MAX_TRIES);
    const cancel = () => void stream.sendMeta(["cancel"]).catch(() => undefined);
    this.options.signal.addEventListener("abort", cancel);
    if (this.options.signal.aborted) cancel();
    try {
      for (let item: typeof first | null = first; item !== null; item = await stream.next()) {
        const update = this.updateOf(item.meta);
        stream.done(item.cost);
        this.heard += 1;
        this.options.tell(update, holder);
        if (update.state === "ready") await this.go(stream, holder);
        if (ENDS.has(update.state)) return this.ended(update, holder);
      }
      throw new KacheryError("link-closed", { reason: "the other side is gone" });
    } finally {
      this.options.signal.removeEventListener("abort", cancel);
      stream.end();
    }
  }

  private async open(link: Link): Promise<Stream> {
    const { id, function: name, type } = this.task;
    const kwargs = utf8(this.task.kwargs);
    const short = kwargs.length <= SHORT_TASK_KWARGS;
    const params = { channel: this.access.channel, task: id, function: name, type, again: this.at !== null, look: true, kwargs: short ? kwargs : null };
    const stream = link.stream("task.run", params);
    if (!short) await stream.sendSealed([kwargs.length], kwargs);
    return stream;
  }

  private async go(stream: Stream, holder: Holder): Promise<void> {
    if (this.options.signal.aborted) return;
    await this.options.noted?.(holder.id);
    this.at = holder.id;
    await stream.sendMeta(["go"]);
  }

  private ended(update: TaskUpdate, holder: Holder): TaskResult {
    const fields = { function: this.task.function, node: holder.label || hex(holder.id).slice(0, 8), reason: update.reason };
    if (update.state === "finished" && update.result) return update.result;
    if (update.state === "cancelled") throw new KacheryError("task-cancelled", fields);
    if (update.state === "unknown") throw new KacheryError("task-unknown", fields);
    if (update.state === "absent") throw new KacheryError("task-failed", { ...fields, reason: "it never began there" });
    throw new KacheryError("task-failed", fields);
  }

  private updateOf(meta: unknown): TaskUpdate {
    const items = asList(meta, "an update", 1);
    const text = (at: number, most: number) => asText(items[at] ?? "", "a text", most);
    const fraction = items[2] ?? null;
    if (fraction !== null && !(typeof fraction === "number" && fraction >= 0 && fraction <= 1)) throw violation("no fraction");
    const log = asBytes(items[4] ?? new Uint8Array(0), "a log", 0, MAX_TASK_LOG);
    return {
      state: text(0, 20),
      place: asInt(items[1] ?? 0, "a place", 0, MAX_TASKS_QUEUED),
      fraction,
      message: text(3, 1_000),
      log: new TextDecoder().decode(log),
      reason: text(5, MAX_TASK_REASON),
      traceback: text(6, 16_000),
      result: (items[7] ?? null) === null ? null : checkResult(items[7], this.task, this.options.computes),
      found: asBool(items[8] ?? false, "found"),
    };
  }
}

/** A result, if it is of that task and was signed by who may compute it. Throws `forged-result`, protocol-violation. */
export function checkResult(value: unknown, task: Wanted, computes: (node: Bytes) => boolean): TaskResult {
  const items = asList(value, "a result", 7, 7);
  const { function: name, kwargs, type } = task;
  const node = asBytes(items[3], "a node id", 32);
  const matches = equal(asBytes(items[0], "a key", 32), taskKey(name, kwargs)) && asText(items[1], "a function", MAX_FUNCTION_ID) === name && items[2] === type;
  const genuine = verify(node, "task result", pack(items.slice(0, 6)), asBytes(items[6], "a signature", 64));
  if (!matches || !genuine || !computes(node)) throw new KacheryError("forged-result", { function: name });
  const [format, data, uri = null] = asList(items[5], "a payload", 2, 3);
  if (!["json", "npy", "bytes", "pkl"].includes(format as string) || (data === null) === (uri === null)) throw violation("no payload");
  return {
    node,
    timestamp: asInt(items[4], "a time", 0, Number.MAX_SAFE_INTEGER),
    format: format as TaskResult["format"],
    data: data === null ? null : asBytes(data, "data", 0, MAX_INLINE_RESULT),
    uri: uri === null ? null : asText(uri, "a URI", MAX_FRAGMENT),
  };
}
