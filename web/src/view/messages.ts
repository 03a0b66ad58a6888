/** What a page and the frame of a view say to one another over their port. */

import type { Message as FeedMessage } from "../feed.js";
import type { TaskProgress } from "./api.js";

/** The first message to the frame, which brings the port. */
export interface Start {
  readonly kachery: 1;
  readonly title: string;
  /** JSON. */
  readonly data: string;
  /** By path. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

export type Call =
  | { readonly call: "info"; readonly uri: string }
  | { readonly call: "bytes" | "npy"; readonly uri: string; readonly start?: number | undefined; readonly end?: number | undefined }
  | { readonly call: "follow"; readonly uri: string; readonly from?: number | undefined }
  | { readonly call: "task"; readonly function: string; readonly type: string; readonly kwargs: unknown }
  | { readonly call: "append"; readonly uri: string; readonly texts: readonly string[] };

/** From the frame: a call, its end, or what is told to people. */
export type FromFrame = Numbered | Cancel | Word;
export type Numbered = Call & { readonly id: number };
export type Cancel = { readonly call: "cancel"; readonly id: number };
export type Word = { readonly call: "ready" | "blocked" | "failed"; readonly text: string };

/** To the frame: an answer, messages of a feed that is followed, or an error. */
export type ToFrame =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly messages: readonly FeedMessage[] }
  | { readonly id: number; readonly progress: TaskProgress }
  | { readonly id: number; readonly error: { readonly code: string; readonly message: string } };
