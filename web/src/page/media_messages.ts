/** What the page and its worker say to each other about sound and films. */

/** The folder, beside the page, under whose names players ask: nothing of it is on a server. */
export const MEDIA = "media";

/** `stop`: null for as much as the page likes to give. */
export interface MediaRequest {
  readonly media: string;
  readonly start: number;
  readonly stop: number | null;
}

/** Bytes from `start` on, none behind the end; fewer than were asked for, so that a seek need not wait for them. */
export interface MediaAnswer {
  readonly start: number;
  readonly size: number;
  readonly type: string;
  readonly bytes: ArrayBuffer;
}
