/** Rows from CSV, TSV or JSON, and which columns are numbers. */

import { parseRows } from "../../src/page/text.js";

export interface Rows {
  readonly columns: readonly string[];
  readonly cells: readonly (readonly string[])[];
}

const MOST = 200_000;

/** Throws an Error that says what the content is not. */
export function readRows(name: string, text: string): Rows {
  const kind = name.split(".").pop()?.toLowerCase();
  if (kind === "json") return fromJson(JSON.parse(text));
  const [first = [], ...rest] = parseRows(text, kind === "tsv" ? "\t" : ",", MOST + 1);
  return { columns: first, cells: rest.filter((row) => row.length > 1 || row[0] !== "") };
}

function fromJson(value: unknown): Rows {
  if (!Array.isArray(value) || value.some((row) => typeof row !== "object" || row === null)) throw new Error("The rows are no list of objects.");
  const rows = value.slice(0, MOST) as Record<string, unknown>[];
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  return { columns, cells: rows.map((row) => columns.map((column) => shown(row[column]))) };
}

const shown = (value: unknown): string => (value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value));

/** NaN for what is none. */
export const numberOf = (cell: string | undefined): number => (cell === undefined || cell.trim() === "" ? NaN : Number(cell));

export function numberColumns({ columns, cells }: Rows): number[] {
  const some = cells.slice(0, 200);
  return columns.map((_, i) => i).filter((i) => some.some((row) => row[i] !== "") && some.every((row) => !row[i] || !Number.isNaN(numberOf(row[i]))));
}
