/** What a link runs over: whole messages of bytes, in order. A WebSocket, or a circuit through a proxy. */

import type { Bytes } from "./bytes.js";
import { KacheryError, violation } from "./errors.js";
import { CIRCUIT_CREDIT, HANDSHAKE_SECONDS, MAX_RECORD, MAX_RELAY_TAIL } from "./limits.js";
import type { Stream } from "./stream.js";
import { concat } from "./bytes.js";

export interface Transport {
  send(message: Bytes): void;
  /** The next message; null when the other side is gone. */
  receive(): Promise<Bytes | null>;
  close(): void;
}

/** As much of a WebSocket as is needed; that of browsers has it, and so has `ws` in node. */
export interface Socket {
  binaryType: string;
  onopen: ((event: unknown) => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: unknown) => void) | null;
  onerror: ((event: unknown) => void) | null;
  send(data: Bytes): void;
  close(): void;
}

export type Connect = (url: string, protocol: string) => Socket;

export class WebSocketTransport implements Transport {
  private readonly waiting: Bytes[] = [];
  private wake: (() => void) | null = null;
  private over = false;

  private constructor(private readonly socket: Socket) {
    socket.onmessage = ({ data }) => {
      if (!(data instanceof ArrayBuffer) || data.byteLength > MAX_RECORD) return this.end();
      this.waiting.push(new Uint8Array(data));
      this.wake?.();
    };
    socket.onclose = socket.onerror = () => this.end();
  }

  /** Raises `unreachable`: nothing answers there within HANDSHAKE_SECONDS. */
  static async dial(url: string, connect: Connect): Promise<WebSocketTransport> {
    const socket = connect(url, "kachery-p2p");
    socket.binaryType = "arraybuffer";
    await new Promise<void>((resolve, reject) => {
      const fail = (reason: string) => {
        clearTimeout(timer);
        socket.close();
        reject(new KacheryError("unreachable", { what: new URL(url).host, reason }));
      };
      const timer = setTimeout(() => fail("it does not answer"), HANDSHAKE_SECONDS * 1000);
      socket.onerror = socket.onclose = () => fail("no kachery-p2p node answers there now");
      socket.onopen = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    return new WebSocketTransport(socket);
  }

  send(message: Bytes): void {
    if (!this.over) this.socket.send(message);
  }

  async receive(): Promise<Bytes | null> {
    while (this.waiting.length === 0) {
      if (this.over) return null;
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
    return this.waiting.shift()!;
  }

  close(): void {
    this.end();
  }

  private end(): void {
    if (this.over) return;
    this.over = true;
    this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    this.wake?.();
  }
}

/**
 * One end of a circuit: each message is one opaque tail, or several pieces of which all but the last say so.
 * The circuit is opened with the first message that is sent, which waits for no credit.
 */
export class CircuitTransport implements Transport {
  private opened: Stream | null = null;
  private owed = 0;
  private sent: Promise<void> = Promise.resolve();

  constructor(private readonly ask: (first: Bytes) => Stream) {}

  private get stream(): Stream {
    if (!this.opened) throw violation("a circuit that was never opened");
    return this.opened;
  }

  send(message: Bytes): void {
    if (!this.opened) {
      this.opened = this.ask(message);
      return;
    }
    this.sent = this.sent.then(() => this.sendPieces(message)).catch(() => undefined);
  }

  private async sendPieces(message: Bytes): Promise<void> {
    const window = await this.stream.window();
    const longest = Math.max(Math.floor(Math.min(window, CIRCUIT_CREDIT) / 3), 1);
    for (let start = 0; start < message.length; start += longest) {
      const more = start + longest < message.length ? 1 : null;
      await this.stream.sendOpaque(more, message.subarray(start, start + longest));
    }
  }

  async receive(): Promise<Bytes | null> {
    const pieces: Bytes[] = [];
    let size = 0;
    for (;;) {
      if (this.owed) this.stream.done(this.owed);
      this.owed = 0;
      const item = await this.stream.next();
      if (item === null) return null;
      if (item.tail.kind !== "opaque") throw violation("a circuit carries opaque records only");
      this.owed = item.cost;
      size += item.tail.bytes.length;
      if (size > MAX_RELAY_TAIL) throw violation("a record in pieces that is too long");
      if (item.meta !== 1 && pieces.length === 0) return item.tail.bytes;
      pieces.push(item.tail.bytes);
      if (item.meta !== 1) return concat(...pieces);
    }
  }

  close(): void {
    this.opened?.end();
  }
}
