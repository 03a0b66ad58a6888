/** A subfeed on the page: the newest messages on top, and the numbers in them as lines that grow. */

import type { Message } from "../feed.js";
import { SHOWN_MESSAGE, SHOWN_MESSAGES } from "../limits.js";
import { make } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const MOST_LINES = 4;

export class FeedView {
  private readonly list = make("ol", { class: "messages", "aria-label": "Messages, the newest first" });
  private readonly plots = make("div", {});
  private readonly series = new Map<string, number[]>();
  private readonly lines = new Map<string, { box: Element; line: Element; name: Text }>();
  readonly element = make("div", {}, this.plots, this.list);
  count = 0;

  add(messages: readonly Message[]): void {
    for (const message of messages) {
      this.count = message.number + 1;
      this.list.prepend(item(message));
      this.gather(message.text);
    }
    while (this.list.childElementCount > SHOWN_MESSAGES) this.list.lastElementChild!.remove();
    for (const [name, values] of this.series) if (values.length > 1) this.draw(name, values);
  }

  private gather(text: string): void {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      return;
    }
    const named: [string, unknown][] = typeof value === "number" ? [["value", value]] : isObject(value) ? Object.entries(value) : [];
    for (const [name, number] of named) {
      if (typeof number !== "number" || !Number.isFinite(number)) continue;
      const values = this.series.get(name) ?? [];
      if (values.length === 0 && this.series.size >= MOST_LINES) continue;
      values.push(number);
      if (values.length > SHOWN_MESSAGES) values.shift();
      this.series.set(name, values);
    }
  }

  private draw(name: string, values: readonly number[]): void {
    let drawn = this.lines.get(name);
    if (!drawn) {
      const box = document.createElementNS(SVG, "svg");
      box.setAttribute("viewBox", "0 0 1000 100");
      box.setAttribute("preserveAspectRatio", "none");
      box.setAttribute("role", "img");
      const line = document.createElementNS(SVG, "polyline");
      box.append(line);
      const label = document.createTextNode("");
      this.plots.append(make("p", { class: "note" }, label), box);
      this.lines.set(name, (drawn = { box, line, name: label }));
    }
    const least = Math.min(...values);
    const greatest = Math.max(...values);
    const height = greatest - least || 1;
    const points = values.map((value, i) => `${(1000 * i) / (values.length - 1)},${(95 - (90 * (value - least)) / height).toFixed(2)}`);
    drawn.line.setAttribute("points", points.join(" "));
    drawn.name.data = `${name.slice(0, 100)}: ${least} to ${greatest}, now ${values[values.length - 1]}`;
    drawn.box.setAttribute("aria-label", drawn.name.data);
  }
}

function item({ timestamp, text, author }: Message): Node {
  const at = new Date(timestamp);
  const valid = !Number.isNaN(at.getTime());
  const time = make("time", valid ? { datetime: at.toISOString() } : {}, valid ? at.toLocaleString() : "?");
  const cut = text.length > SHOWN_MESSAGE ? `${text.slice(0, SHOWN_MESSAGE)}…` : text;
  const by = author ? ` (from node ${author.slice(0, 8)})` : "";
  return make("li", {}, time, make("span", { class: "leaf" }, cut), make("span", { class: "note" }, by));
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
