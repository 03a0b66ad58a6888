/** A recording of any length: only what is on screen is fetched, as fine as the screen shows it. */

import type { Kachery } from "../../src/view/api.js";
import { Columns, draw, LEFT } from "./plot.js";
import { type Level, Tiles } from "./tiles.js";

declare const kachery: Kachery;

interface Data {
  readonly recording: string;
  readonly pyramid: string | null;
  /** Samples of an entry, its first entry in the pyramid, its entries; finest first. */
  readonly levels: readonly (readonly [number, number, number])[];
  readonly samples: number;
  readonly channel_count: number;
  /** Bytes of one value. */
  readonly item_size: number;
  readonly sampling_rate: number;
  readonly start_time: number;
  readonly channels: readonly string[];
}

const SHOWN = 32;
const LEAST_SAMPLES = 8;
const byId = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;

class Plot {
  private readonly canvas = byId<HTMLCanvasElement>("plot");
  private readonly samples: number;
  private readonly channels: number;
  private readonly tiles: Tiles;
  private readonly levels: readonly Level[];
  /** What is on screen, in samples. */
  private from = 0;
  private to: number;
  private begin = 0;
  private gain = 1;
  private middles: number[] | null = null;
  private half = 1;
  private due = false;

  constructor(private readonly data: Data) {
    this.samples = this.to = data.samples;
    this.channels = data.channel_count;
    const above = data.levels.map(([factor, start, count]) => ({ factor, uri: data.pyramid!, start, count }));
    this.levels = [{ factor: 1, uri: data.recording, start: 0, count: data.samples }, ...above];
    this.tiles = new Tiles(kachery, data.channel_count, data.item_size, () => this.soon());
    this.listen();
  }

  private get width(): number {
    return Math.max(1, this.canvas.clientWidth - LEFT);
  }

