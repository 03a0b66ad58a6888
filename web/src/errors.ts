/** Errors: a code, fields, and a sentence for whoever looks at the page. */

export type Fields = Readonly<Record<string, unknown>>;

const text = (fields: Fields, name: string): string => {
  const value = fields[name];
  return typeof value === "string" || typeof value === "number" ? String(value).slice(0, 400) : "?";
};

const SENTENCES: Readonly<Record<string, (fields: Fields) => string>> = {
  "access-denied": (f) => `Not allowed: ${text(f, "who")} may not do this (${text(f, "cause")}).`,
  "bad-link": (f) => `This link is not whole: ${text(f, "reason")}. Copy it again, to its end.`,
  "bad-input": (f) => `${text(f, "what")}: ${text(f, "reason")}.`,
  "bad-channel-document": (f) => `The channel's document is not good: ${text(f, "reason")}.`,
  "bad-invitation": (f) => `This invitation is not whole: ${text(f, "reason")}. Copy it again, to its end.`,
  busy: (f) => `The other side has no room now (${text(f, "limit")}). Try again in a moment.`,
  "clock-skew": (f) =>
    `The clock of this device is ${text(f, "seconds")} s off. Set it, then load the page again.`,
  "corrupt-content": (f) =>
    `${text(f, "what")} from ${text(f, "source")} is not what the link names; it was thrown away.`,
  "deadline-exceeded": (f) => `${text(f, "what")}: no answer within ${text(f, "seconds")} s.`,
  "feed-forked": () => "Its owner signed two histories of this feed, so neither can be trusted.",
  "forged-feed": (f) => `${text(f, "source")} sent messages that the feed's key did not sign.`,
  "forged-result": (f) => `A result of ${text(f, "function")} was not signed by a node that may compute it; it was thrown away.`,
  "invitation-refused": (f) => `This invitation is not good any more: ${text(f, "reason")}. Ask who sent it for a new one.`,
  "link-closed": (f) => `The connection ended: ${text(f, "reason")}.`,
  "not-a-member": () => "The other side does not know this link's channel any more.",
  "no-backend": (f) => `Nobody reachable runs ${text(f, "function")}: ${text(f, "detail")}.`,
  "not-found": (f) => `${text(f, "what")} is not there: ${text(f, "detail")}.`,
  "protocol-violation": (f) => `The other side broke the protocol: ${text(f, "reason")}.`,
  removed: (f) =>
    `The proxy does not know this browser as a member of channel ${text(f, "channel")} any more: it was removed from it, or the channel is over.`,
  "share-refused": (f) =>
    `This link is not good any more: ${text(f, "reason")}. Ask who sent it for a new one.`,
  stalled: (f) => `${text(f, "what")}: nothing came for ${text(f, "seconds")} s.`,
  "task-cancelled": (f) => `${text(f, "function")} was cancelled: ${text(f, "reason")}.`,
  "task-failed": (f) => `${text(f, "function")} failed on ${text(f, "node")}: ${text(f, "reason")}`,
  "task-not-allowed": (f) => `${text(f, "node")} does not let others run ${text(f, "function")}.`,
  "task-unknown": (f) => `${text(f, "function")} began, and whether it ended is not known: ${text(f, "reason")}. Look before you run it again.`,
  "too-large": (f) => `${text(f, "what")} is too large for this page: ${text(f, "reason")}.`,
  unreachable: (f) => `Cannot reach ${text(f, "what")}: ${text(f, "reason")}.`,
  "version-mismatch": (f) =>
    `This page speaks version ${text(f, "ours")} of the protocol and the other side ` +
    `${text(f, "theirs")}. Load the page again; if that does not help, one of them is old.`,
};

export class KacheryError extends Error {
  constructor(
    readonly code: string,
    readonly fields: Fields = {},
  ) {
    super(SENTENCES[code]?.(fields) ?? `Another node failed (${code.slice(0, 40)}): ${text(fields, "reason")}`);
    this.name = "KacheryError";
  }
}

export const violation = (reason: string): KacheryError =>
  new KacheryError("protocol-violation", { reason });

/** What is thrown, as one of ours: a bug keeps its own text. */
export function asKacheryError(error: unknown): KacheryError {
  if (error instanceof KacheryError) return error;
  return new KacheryError("internal", { reason: error instanceof Error ? error.message : String(error) });
}
