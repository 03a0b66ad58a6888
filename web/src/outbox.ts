/**
 * What a link is about to say. What is said in one go shares a record, and so a message: to either end, and
 * to a proxy between them, a message costs more than most of what is in it.
 */

import type { Bytes } from "./bytes.js";
import { JOINED_BYTES, MAX_RECORD_FRAMES } from "./limits.js";
import { type Outgoing, SEAL_BYTES, type Session } from "./session.js";

export class Outbox {
  private frames: Outgoing[] = [];

  constructor(
    private readonly session: Session,
    private readonly send: (record: Bytes) => void,
  ) {}

  /** It goes when all that has come until now was dealt with, in the order in which it was put here. */
  put(frame: Outgoing): void {
    if (this.frames.push(frame) === 1) soon(() => this.flush());
  }

  /** It goes now. */
  flush(): void {
    const frames = this.frames;
    this.frames = [];
    for (let at = 0; at < frames.length; ) {
      const first = at;
      let size = 0;
      // A body that is sealed is the last of its record.
      while (at < frames.length && at - first < MAX_RECORD_FRAMES && size < JOINED_BYTES) size += sizeOf(frames[at++]!);
      this.send(this.session.seal(frames.slice(first, at)));
    }
  }
}

const sizeOf = ({ header, tail, body }: Outgoing): number =>
  header.length + (tail?.length ?? 0) + (body ? JOINED_BYTES + body.length + SEAL_BYTES : 0);

const waiting: (() => void)[] = [];
const { port1, port2 } = new MessageChannel();
port1.onmessage = () => waiting.shift()!();
// A process of node must not go on for it.
(port1 as { unref?: () => void }).unref?.();

/** As a task of its own, behind those that wait already. Timers would do that later, and seldom behind other tabs. */
function soon(work: () => void): void {
  waiting.push(work);
  port2.postMessage(null);
}
