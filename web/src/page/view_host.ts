/**
 * What a view may ask of the page: to read what its link names, to append where the link says so, and to have
 * run what it names (view_tasks.ts).
 *
 * Invariants: each call names a URI, which is compared with those in the link before anybody is asked; what a
 * view has under way is bounded, whatever it asks; what comes from it is data and text, never markup.
 */

import type { Bytes } from "../bytes.js";
import { asKacheryError, KacheryError } from "../errors.js";
import { append, follow } from "../feed.js";
import { RemoteFile } from "../file.js";
import { MAX_FEED_MESSAGES, MAX_FILE, MAX_FRAGMENT, MAX_NPY_HEADER, MAX_VISITOR_MESSAGES, VIEW_AT_ONCE, VIEW_BYTES, VIEW_CALLS } from "../limits.js";
import { asInt, asList, asText } from "../msgpack.js";
import { type Goal, parseTarget } from "../share.js";
import type { FromFrame, Numbered, ToFrame } from "../view/messages.js";
import type { Visit } from "../visit.js";
import { ViewTasks } from "./view_tasks.js";
import { type Header, itemSize, parseHeader, typed } from "./npy.js";

const MAX_BODY_TEXT = 1_000_000;

interface Told {
  /** All of it is there. */
  ready(): void;
  /** The view tried what it may not, or failed. */
  trouble(text: string): void;
  /** Whether the person allows an action. */
  allows(name: string): Promise<boolean>;
}

const bad = (reason: string): KacheryError => new KacheryError("bad-input", { what: "The view's call", reason });

export class ViewHost {
  private readonly calls = new Map<number, AbortController>();
  private readonly files = new Map<Goal, Promise<RemoteFile>>();
  private readonly headers = new Map<Goal, Promise<Header>>();
  private readonly queue: (() => void)[] = [];
  private running = 0;
  private readonly tasks: ViewTasks;

  constructor(
    private readonly visit: Visit,
    private readonly port: MessagePort,
    private readonly told: Told,
  ) {
    this.tasks = new ViewTasks(visit, told.allows);
    port.onmessage = ({ data }: MessageEvent<FromFrame>) => this.take(data);
  }

  close(): void {
    this.port.close();
    for (const call of this.calls.values()) call.abort();
  }

  private take(data: unknown): void {
    if (typeof data !== "object" || data === null || !("call" in data)) return;
    const message = data as FromFrame;
    switch (message.call) {
      case "ready":
        return this.told.ready();
      case "blocked":
        return this.told.trouble(`The view tried what it may not: ${String(message.text).slice(0, 200)}`);
      case "failed":
        return this.told.trouble(`The view failed: ${String(message.text).slice(0, 200)}`);
      case "cancel":
        return this.calls.get(message.id)?.abort();
      default:
        if (Number.isSafeInteger(message.id)) void this.answer(message);
    }
  }

  private async answer(message: Numbered): Promise<void> {
    const { id } = message;
    if (this.calls.has(id)) return;
    const over = new AbortController();
    try {
      if (this.calls.size >= VIEW_CALLS) throw new KacheryError("busy", { limit: `${VIEW_CALLS} calls of a view` });
      this.calls.set(id, over);
      const result = await this.work(message, over.signal);
      const kept = result instanceof Uint8Array ? [result.buffer] : isArray(result) ? [result.data.buffer] : [];
      this.say({ id, result }, kept);
    } catch (error) {
      const { code, message: text } = asKacheryError(error);
      this.say({ id, error: { code, message: text } });
    } finally {
      if (this.calls.get(id) === over) this.calls.delete(id);
    }
  }

  private say(message: ToFrame, give: Transferable[] = []): void {
    this.port.postMessage(message, give);
  }

  private async work(message: Numbered, signal: AbortSignal): Promise<unknown> {
    if (message.call === "task") return this.tasks.run(message, signal, (progress) => this.say({ id: message.id, progress }));
    const goal = this.goal(asText(message.uri, "a URI", MAX_FRAGMENT));
    switch (message.call) {
      case "info":
        return this.inTurn(signal, async () => {
          const { name, size } = await this.file(goal);
          return { name, size };
        });
      case "bytes":
        return this.inTurn(signal, async () => this.bytes(goal, message.start, message.end));
      case "npy":
        return this.inTurn(signal, async () => this.npy(goal, message.start, message.end));
      case "append":
        return this.append(goal, message.texts);
      case "follow":
        return this.follow(goal, message.id, message.from, signal);
      default:
        throw bad("there is no such call");
    }
  }

