/**
 * Between a player and the page that it is on: asks the page for the ranges that the browser's player wants of a
 * file, and passes them on. It has nothing and fetches nothing itself; all else goes its usual way.
 */

import { MEDIA, type MediaAnswer, type MediaRequest } from "../page/media_messages.js";

/** As much of a service worker's interface as is needed: the page's own has the same names. */
interface Worker {
  addEventListener(kind: "install" | "activate" | "message" | "fetch", handler: (event: WorkerEvent) => void): void;
  skipWaiting(): Promise<void>;
  readonly clients: {
    claim(): Promise<void>;
    get(id: string): Promise<{ postMessage(message: MediaRequest, ports: readonly MessagePort[]): void } | undefined>;
  };
}

interface WorkerEvent {
  readonly request: Request;
  readonly clientId: string;
  waitUntil(work: Promise<unknown>): void;
  respondWith(answer: Promise<Response>): void;
}

const worker = globalThis as unknown as Worker;
/** Milliseconds until a page that does not answer is given up. */
const PATIENCE_MS = 60_000;

worker.addEventListener("install", (event) => event.waitUntil(worker.skipWaiting()));
for (const kind of ["activate", "message"] as const) worker.addEventListener(kind, (event) => event.waitUntil(worker.clients.claim()));
worker.addEventListener("fetch", (event) => {
  const [folder, name] = new URL(event.request.url).pathname.split("/").slice(-2);
  if (folder === MEDIA && name) event.respondWith(answer(event, name));
});

const refused = (status: number): Response => new Response(null, { status });

async function answer({ request, clientId }: WorkerEvent, name: string): Promise<Response> {
  const asked = request.headers.get("Range");
  const client = await worker.clients.get(clientId);
  // Who asks for the whole, as to save it, would take the part that is given for that.
  if (!client || asked === null || request.method !== "GET") return refused(404);
  const range = /^bytes=([0-9]{1,16})-([0-9]{0,16})$/.exec(asked);
  if (!range) return refused(416);
  const { port1, port2 } = new MessageChannel();
  const said = await new Promise<MediaAnswer | null>((resolve) => {
    setTimeout(() => resolve(null), PATIENCE_MS);
    port1.onmessage = ({ data }: { data: MediaAnswer | null }) => resolve(data);
    client.postMessage({ media: name, start: Number(range[1]), stop: range[2] ? Number(range[2]) + 1 : null }, [port2]);
  });
  port1.close();
  if (!said) return refused(404);
  const { start, size, type, bytes } = said;
  if (!bytes.byteLength) return new Response(null, { status: 416, headers: { "Content-Range": `bytes */${size}` } });
  return new Response(bytes, {
    status: 206,
    headers: {
      "Accept-Ranges": "bytes",
      "Cache-Control": "no-store",
      "Content-Length": String(bytes.byteLength),
      "Content-Range": `bytes ${start}-${start + bytes.byteLength - 1}/${size}`,
      // What is in it is somebody's: it is sound or film, and no document, whoever asks for it.
      "Content-Security-Policy": "default-src 'none'; sandbox",
      "Content-Type": type,
      "X-Content-Type-Options": "nosniff",
    },
  });
}
