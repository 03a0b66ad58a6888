/** Text, JSON and tables. */

import { SHOWN_COLUMNS, SHOWN_DEPTH, SHOWN_ENTRIES, SHOWN_ROWS } from "../limits.js";
import { make } from "./dom.js";

/** A number as it was written: one of 20 digits is not the nearest double. */
class Written {
  constructor(readonly source: string) {}
}

type Parse = (text: string, reviver: (key: string, value: unknown, context?: { source?: string }) => unknown) => unknown;

/** Throws a SyntaxError, or a RangeError if it is too deep. */
export const parseJson = (text: string): unknown =>
  (JSON.parse as Parse)(text, (_, value, context) =>
    typeof value === "number" && context?.source !== undefined ? new Written(context.source) : value,
  );

export function showText(text: string, whole: boolean): Node {
  const box = make("div", { class: "scroll", tabindex: "0" }, make("pre", {}, text));
  return whole ? box : make("div", {}, make("p", { class: "note" }, "The beginning of it; save it to see all."), box);
}

/** A tree that is made as it is opened. */
export function showJson(value: unknown, key?: string, depth = 0): Node {
  const name: (Node | string)[] = key === undefined ? [] : [make("span", { class: "key" }, key), ": "];
  if (value instanceof Written || typeof value !== "object" || value === null) {
    const text = value instanceof Written ? value.source : JSON.stringify(value);
    return make("div", { class: "leaf" }, ...name, text);
  }
  const entries = Object.entries(value);
  const kind = Array.isArray(value) ? `[${entries.length}]` : `{${entries.length}}`;
  if (entries.length === 0) return make("div", { class: "leaf" }, ...name, kind);
  const details = make("details", {}, make("summary", { class: "leaf" }, ...name, kind));
  let filled = false;
  const fill = () => {
    if (filled) return;
    filled = true;
    if (depth >= SHOWN_DEPTH) return details.append("Nested deeper than this page shows; save the file to see it.");
    for (const [inner, item] of entries.slice(0, SHOWN_ENTRIES)) details.append(showJson(item, inner, depth + 1));
    if (entries.length > SHOWN_ENTRIES)
      details.append(make("p", { class: "note" }, `${entries.length - SHOWN_ENTRIES} more are not shown.`));
  };
  details.addEventListener("toggle", fill);
  if (depth === 0) {
    fill();
    details.open = true;
  }
  return details;
}

/** The rows of comma or tab separated values (RFC 4180), at most so many. */
export function parseRows(text: string, separator: string, most: number): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  let at = text.charCodeAt(0) === 0xfeff ? 1 : 0;
  while (at < text.length && rows.length < most) {
    let field = "";
    if (text[at] === '"') {
      let from = at + 1;
      for (;;) {
        const quote = text.indexOf('"', from);
        if (quote < 0) return [...rows, [...row, field + text.slice(from)]];
        field += text.slice(from, quote);
        from = quote + 1;
        if (text[from] !== '"') break;
        field += '"';
        from += 1;
      }
      at = from;
    }
    let end = at;
    while (end < text.length && text[end] !== separator && text[end] !== "\n" && text[end] !== "\r") end += 1;
    row.push(field + text.slice(at, end));
    if (text[end] === separator) {
      at = end + 1;
      if (at < text.length) continue;
      row.push("");
    } else at = text[end] === "\r" && text[end + 1] === "\n" ? end + 2 : end + 1;
    rows.push(row);
    row = [];
  }
  return rows;
}

export function showTable(rows: string[][], whole: boolean): Node {
  const columns = Math.min(SHOWN_COLUMNS, Math.max(0, ...rows.map((row) => row.length)));
  const line = (row: string[], cell: "th" | "td") =>
    make("tr", {}, ...Array.from({ length: columns }, (_, i) => make(cell, cell === "th" ? { scope: "col" } : {}, row[i] ?? "")));
  const [first = [], ...rest] = rows;
  const body = rest.slice(0, SHOWN_ROWS);
  const table = make("table", {}, make("thead", {}, line(first, "th")), make("tbody", {}, ...body.map((row) => line(row, "td"))));
  const cut = !whole || rest.length > body.length || rows.some((row) => row.length > columns);
  const note = cut ? `The first ${body.length} rows and ${columns} columns.` : `${body.length} rows, ${columns} columns.`;
  return make("div", {}, make("p", { class: "note" }, note), make("div", { class: "scroll", tabindex: "0" }, table));
}
