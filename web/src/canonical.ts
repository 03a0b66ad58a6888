/** The one text for the arguments of a task, see docs/protocol.md: the same as Python makes. */

import { byCodePoint } from "./bytes.js";
import { KacheryError } from "./errors.js";
import { MAX_TASK_KWARGS } from "./limits.js";

const DEPTH = 300;
const WHOLE = 2 ** 63;
const HALF_PAIR = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

const bad = (reason: string): KacheryError => new KacheryError("bad-input", { what: "An argument", reason });

/** `kwargs`: JSON values by name; a bigint is a whole number, however long. Throws `bad-input`. */
export function canonical(kwargs: Readonly<Record<string, unknown>>): string {
  const text = written(kwargs, DEPTH);
  if (new TextEncoder().encode(text).length > MAX_TASK_KWARGS) throw bad(`all of them have more than ${MAX_TASK_KWARGS} bytes`);
  return text;
}

function written(value: unknown, depth: number): string {
  if (depth < 0) throw bad(`it is nested more than ${DEPTH} deep`);
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "number") return numeral(value);
  if (typeof value === "string") return quoted(value);
  if (Array.isArray(value)) return `[${value.map((item) => written(item, depth - 1)).join(",")}]`;
  if (typeof value !== "object") throw bad(`it is ${typeof value}, which JSON has not`);
  const entries = Object.entries(value).sort(([a], [b]) => byCodePoint(a, b));
  return `{${entries.map(([key, item]) => `${quoted(key)}:${written(item, depth - 1)}`).join(",")}}`;
}

function quoted(text: string): string {
  if (HALF_PAIR.test(text)) throw bad("half of a surrogate pair is in a text");
  return JSON.stringify(text);
}

/** As Python writes it. */
function numeral(value: number): string {
  if (!Number.isFinite(value)) throw bad(`${value} is no number that JSON has`);
  if (Number.isInteger(value) && Math.abs(value) < WHOLE) return BigInt(value).toString();
  if (Math.abs(value) < WHOLE && Math.abs(value) >= 1e-4) return String(value);
  const [digits, exponent] = value.toExponential().split("e") as [string, string];
  return `${digits}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
}
