/** A place on the page where one content is shown: files and subfeeds of links, channels and results. */

import type { Access } from "../access.js";
import type { KacheryError } from "../errors.js";
import { follow } from "../feed.js";
import { RemoteFile } from "../file.js";
import type { Goal } from "../share.js";
import { bytesText, make } from "./dom.js";
import { FeedView } from "./feedview.js";
import { save } from "./save.js";
import { type Showable, show } from "./show.js";

const TELL_MS = 150;

export interface Place {
  /** It is not needed any more. */
  readonly over: AbortSignal;
  readonly content: HTMLElement;
  readonly actions: HTMLElement;
  /** Where a bar of progress goes. */
  readonly bars: HTMLElement;
  tell(text: string, error?: boolean): void;
  fail(error: unknown): void;
  /** Something about it, such as its size. */
  fact(text: string): void;
  /** From whom it came. */
  route(source: string): void;
}

export function addAction(place: Pick<Place, "actions">, name: string, work: () => void): HTMLButtonElement {
  const button = make("button", { type: "button" }, name);
  button.addEventListener("click", work);
  place.actions.append(button);
  return button;
}

export async function showFile(access: Access, goal: Goal, place: Place): Promise<void> {
  const file = await RemoteFile.open(access, goal);
  await showIn(file, place);
  if (place.over.aborted) return;
  place.route(file.source);
  place.tell("Verified.");
}

/** What may be on the page already as bytes, such as a result. */
export async function showIn(file: Showable, place: Place): Promise<void> {
  place.fact(`${bytesText(file.size)}. `);
  const button = addAction(place, "Save", () => void saveFrom(file, button, place));
  const content = await show(file, (text, error) => place.tell(text, error), place.over);
  if (!place.over.aborted) place.content.replaceChildren(content);
}

async function saveFrom(file: Showable, button: HTMLButtonElement, place: Place): Promise<void> {
  button.disabled = true;
  const bar = make("progress", { max: String(file.size), "aria-label": "Saved" });
  place.bars.after(bar);
  try {
    const done = await save(file, seldom((bytes) => {
      bar.value = bytes;
      place.tell(`Saving: ${bytesText(bytes)} of ${bytesText(file.size)}`);
    }));
    place.tell(done ? "Saved; all of it was verified." : "Not saved.");
  } catch (error) {
    place.fail(error);
  } finally {
    bar.remove();
    button.disabled = false;
  }
}

/** At most so often that people can read it: each time the page is drawn anew. */
export function seldom<T>(tell: (value: T) => void): (value: T) => void {
  let last = -Infinity;
  return (value) => {
    const now = performance.now();
    if (now - last < TELL_MS) return;
    last = now;
    tell(value);
  };
}

export async function showFeed(access: Access, goal: Goal, place: Place): Promise<void> {
  const view = new FeedView();
  place.content.replaceChildren(view.element);
  const told = (error: KacheryError | null) => {
    if (error) place.tell(`${error.message} Trying again …`, true);
    else place.tell(view.count ? `${view.count} messages; more are shown as they come.` : "No messages yet; they are shown as they come.");
  };
  for await (const messages of follow(access, place.over, told, goal)) {
    view.add(messages);
    told(null);
    place.route(access.holders.find((holder) => holder.online)?.label ?? "");
  }
}
