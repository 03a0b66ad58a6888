/** A form for the arguments of a function, made of its signature; or one box for all of them as JSON. */

import type { Parameter, Signature } from "../offers.js";
import { make, shown } from "./dom.js";

/** Left out: the function's own default counts. */
const LEFT_OUT = Symbol("left out");

interface Field {
  readonly name: string;
  readonly element: HTMLElement;
  readonly input: HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement;
  /** Throws what is wrong with it. */
  value(): unknown;
}

let fields = 0;

export class ArgumentsForm {
  readonly element: HTMLElement;
  private readonly fields: Field[];
  private readonly more: Field | null;

  constructor(signature: Signature | null) {
    this.fields = (signature?.parameters ?? []).map(fieldOf);
    this.more = !signature || signature.more ? moreField(signature === null) : null;
    const all = [...this.fields, ...(this.more ? [this.more] : [])];
    const none = all.length ? [] : [make("p", { class: "note" }, "It takes no arguments.")];
    this.element = make("div", { class: "fields" }, ...none, ...all.map((field) => field.element));
  }

  /** The arguments by name; null if one is not good, which is said beside it. */
  values(): Record<string, unknown> | null {
    const found: [string, unknown][] = [];
    let wrong: Field | null = null;
    for (const field of [...this.fields, ...(this.more ? [this.more] : [])]) {
      const note = field.element.querySelector<HTMLElement>(".wrong")!;
      try {
        const value = field.value();
        note.textContent = "";
        field.input.removeAttribute("aria-invalid");
        if (value === LEFT_OUT) continue;
        if (field === this.more) found.push(...Object.entries(value as object));
        else found.push([field.name, value]);
      } catch (error) {
        note.textContent = error instanceof Error ? error.message : String(error);
        field.input.setAttribute("aria-invalid", "true");
        wrong ??= field;
      }
    }
    wrong?.input.focus();
    // By entries: an argument may be called __proto__.
    return wrong ? null : Object.fromEntries(found);
  }
}

function framed(name: string, hint: string, input: Field["input"], value: () => unknown): Field {
  const id = `field-${++fields}`;
  input.id = id;
  input.setAttribute("aria-describedby", `${id}-hint`);
  const label = make("label", { for: id }, shown(name, 100));
  const note = make("span", { class: "note", id: `${id}-hint` }, shown(hint, 300), " ", make("span", { class: "wrong", role: "alert" }));
  return { name, input, value, element: make("div", { class: "field" }, label, input, note) };
}

function fieldOf(parameter: Parameter): Field {
  const { name, type, required, fallback, choices } = parameter;
  const otherwise = required ? "required" : fallback === null ? "may be left out" : `otherwise ${fallback}`;
  const hint = (kind: string) => `${kind}; ${otherwise}`;
  const listed = choices.length ? choices : type === "boolean" ? ["true", "false"] : [];
  if (listed.length) {
    const blank = required ? [] : [make("option", { value: "" }, fallback === null ? "–" : `– (${fallback})`)];
    const select = make("select", {}, ...blank, ...listed.map((each) => make("option", { value: each }, shown(each, 100))));
    return framed(name, hint(type === "boolean" ? "yes or no" : "one of these"), select, () => (select.value === "" ? LEFT_OUT : parseExact(select.value)));
  }
  if (type === "integer" || type === "number") {
    const input = make("input", { type: "text", inputmode: type === "integer" ? "numeric" : "decimal", autocomplete: "off" });
    return framed(name, hint(type === "integer" ? "a whole number" : "a number"), input, () => numberIn(input.value, type, required));
  }
  const area = make("textarea", { rows: type === "json" ? "2" : "1", spellcheck: "false", autocomplete: "off" });
  if (type === "text") return framed(name, hint("text"), area, () => (area.value === "" && !required ? LEFT_OUT : area.value));
  if (type === "array") return framed(name, hint("an array: the sha1:// URI of an npy file"), area, () => arrayIn(area.value, required));
  return framed(name, hint("JSON, such as [1, 2] or \"text\""), area, () => {
    if (area.value.trim()) return parseExact(area.value);
    if (required) throw new Error("It is required.");
    return LEFT_OUT;
  });
}

function moreField(all: boolean): Field {
  const area = make("textarea", { rows: "3", spellcheck: "false", autocomplete: "off" });
  const name = all ? "Arguments" : "Further arguments";
  return framed(name, "a JSON object by name, such as {\"text\": \"a\"}; empty: none", area, () => {
    if (!area.value.trim()) return LEFT_OUT;
    const value = parseExact(area.value);
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("It is no JSON object.");
    return value;
  });
}

function numberIn(text: string, type: "integer" | "number", required: boolean): unknown {
  const plain = text.trim();
  if (!plain && !required) return LEFT_OUT;
  if (/^[+-]?[0-9]+$/.test(plain)) return BigInt(plain.replace(/^\+/, ""));
  const value = Number(plain);
  if (type === "integer") throw new Error("It is no whole number.");
  if (!plain || !Number.isFinite(value)) throw new Error("It is no number; write it as 1.5 or 2e-3.");
  return value;
}

function arrayIn(text: string, required: boolean): unknown {
  const uri = text.trim();
  if (!uri && !required) return LEFT_OUT;
  if (!uri.startsWith("sha1://")) throw new Error("It is no sha1:// URI.");
  return { $npy: uri };
}

type Reviver = (key: string, value: unknown, context?: { source?: string }) => unknown;

/** JSON, with whole numbers as long as they are written. */
function parseExact(text: string): unknown {
  const exact: Reviver = (_, value, context) =>
    typeof value === "number" && !Number.isSafeInteger(value) && /^-?[0-9]+$/.test(context?.source ?? "") ? BigInt(context!.source!) : value;
  try {
    return (JSON.parse as (text: string, reviver: Reviver) => unknown)(text, exact);
  } catch {
    throw new Error("It is no JSON.");
  }
}
