/**
 * Lends sound and films to the browser's player, which asks for the ranges that it needs: through a service
 * worker, since the players of browsers read from addresses alone.
 *
 * The worker is of this page and goes with it: it is signed off as soon as it is at work, and stays no longer than
 * the pages that have it. Where there is none, as in private windows of some browsers, nothing is lent.
 */

import { hex } from "../bytes.js";
import { MEDIA_PIECE } from "../limits.js";
import { MEDIA, type MediaAnswer, type MediaRequest } from "./media_messages.js";
import type { Showable } from "./show.js";

/** Milliseconds in which a worker must be there. */
const PATIENCE_MS = 3_000;

interface Lent {
  readonly file: Showable;
  readonly type: string;
  readonly failed: (error: unknown) => void;
}

const lent = new Map<string, Lent>();
let worker: Promise<boolean> | null = null;

/** An address for the player of this page alone, until `over`; null where there can be none. `failed`: a range could not be had. */
export async function lend(file: Showable, type: string, over: AbortSignal, failed: (error: unknown) => void): Promise<string | null> {
  worker ??= atWork().catch(() => false);
  if (!(await worker) || over.aborted) return null;
  const name = hex(crypto.getRandomValues(new Uint8Array(16)));
  lent.set(name, { file, type, failed });
  over.addEventListener("abort", () => lent.delete(name));
  return `${MEDIA}/${name}`;
}

/** Whether a worker answers what this page asks for. */
async function atWork(): Promise<boolean> {
  const container = navigator.serviceWorker as ServiceWorkerContainer | undefined;
  if (!container) return false;
  container.addEventListener("message", (event) => void give(event));
  container.startMessages();
  const registration = await container.register(address());
  if (!container.controller) {
    await new Promise<void>((resolve) => {
      container.addEventListener("controllerchange", () => resolve(), { once: true });
      setTimeout(resolve, PATIENCE_MS);
      // One that is at work for another page already is told of this one.
      registration.active?.postMessage(null);
    });
  }
  // It stays for the pages that it has now, and is gone with the last of them.
  await registration.unregister();
  return container.controller !== null;
}

interface TrustedTypes {
  createPolicy(name: string, rules: { createScriptURL(text: string): string }): { createScriptURL(text: string): string };
}

/** As the page's policy wants it where browsers have trusted types: the one script that this page may name. */
function address(): string {
  const { trustedTypes } = globalThis as { trustedTypes?: TrustedTypes };
  return trustedTypes?.createPolicy("worker", { createScriptURL: () => "media.js" }).createScriptURL("") ?? "media.js";
}

async function give({ data, ports }: MessageEvent<MediaRequest>): Promise<void> {
  const [port] = ports;
  const found = lent.get(data.media);
  if (!port) return;
  if (!found) return port.postMessage(null);
  const { file, type } = found;
  const start = Math.min(data.start, file.size);
  const stop = Math.min(data.stop ?? file.size, start + MEDIA_PIECE, file.size);
  try {
    const bytes = (stop > start ? await file.bytes(start, stop) : new Uint8Array(0)).buffer;
    const answer: MediaAnswer = { start, size: file.size, type, bytes };
    port.postMessage(answer, [bytes]);
  } catch (error) {
    port.postMessage(null);
    found.failed(error);
  }
}
