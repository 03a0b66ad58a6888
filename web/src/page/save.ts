/** Saves a file, however large: what is verified goes to a file of the browser as it comes. */

import { type Bytes, free } from "../bytes.js";
import { KacheryError } from "../errors.js";
import { SAVED_IN_MEMORY, WRITTEN_AT_ONCE } from "../limits.js";
import { make } from "./dom.js";
import type { Showable } from "./show.js";

type Picker = (options: { suggestedName: string }) => Promise<FileSystemFileHandle>;

/** `tell`: bytes so far. Resolves to false if the user thought better of it. */
export async function save(file: Showable, tell: (done: number) => void): Promise<boolean> {
  const name = safeName(file.name);
  if (file.size <= SAVED_IN_MEMORY) {
    const parts: Bytes[] = [];
    await file.pour((bytes) => void parts.push(bytes), tell);
    hand(new Blob(parts), name);
    return true;
  }
  const picker = (window as { showSaveFilePicker?: Picker }).showSaveFilePicker;
  let handle: FileSystemFileHandle;
  if (picker) {
    try {
      handle = await picker.call(window, { suggestedName: name });
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return false;
      throw error;
    }
    await pourInto(file, handle, tell);
    return true;
  }
  // No picker: into the browser's own files first, which costs the place twice for a while.
  const folder = await ownFiles(file.name);
  await forget(folder);
  handle = await folder.getFileHandle(`${PREFIX}${crypto.randomUUID()}`, { create: true });
  await pourInto(file, handle, tell);
  hand(await handle.getFile(), name);
  return true;
}

/** Private windows of some browsers have none. */
async function ownFiles(name: string): Promise<FileSystemDirectoryHandle> {
  try {
    return await navigator.storage.getDirectory();
  } catch {
    throw new KacheryError("too-large", { what: name, reason: "private windows keep no files; open the link in a normal one" });
  }
}

const PREFIX = "kachery-";

async function pourInto(file: Showable, handle: FileSystemFileHandle, tell: (done: number) => void): Promise<void> {
  const writable = await handle.createWritable();
  // Many pieces are written at a time, while the next ones are verified: browsers take their time for each write.
  let gathered: Bytes = new Uint8Array(WRITTEN_AT_ONCE);
  let other: Bytes = new Uint8Array(WRITTEN_AT_ONCE);
  let size = 0;
  let writing: Promise<void> = Promise.resolve();
  const flush = async (): Promise<void> => {
    await writing;
    writing = writable.write(gathered.subarray(0, size));
    writing.catch(() => undefined); // it is thrown where it is waited for
    [gathered, other, size] = [other, gathered, 0];
  };
  const sink = async (bytes: Bytes): Promise<void> => {
    for (let at = 0; at < bytes.length; ) {
      const part = bytes.subarray(at, at + WRITTEN_AT_ONCE - size);
      gathered.set(part, size);
      at += part.length;
      size += part.length;
      if (size === WRITTEN_AT_ONCE) await flush();
    }
    free(bytes);
  };
  try {
    await file.pour(sink, tell);
    await flush();
    await writing;
  } catch (error) {
    // What was written is dropped: a file that is there is whole.
    await writable.abort().catch(() => undefined);
    if (error instanceof DOMException && error.name === "QuotaExceededError")
      throw new KacheryError("too-large", { what: file.name, reason: "the browser has no room for it" });
    throw error;
  }
  await writable.close();
}

/** What earlier downloads of this page left in the browser's own files. */
async function forget(folder: FileSystemDirectoryHandle): Promise<void> {
  const entries = (folder as unknown as { keys(): AsyncIterable<string> }).keys();
  for await (const name of entries) if (name.startsWith(PREFIX)) await folder.removeEntry(name).catch(() => undefined);
}

function hand(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A name that every system takes, without a folder in it. */
export function safeName(name: string): string {
  const last = name.split(/[/\\]/).pop() ?? "";
  const plain = last.replace(/[\u0000-\u001f\u007f<>:"|?*\u200b-\u200f\u202a-\u202e\u2066-\u2069]/g, "_").replace(/^\.+|[. ]+$/g, "");
  return plain.slice(-150) || "file";
}