  private listen(): void {
    const select = byId<HTMLSelectElement>("channels");
    for (let first = 0; first < this.channels; first += SHOWN) {
      const option = document.createElement("option");
      option.value = String(first);
      option.textContent = `${first} to ${Math.min(first + SHOWN, this.channels) - 1}`;
      select.append(option);
    }
    select.addEventListener("change", () => {
      this.begin = Number(select.value);
      this.middles = null;
      this.soon();
    });
    document.querySelector("header")!.addEventListener("click", (event) => {
      const work = (event.target as HTMLElement).dataset.do;
      if (work) this.act(work);
    });
    this.canvas.addEventListener("keydown", (event) => {
      const work = { Home: "all", "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", ArrowUp: "higher", ArrowDown: "lower" }[event.key];
      if (!work) return;
      event.preventDefault();
      this.act(work);
    });
    this.canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.pan(((event.deltaX || event.deltaY) / this.width) * (this.to - this.from));
        else this.zoom(Math.exp(Math.max(-100, Math.min(100, event.deltaY)) / 200), event.offsetX);
      },
      { passive: false },
    );
    this.pointers();
    new ResizeObserver(() => this.soon()).observe(this.canvas);
  }

  /** One finger or the mouse moves it, two zoom. */
  private pointers(): void {
    const held = new Map<number, number>();
    const spread = () => {
      const [a = 0, b = 0] = held.values();
      return { middle: (a + b) / 2, width: Math.max(1, Math.abs(a - b)) };
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, event.offsetX);
    });
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, (event) => held.delete((event as PointerEvent).pointerId));
    this.canvas.addEventListener("pointermove", (event) => {
      const before = held.get(event.pointerId);
      if (before === undefined) return;
      const was = spread();
      held.set(event.pointerId, event.offsetX);
      if (held.size === 1) this.pan(((before - event.offsetX) / this.width) * (this.to - this.from));
      else if (held.size === 2) this.zoom(was.width / spread().width, spread().middle);
    });
  }

  private act(work: string): void {
    const step = (this.to - this.from) / 4;
    if (work === "all") this.show(0, this.samples);
    else if (work === "in") this.zoom(0.5);
    else if (work === "out") this.zoom(2);
    else if (work === "left") this.pan(-step);
    else if (work === "right") this.pan(step);
    else this.gain *= work === "higher" ? 1.5 : 1 / 1.5;
    this.soon();
  }

  private zoom(factor: number, x = LEFT + this.width / 2): void {
    const place = Math.min(1, Math.max(0, (x - LEFT) / this.width));
    const fixed = this.from + place * (this.to - this.from);
    const span = Math.min(this.samples, Math.max(LEAST_SAMPLES, (this.to - this.from) * factor));
    this.show(fixed - place * span, fixed + (1 - place) * span);
  }

  private pan(samples: number): void {
    this.show(this.from + samples, this.to + samples);
  }

  private show(from: number, to: number): void {
    const span = Math.min(to - from, this.samples);
    this.from = Math.min(Math.max(0, from), this.samples - span);
    this.to = this.from + span;
    this.soon();
  }

  soon(): void {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.draw();
    });
  }

  private draw(): void {
    const { from, to, width } = this;
    const perPixel = (to - from) / width;
    const shown = Math.min(SHOWN, this.channels - this.begin);
    // As fine as the pixels, and no finer.
    const wanted = this.levels.findLastIndex((level) => level.factor <= Math.max(1, perPixel));
    const columns = new Columns(width, shown);
    let whole = false;
    // Until it is there, something coarser that is.
    for (let i = wanted; i < this.levels.length && !whole; i++) {
      const level = this.levels[i]!;
      const part = i === wanted ? columns : new Columns(width, shown);
      const found = this.tiles.take(level, Math.floor(from / level.factor), Math.ceil(to / level.factor), i === wanted);
      for (const tile of found.tiles) part.add(tile, level.factor, from, perPixel, this.begin, this.channels);
      whole = found.whole;
      if (part === columns) continue;
      for (let at = 0; at < columns.least.length; at++) {
        if (!Number.isNaN(columns.least[at]!)) continue;
        columns.least[at] = part.least[at]!;
        columns.greatest[at] = part.greatest[at]!;
      }
    }
    if (whole && !this.middles) this.fit(columns, shown);
    const { sampling_rate: rate, start_time: start } = this.data;
    const names = Array.from({ length: shown }, (_, i) => this.data.channels[this.begin + i] ?? String(this.begin + i));
    const lanes = { names, middles: this.middles ?? names.map(() => 0), half: this.half / this.gain };
    draw(this.canvas, columns, lanes, start + from / rate, start + to / rate);
    this.say();
  }

  /** Once all is there: the middle of each channel, and a scale that all have in common. */
  private fit(columns: Columns, shown: number): void {
    const spans: number[] = [];
    this.middles = Array.from({ length: shown }, (_, channel) => {
      const column = (values: Float64Array) => values.filter((value, at) => at % shown === channel && Number.isFinite(value));
      const [low, high] = [column(columns.least), column(columns.greatest)];
      const middle = quantile(low.map((value, i) => (value + high[i]!) / 2), 0.5);
      // A spike or two shall not make all else flat.
      spans.push(quantile(low.map((value, i) => Math.max(high[i]! - middle, middle - value)), 0.95));
      return middle;
    });
    this.half = 1.5 * quantile(Float64Array.from(spans), 0.5) || 1;
  }

  private say(): void {
    const { sampling_rate: rate, start_time: start } = this.data;
    const time = (sample: number) => (start + sample / rate).toPrecision(7).replace(/\.?0+$/, "");
    const fetched = `${(this.tiles.fetched / 1e6).toPrecision(2)} MB fetched`;
    const state = this.tiles.failure ? ` · ${this.tiles.failure.message}` : this.tiles.busy ? " · loading …" : "";
    byId("status").textContent = `${time(this.from)} to ${time(this.to)} s · ${fetched}${state}`;
  }
}

/** 0 if there are none. */
function quantile(values: Float64Array, part: number): number {
  const sorted = values.slice().sort();
  return sorted[Math.floor(part * (sorted.length - 1))] ?? 0;
}

function main(): void {
  document.title = kachery.title || "Time series";
  new Plot(kachery.data as Data).soon();
}

main();