  /** What is in the link. Throws `access-denied`. */
  private goal(uri: string): Goal {
    let wanted: ReturnType<typeof parseTarget> | null = null;
    try {
      wanted = parseTarget(uri);
    } catch {
      throw bad(`${uri.slice(0, 100)} is no URI of a file or a subfeed`);
    }
    const name = nameOf(wanted);
    const found = this.visit.share.view?.goals.find((goal) => nameOf(goal.target) === name);
    if (!found) throw new KacheryError("access-denied", { who: "the view", cause: `its link is not to ${uri.slice(0, 100)}` });
    return found;
  }

  /** Few at once: the rest waits here, not on the nodes. */
  private async inTurn<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    if (this.running >= VIEW_AT_ONCE) await new Promise<void>((resolve) => this.queue.push(resolve));
    else this.running += 1;
    try {
      if (signal.aborted) throw new KacheryError("cancelled");
      return await work();
    } finally {
      const next = this.queue.shift();
      if (next) next();
      else this.running -= 1;
    }
  }

  private file(goal: Goal): Promise<RemoteFile> {
    return kept(this.files, goal, () => RemoteFile.open(this.visit, goal));
  }

  private async bytes(goal: Goal, first: unknown, last: unknown): Promise<Bytes> {
    const file = await this.file(goal);
    const [start, stop] = rangeOf(first, last, file.size);
    if (stop - start > VIEW_BYTES) throw tooMuch(file);
    return (await file.bytes(start, stop)).slice() as Bytes; // its memory goes to the frame
  }

  private async npy(goal: Goal, first: unknown, last: unknown): Promise<unknown> {
    const file = await this.file(goal);
    const header = await kept(this.headers, goal, async () => parseHeader(await file.bytes(0, Math.min(file.size, MAX_NPY_HEADER + 12))));
    const [rows = 1, ...rest] = header.shape;
    const [start, stop] = rangeOf(first, last, rows);
    const ranged = stop - start < rows;
    if (ranged && header.fortran && rest.length > 0) throw bad("the rows of an array in Fortran order do not lie side by side");
    const width = rest.reduce((product, n) => product * n, 1) * itemSize(header.dtype);
    if ((stop - start) * width > VIEW_BYTES) throw tooMuch(file);
    const data = await file.bytes(header.offset + start * width, header.offset + stop * width);
    const shape = header.shape.length ? [stop - start, ...rest] : [];
    return { dtype: header.dtype, fortran: header.fortran, shape, data: typed(header.dtype, data) };
  }

  private async append(goal: Goal, texts: unknown): Promise<number> {
    if (!goal.mayAppend) throw new KacheryError("access-denied", { who: "the view", cause: "its link is not for appending there" });
    const lines = asList(texts, "messages", 1, MAX_VISITOR_MESSAGES).map((text) => JSON.stringify(JSON.parse(asText(text, "a message", MAX_BODY_TEXT))));
    if (lines.reduce((sum, line) => sum + line.length, 0) > MAX_BODY_TEXT / 4) throw bad("that is too much for one message");
    return append(this.visit, goal, lines, crypto.getRandomValues(new Uint8Array(16)));
  }

  private async follow(goal: Goal, id: number, from: unknown, signal: AbortSignal): Promise<null> {
    const begin = from === undefined || from === null ? null : asInt(from, "a number", 0, MAX_FEED_MESSAGES);
    const told = (error: KacheryError | null) => error && this.told.trouble(error.message);
    for await (const messages of follow(this.visit, signal, told, goal, begin)) this.say({ id, messages });
    return null;
  }
}

const isArray = (value: unknown): value is { data: { buffer: ArrayBuffer } } =>
  typeof value === "object" && value !== null && "data" in value && ArrayBuffer.isView(value.data);

const tooMuch = (file: RemoteFile): KacheryError =>
  new KacheryError("too-large", { what: file.name, reason: `one call is for ${VIEW_BYTES} bytes; read it in ranges` });

function nameOf(target: Goal["target"]): string {
  if (target.kind === "task") return `task ${target.function}`;
  return target.kind === "file" ? `file ${target.sha1}` : `feed ${target.feed.join()} ${target.subfeed.join()}`;
}

function rangeOf(first: unknown, last: unknown, size: number): [number, number] {
  const start = first === undefined || first === null ? 0 : asInt(first, "a start", 0, MAX_FILE);
  const stop = last === undefined || last === null ? size : asInt(last, "an end", 0, MAX_FILE);
  if (stop < start) throw bad(`${start} to ${stop} is no range`);
  return [Math.min(start, size), Math.min(stop, size)];
}

/** Made once, and again if it failed. */
function kept<K, T>(map: Map<K, Promise<T>>, key: K, work: () => Promise<T>): Promise<T> {
  let found = map.get(key);
  if (!found) {
    found = work();
    map.set(key, found);
    found.catch(() => map.delete(key));
  }
  return found;
}
