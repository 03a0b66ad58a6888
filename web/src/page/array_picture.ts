/** An array as a picture: lines for one axis or a few columns, a heat map for two axes. Values stream by. */

import { make } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const BINS = 500;
const MOST_LINES = 8;
const CELLS = 256;

export interface Picture {
  /** Values in the order of the file. */
  add(value: number): void;
  element(): HTMLElement;
}

/** Null where there is nothing to draw: a single value, or more than two axes. `values`: how many come. */
export function pictureOf(shape: readonly number[], fortran: boolean, values: number): Picture | null {
  const [rows = 0, columns = 1, ...more] = shape;
  if (more.length > 0 || rows < 2 || columns < 1 || values < 2) return null;
  if (columns <= MOST_LINES && (!fortran || columns === 1)) return new Lines(Math.ceil(values / columns), columns);
  return fortran ? new HeatMap(columns, rows, values, true) : new HeatMap(rows, columns, values, false);
}

/** The least and greatest of each bin, one line for each column. */
class Lines implements Picture {
  private readonly least: number[][];
  private readonly greatest: number[][];
  private index = 0;

  constructor(
    private readonly rows: number,
    private readonly columns: number,
  ) {
    const bins = Math.min(BINS, rows);
    this.least = Array.from({ length: columns }, () => new Array<number>(bins).fill(Infinity));
    this.greatest = Array.from({ length: columns }, () => new Array<number>(bins).fill(-Infinity));
  }

  add(value: number): void {
    const [least, greatest] = [this.least[this.index % this.columns]!, this.greatest[this.index % this.columns]!];
    const bin = Math.floor((Math.floor(this.index++ / this.columns) * least.length) / this.rows);
    if (value < least[bin]!) least[bin] = value;
    if (value > greatest[bin]!) greatest[bin] = value;
  }

  element(): HTMLElement {
    const finite = [...this.least.flat(), ...this.greatest.flat()].filter(Number.isFinite);
    const [low, high] = [Math.min(...finite), Math.max(...finite)];
    const box = document.createElementNS(SVG, "svg");
    box.setAttribute("viewBox", "0 0 1000 100");
    box.setAttribute("preserveAspectRatio", "none");
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", `Values along the first axis, from ${low} to ${high}`);
    this.least.forEach((least, column) => {
      const line = document.createElementNS(SVG, "polyline");
      const points = least.flatMap((value, bin) => {
        if (!Number.isFinite(value)) return [];
        const x = (1000 * bin) / Math.max(1, least.length - 1);
        return [this.greatest[column]![bin]!, value].map((each) => `${x.toFixed(1)},${(95 - (90 * (each - low)) / (high - low || 1)).toFixed(2)}`);
      });
      line.setAttribute("points", points.join(" "));
      line.setAttribute("opacity", String(1 - column / (this.columns + 2)));
      box.append(line);
    });
    return make("div", {}, make("p", { class: "note" }, `Along the first axis, from ${brief(low)} to ${brief(high)}:`), box);
  }
}

/** The mean of each cell. `turned`: what comes first are the columns of the array. */
class HeatMap implements Picture {
  private readonly sums: Float64Array;
  private readonly counts: Uint32Array;
  private readonly height: number;
  private readonly width: number;
  private index = 0;

  constructor(
    private readonly slow: number,
    private readonly fast: number,
    private readonly values: number,
    private readonly turned: boolean,
  ) {
    this.height = Math.min(CELLS, slow);
    this.width = Math.min(CELLS, fast);
    this.sums = new Float64Array(this.height * this.width);
    this.counts = new Uint32Array(this.height * this.width);
  }

  add(value: number): void {
    const at = this.index++;
    const row = Math.floor((Math.floor(at / this.fast) * this.height) / this.slow);
    const column = Math.floor(((at % this.fast) * this.width) / this.fast);
    if (!Number.isFinite(value)) return;
    this.sums[row * this.width + column]! += value;
    this.counts[row * this.width + column]! += 1;
  }

  element(): HTMLElement {
    const means = Array.from(this.sums, (sum, i) => sum / this.counts[i]!);
    const finite = means.filter(Number.isFinite);
    const low = finite.reduce((a, b) => Math.min(a, b), Infinity);
    const high = finite.reduce((a, b) => Math.max(a, b), -Infinity);
    const [width, height] = this.turned ? [this.height, this.width] : [this.width, this.height];
    const canvas = make("canvas", { class: "heat", width: String(width), height: String(height), role: "img", "aria-label": `A heat map of means from ${low} to ${high}` });
    const pen = canvas.getContext("2d")!;
    const image = pen.createImageData(width, height);
    means.forEach((mean, i) => {
      const [row, column] = [Math.floor(i / this.width), i % this.width];
      const at = 4 * (this.turned ? column * width + row : i);
      if (Number.isFinite(mean)) image.data.set([...colour((mean - low) / (high - low || 1)), 255], at);
    });
    pen.putImageData(image, 0, 0);
    const cut = this.values < this.slow * this.fast ? ", as far as it was read" : "";
    const cells = this.slow > CELLS || this.fast > CELLS ? "; each cell is the mean of several values" : "";
    return make("div", {}, make("p", { class: "note" }, `Rows from top to bottom, from ${brief(low)} (dark) to ${brief(high)} (light)${cells}${cut}:`), canvas);
  }
}

const brief = (value: number): string => String(Number(value.toPrecision(5)));

/** Dark blue over green to yellow: its lightness grows evenly, so it also reads without colours. */
const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]] as const;

function colour(part: number): [number, number, number] {
  const place = Math.min(0.9999, Math.max(0, part)) * (STOPS.length - 1);
  const [from, to] = [STOPS[Math.floor(place)]!, STOPS[Math.floor(place) + 1]!];
  const share = place - Math.floor(place);
  return [0, 1, 2].map((i) => from[i]! + (to[i]! - from[i]!) * share) as [number, number, number];
}
