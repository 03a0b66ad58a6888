/**
 * Opens a share link in node, as the page does, and says as JSON what it got: one line for a file, one for
 * each message of a feed up to a number. `fetch LINK [MESSAGES]`; a refusal is a line with `error`, after which
 * the page stays open, until the one who started this program hangs up.
 */

import { WebSocket } from "ws";
import { asKacheryError } from "../src/errors.js";
import { follow } from "../src/feed.js";
import { RemoteFile } from "../src/file.js";
import { parseFragment } from "../src/share.js";
import type { Connect, Socket } from "../src/transport.js";
import { Visit } from "../src/visit.js";

const connect: Connect = (url, protocol) => new WebSocket(url, protocol) as unknown as Socket;
const say = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);

const [link = "", most = "1"] = process.argv.slice(2);
const [page = "", fragment = ""] = link.split("#");
try {
  const share = await parseFragment(fragment);
  const visit = new Visit(share, { url: page.replace(/^http/, "ws"), connect });
  if (share.target.kind === "file") {
    const file = await RemoteFile.open(visit, share);
    const began = performance.now();
    const start = [...(await file.bytes(0, Math.min(64, file.size)))];
    let pieces = 0;
    await file.pour(() => void pieces++, () => undefined);
    say({ name: file.name, size: file.size, source: file.source, start, pieces, seconds: (performance.now() - began) / 1000 });
  } else {
    const ended = new AbortController();
    let left = Number(most);
    const told = (error: unknown) => error && process.stderr.write(`${String(error)}\n`);
    for await (const messages of follow(visit, ended.signal, told, share)) {
      messages.slice(0, left).forEach(say);
      left -= messages.length;
      if (left <= 0) ended.abort();
    }
  }
  visit.close();
} catch (error) {
  const { code, message } = asKacheryError(error);
  say({ error: code, message });
  for await (const _ of process.stdin) continue;
}
process.exit(0);
