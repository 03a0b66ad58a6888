/** Draws channels one below the other, as what is least and greatest in each column of pixels. */

import type { Tile } from "./tiles.js";

export interface Column {
  /** For each channel that is shown. */
  readonly least: Float64Array;
  readonly greatest: Float64Array;
}

/** By column and channel; NaN where there is nothing. */
export class Columns {
  readonly least: Float64Array;
  readonly greatest: Float64Array;

  constructor(
    readonly width: number,
    readonly shown: number,
  ) {
    this.least = new Float64Array(width * shown).fill(NaN);
    this.greatest = new Float64Array(width * shown).fill(NaN);
  }

  /**
   * Take a tile in. `factor`: samples of its entries; `first` and `perPixel`: of the screen, in samples;
   * `begin`: the first channel that is shown, of `channels`.
   */
  add(tile: Tile, factor: number, first: number, perPixel: number, begin: number, channels: number): void {
    const pairs = factor > 1 ? 2 : 1;
    const { values } = tile;
    for (let entry = 0; entry < tile.entries; entry++) {
      const sample = (tile.first + entry) * factor;
      const from = Math.max(0, Math.floor((sample - first) / perPixel));
      // One entry may be wider than a column of pixels: a coarse level stands in for a finer one.
      const to = Math.min(this.width - 1, Math.max(from, Math.ceil((sample + factor - first) / perPixel) - 1));
      if (sample + factor <= first || from >= this.width) continue;
      const row = entry * pairs * channels + begin;
      for (let channel = 0; channel < this.shown; channel++) {
        const low = Number(values[row + channel]);
        const high = Number(values[row + (pairs - 1) * channels + channel]);
        for (let column = from; column <= to; column++) {
          const at = column * this.shown + channel;
          if (!(this.least[at]! <= low)) this.least[at] = low;
          if (!(this.greatest[at]! >= high)) this.greatest[at] = high;
        }
      }
    }
  }
}

export interface Lanes {
  readonly names: readonly string[];
  /** The middle of each channel that is shown, and how many units half a lane is. */
  readonly middles: readonly number[];
  readonly half: number;
}

export const LEFT = 64;
export const BOTTOM = 24;

export function draw(canvas: HTMLCanvasElement, columns: Columns, lanes: Lanes, from: number, to: number): void {
  const scale = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d")!;
  const style = getComputedStyle(canvas);
  pen.scale(scale, scale);
  pen.font = "11px system-ui, sans-serif";
  pen.fillStyle = style.color;
  const lane = (height - BOTTOM) / lanes.names.length;
  lanes.names.forEach((name, channel) => {
    const middle = lane * (channel + 0.5);
    if (lane >= 10 || channel % Math.ceil(10 / lane) === 0) pen.fillText(name.slice(0, 10), 4, middle + 4);
  });
  pen.save();
  pen.beginPath();
  pen.rect(LEFT, 0, width - LEFT, height - BOTTOM);
  pen.clip();
  pen.strokeStyle = getComputedStyle(document.querySelector("button")!).borderTopColor;
  pen.lineWidth = 1;
  for (let channel = 0; channel < columns.shown; channel++) {
    const middle = lane * (channel + 0.5);
    const y = (value: number) => middle - ((value - lanes.middles[channel]!) / lanes.half) * (lane / 2);
    pen.beginPath();
    let pending = false;
    for (let column = 0; column < columns.width; column++) {
      const at = column * columns.shown + channel;
      const [least, greatest] = [columns.least[at]!, columns.greatest[at]!];
      if (Number.isNaN(least)) continue;
      const x = LEFT + column + 0.5;
      if (pending) pen.lineTo(x, y(greatest));
      else pen.moveTo(x, y(greatest));
      pen.lineTo(x, y(least) + (least === greatest ? 0.5 : 0));
      pending = true;
    }
    pen.stroke();
  }
  pen.restore();
  axis(pen, width, height, from, to);
}

function axis(pen: CanvasRenderingContext2D, width: number, height: number, from: number, to: number): void {
  const span = to - from;
  const most = Math.max(2, Math.floor((width - LEFT) / 110));
  const rough = span / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((each) => each >= rough) ?? rough;
  const digits = Math.max(0, Math.min(9, -Math.floor(Math.log10(step) + 1e-9)));
  for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
    const x = LEFT + ((time - from) / span) * (width - LEFT);
    pen.fillRect(x, height - BOTTOM, 1, 4);
    pen.fillText(`${time.toFixed(digits)} s`, x + 3, height - 8);
  }
}
