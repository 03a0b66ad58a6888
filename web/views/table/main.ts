/** Rows as a table and as points; what is chosen in one is chosen in the other, and can be sent. */

import type { Kachery } from "../../src/view/api.js";
import { Points } from "./points.js";
import { numberColumns, numberOf, readRows, type Rows } from "./rows.js";

declare const kachery: Kachery;

interface Data {
  readonly rows: string;
  readonly x: string | null;
  readonly y: string | null;
  readonly key: string | null;
  readonly labels: readonly string[];
  readonly curation: string | null;
}

const ROW = 28;
const byId = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;

function make<K extends keyof HTMLElementTagNameMap>(name: K, attributes: Record<string, string>, ...children: (Node | string)[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

class Table {
  private readonly chosen = new Set<number>();
  private readonly points = new Points(byId("points"), (row) => this.chosen.has(row), (rows, add) => this.choose(rows, add));
  private readonly body = make("tbody", {});
  private readonly top = make("div", {});
  private readonly bottom = make("div", {});
  private readonly box = byId("rows");
  /** Rows in the order in which they are shown. */
  private order: number[];
  private sorted = { column: -1, down: false };
  private last = 0;

  constructor(
    private readonly rows: Rows,
    private readonly data: Data,
  ) {
    this.order = rows.cells.map((_, i) => i);
    const heads = rows.columns.map((name, i) => {
      const head = make("th", { scope: "col", tabindex: "0" }, name);
      head.addEventListener("click", () => this.sort(i));
      head.addEventListener("keydown", (event) => event.key === "Enter" && this.sort(i));
      return head;
    });
    const table = make("table", { "aria-multiselectable": "true" }, make("thead", {}, make("tr", {}, ...heads)), this.body);
    this.box.append(this.top, table, this.bottom);
    this.box.addEventListener("scroll", () => this.fill());
    new ResizeObserver(() => this.fill()).observe(this.box);
    this.axes();
    byId("none").addEventListener("click", () => this.choose([], false));
    for (const label of data.labels) {
      const button = make("button", { type: "button" }, `Save as ${label}`);
      button.addEventListener("click", () => void this.save(label));
      byId("labels").append(button);
    }
    this.choose([], false);
  }

  private axes(): void {
    const numbers = numberColumns(this.rows);
    (["x", "y"] as const).forEach((axis, i) => {
      const select = byId<HTMLSelectElement>(axis);
      for (const column of numbers) select.append(make("option", { value: String(column) }, this.rows.columns[column] ?? ""));
      const wanted = this.data[axis] === null ? numbers[i] : this.rows.columns.indexOf(this.data[axis]!);
      select.value = String(wanted ?? numbers[0] ?? "");
      select.addEventListener("change", () => this.plot());
    });
    this.plot();
  }

  private plot(): void {
    const [xs, ys] = (["x", "y"] as const).map((axis) => {
      const { value } = byId<HTMLSelectElement>(axis);
      return this.rows.cells.map((row) => (value === "" ? NaN : numberOf(row[Number(value)])));
    });
    this.points.show(xs!, ys!);
  }

  private sort(column: number): void {
    const down = this.sorted.column === column && !this.sorted.down;
    this.sorted = { column, down };
    const { cells } = this.rows;
    const compare = (a: number, b: number): number => {
      const [left, right] = [cells[a]![column] ?? "", cells[b]![column] ?? ""];
      const step = numberOf(left) - numberOf(right);
      return (Number.isNaN(step) ? left.localeCompare(right) : step) * (down ? -1 : 1) || a - b;
    };
    this.order.sort(compare);
    this.fill();
  }

  /** Only the rows on screen are there. */
  private fill(): void {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 10);
    const last = Math.min(this.order.length, first + Math.ceil(this.box.clientHeight / ROW) + 20);
    this.top.style.height = `${first * ROW}px`;
    this.bottom.style.height = `${(this.order.length - last) * ROW}px`;
    this.body.replaceChildren(
      ...this.order.slice(first, last).map((row, i) => {
        const cells = this.rows.columns.map((_, column) => make("td", {}, this.rows.cells[row]![column] ?? ""));
        const line = make("tr", { "aria-selected": String(this.chosen.has(row)) }, ...cells);
        line.addEventListener("click", (event) => this.click(first + i, event));
        return line;
      }),
    );
  }

  private click(place: number, event: MouseEvent): void {
    const [from, to] = event.shiftKey ? [Math.min(place, this.last), Math.max(place, this.last)] : [place, place];
    this.last = place;
    const rows = this.order.slice(from, to + 1);
    if (rows.length === 1 && this.chosen.delete(rows[0]!)) return this.choose([], true);
    this.choose(rows, true);
  }

  private choose(rows: readonly number[], add: boolean): void {
    if (!add) this.chosen.clear();
    for (const row of rows) this.chosen.add(row);
    byId("chosen").textContent = `${this.chosen.size} of ${this.rows.cells.length} rows chosen`;
    for (const button of byId("labels").querySelectorAll("button")) button.disabled = this.chosen.size === 0 || this.data.curation === null;
    this.fill();
    this.points.draw();
  }

  private async save(label: string): Promise<void> {
    const column = this.data.key === null ? -1 : this.rows.columns.indexOf(this.data.key);
    const rows = [...this.chosen].sort((a, b) => a - b).map((row) => (column < 0 ? row : (this.rows.cells[row]![column] ?? "")));
    byId("said").textContent = "Saving …";
    try {
      const number = await kachery.feed(this.data.curation!).append({ label, rows });
      byId("said").textContent = `Saved: ${rows.length} rows are ${label} (message ${number}).`;
    } catch (error) {
      byId("said").textContent = `Not saved. ${(error as Error).message}`;
    }
  }
}

async function main(): Promise<void> {
  const data = kachery.data as Data;
  document.title = kachery.title || "Table";
  try {
    const [{ name }, text] = await Promise.all([kachery.info(data.rows), kachery.text(data.rows)]);
    new Table(readRows(name, text), data);
  } catch (error) {
    byId("chosen").textContent = (error as Error).message;
  }
}

void main();
