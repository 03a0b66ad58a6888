/**
 * The script of the frame in which a view runs. It waits for the page's one message, which brings the view's
 * files and a port, makes a document of them, and leaves the view with `kachery`: promises over that port.
 *
 * The frame is sandboxed, of an origin of its own, and its policy has no network (kachery_p2p/node/web/page.py).
 * Nothing here keeps a view from anything: that is the browser's work, and the page's.
 */

import type { Feed, Kachery, Message, NpyArray, TaskOptions, TaskProgress } from "./api.js";
import { Assets } from "./assemble.js";
import type { Call, FromFrame, Start, ToFrame } from "./messages.js";

interface Waiting {
  resolve(result: unknown): void;
  reject(error: Error): void;
  messages?(messages: readonly Message[]): void;
  progress?(progress: TaskProgress): void;
}

class Port {
  private number = 0;
  private readonly waiting = new Map<number, Waiting>();

  constructor(private readonly port: MessagePort) {
    port.onmessage = ({ data }: MessageEvent<ToFrame>) => this.take(data);
  }

  tell(message: FromFrame): void {
    this.port.postMessage(message);
  }

  /** `hears`: of what comes before the answer. */
  start(call: Call, hears: Pick<Waiting, "messages" | "progress"> = {}): { id: number; answer: Promise<unknown> } {
    const id = this.number++;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, ...hears });
    });
    this.tell({ ...call, id });
    return { id, answer };
  }

  ask<T>(call: Call): Promise<T> {
    return this.start(call).answer as Promise<T>;
  }

  /** Its answer says how it ended. */
  abort(id: number): void {
    this.tell({ id, call: "cancel" });
  }

  cancel(id: number): void {
    if (this.waiting.delete(id)) this.tell({ id, call: "cancel" });
  }

  private take(data: ToFrame): void {
    const waiting = this.waiting.get(data.id);
    if (!waiting) return;
    if ("messages" in data) {
      waiting.messages?.(data.messages.map(({ text, ...rest }) => ({ ...rest, value: valueOf(text) })));
      return;
    }
    if ("progress" in data) return waiting.progress?.(data.progress);
    this.waiting.delete(data.id);
    if ("error" in data) waiting.reject(Object.assign(new Error(data.error.message), { code: data.error.code }));
    else waiting.resolve(data.result);
  }
}

function valueOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function feed(port: Port, uri: string): Feed {
  return {
    append: (...values) => port.ask<number>({ call: "append", uri, texts: values.map((value) => JSON.stringify(value)) }),
    follow: (from) => ({ [Symbol.asyncIterator]: () => following(port, uri, from) }),
  };
}

function following(port: Port, uri: string, from?: number): AsyncIterator<readonly Message[]> {
  const come: (readonly Message[])[] = [];
  let wake: () => void = () => undefined;
  let failure: Error | null = null;
  let over = false;
  const hear = (messages: readonly Message[]) => {
    come.push(messages);
    wake();
  };
  const { id, answer } = port.start({ call: "follow", uri, from }, { messages: hear });
  const end = (error: Error | null) => {
    failure = error;
    over = true;
    wake();
  };
  answer.then(() => end(null), end);
  return {
    async next() {
      while (come.length === 0 && !over) await new Promise<void>((resolve) => (wake = resolve));
      if (come.length) return { done: false, value: come.shift()! };
      if (failure) throw failure;
      return { done: true, value: undefined };
    },
    async return() {
      port.cancel(id);
      end(null);
      return { done: true, value: undefined };
    },
  };
}

interface TaskValue {
  readonly json?: string;
  readonly bytes?: Uint8Array;
  readonly npy?: NpyArray;
}

async function task(port: Port, name: string, kwargs: unknown = {}, { type = "pure-calculation", progress, signal }: TaskOptions = {}): Promise<unknown> {
  signal?.throwIfAborted();
  // Only what is JSON reaches the page, as it would be sent.
  const call: Call = { call: "task", function: name, type, kwargs: JSON.parse(JSON.stringify(kwargs)) as unknown };
  const { id, answer } = port.start(call, progress ? { progress } : {});
  signal?.addEventListener("abort", () => port.abort(id));
  const value = (await answer) as TaskValue;
  return value.json !== undefined ? valueOf(value.json) : (value.npy ?? value.bytes);
}

function makeKachery(port: Port, assets: Assets, { data, title }: Start): Kachery {
  const bytes = (uri: string, start?: number, end?: number) => port.ask<Uint8Array>({ call: "bytes", uri, start, end });
  const text = async (uri: string, start?: number, end?: number) => new TextDecoder().decode(await bytes(uri, start, end));
  return Object.freeze({
    data: JSON.parse(data) as unknown,
    title,
    info: (uri: string) => port.ask<{ name: string; size: number }>({ call: "info", uri }),
    bytes,
    text,
    json: async (uri: string) => JSON.parse(await text(uri)) as unknown,
    npy: (uri: string, start?: number, end?: number) => port.ask<NpyArray>({ call: "npy", uri, start, end }),
    feed: (uri: string) => feed(port, uri),
    task: (name: string, kwargs?: unknown, options?: TaskOptions) => task(port, name, kwargs, options),
    asset: (path: string) => assets.bytes(path),
    assetUrl: (path: string) => assets.url(path),
  });
}

function begin(raw: MessagePort, start: Start): void {
  const port = new Port(raw);
  const assets = new Assets(start.files);
  Object.defineProperty(window, "kachery", { value: makeKachery(port, assets, start) });
  // Of all connections these alone are none of a policy's business, in browsers of today. Frames inside this
  // one have origins of their own and run no scripts, so there is no other place to take them from.
  for (const name of ["RTCPeerConnection", "webkitRTCPeerConnection", "mozRTCPeerConnection"])
    Object.defineProperty(window, name, { value: undefined, configurable: false, writable: false });
  let html: string;
  try {
    html = assets.document();
  } catch (error) {
    port.tell({ call: "failed", text: String(error).slice(0, 200) });
    return;
  }
  document.open();
  // What opens a document takes its listeners along.
  addEventListener("securitypolicyviolation", (event) =>
    port.tell({ call: "blocked", text: `${event.effectiveDirective}: ${event.blockedURI}`.slice(0, 200) }),
  );
  addEventListener("error", (event) => port.tell({ call: "failed", text: String(event.message).slice(0, 200) }));
  addEventListener("unhandledrejection", (event) => port.tell({ call: "failed", text: String(event.reason).slice(0, 200) }));
  addEventListener("load", () => port.tell({ call: "ready", text: "" }));
  document.write(html);
  document.close();
}

function first(event: MessageEvent<Start>): void {
  const [port] = event.ports;
  if (event.source !== parent || !port || event.data?.kachery !== 1) return;
  removeEventListener("message", first);
  begin(port, event.data);
}

addEventListener("message", first);
