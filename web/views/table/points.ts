/** Points on a canvas, of which some are chosen by dragging over them. */

const MARGIN = 36;

export class Points {
  private xs: readonly number[] = [];
  private ys: readonly number[] = [];
  private bounds = { left: 0, right: 1, bottom: 0, top: 1 };
  private drag: { x: number; y: number; toX: number; toY: number } | null = null;

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly isChosen: (row: number) => boolean,
    private readonly choose: (rows: number[], add: boolean) => void,
  ) {
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.drag = { x: event.offsetX, y: event.offsetY, toX: event.offsetX, toY: event.offsetY };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.drag) return;
      Object.assign(this.drag, { toX: event.offsetX, toY: event.offsetY });
      this.draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      const found = this.within();
      this.drag = null;
      this.choose(found, event.shiftKey);
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(xs: readonly number[], ys: readonly number[]): void {
    this.xs = xs;
    this.ys = ys;
    const [left, right] = range(xs);
    const [bottom, top] = range(ys);
    this.bounds = { left, right, bottom, top };
    this.draw();
  }

  private at(row: number): [number, number] {
    const { left, right, bottom, top } = this.bounds;
    const width = this.canvas.clientWidth - 2 * MARGIN;
    const height = this.canvas.clientHeight - 2 * MARGIN;
    const x = MARGIN + (width * (this.xs[row]! - left)) / (right - left);
    return [x, MARGIN + height - (height * (this.ys[row]! - bottom)) / (top - bottom)];
  }

  /** Rows in the rectangle; a click takes what is near. */
  private within(): number[] {
    if (!this.drag) return [];
    const { x, y, toX, toY } = this.drag;
    const near = 5;
    const [left, right] = [Math.min(x, toX) - near, Math.max(x, toX) + near];
    const [top, bottom] = [Math.min(y, toY) - near, Math.max(y, toY) + near];
    return this.xs.map((_, row) => row).filter((row) => {
      const [px, py] = this.at(row);
      return px >= left && px <= right && py >= top && py <= bottom;
    });
  }

  draw(): void {
    const { canvas } = this;
    const scale = devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const pen = canvas.getContext("2d")!;
    const style = getComputedStyle(canvas);
    const accent = style.getPropertyValue("--accent") ? getComputedStyle(document.querySelector("button")!).borderColor : style.color;
    pen.scale(scale, scale);
    pen.fillStyle = style.color;
    pen.font = "11px system-ui, sans-serif";
    const { left, right, bottom, top } = this.bounds;
    pen.fillText(brief(left), MARGIN, canvas.clientHeight - 12);
    pen.fillText(brief(right), canvas.clientWidth - 2 * MARGIN, canvas.clientHeight - 12);
    pen.fillText(brief(top), 4, MARGIN);
    pen.fillText(brief(bottom), 4, canvas.clientHeight - MARGIN);
    // The chosen ones on top.
    for (const chosen of [false, true]) {
      pen.fillStyle = chosen ? accent : style.color;
      pen.globalAlpha = chosen ? 1 : 0.35;
      for (let row = 0; row < this.xs.length; row++) {
        if (this.isChosen(row) !== chosen || Number.isNaN(this.xs[row]! + this.ys[row]!)) continue;
        const [x, y] = this.at(row);
        pen.beginPath();
        pen.arc(x, y, chosen ? 4 : 3, 0, 7);
        pen.fill();
      }
    }
    if (!this.drag) return;
    pen.strokeStyle = accent;
    const { x, y, toX, toY } = this.drag;
    pen.strokeRect(x, y, toX - x, toY - y);
  }
}

function range(values: readonly number[]): [number, number] {
  let [least, greatest] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < least) least = value;
    if (value > greatest) greatest = value;
  }
  if (!Number.isFinite(least)) return [0, 1];
  return greatest > least ? [least, greatest] : [least - 1, greatest + 1];
}

const brief = (value: number): string => String(Number(value.toPrecision(4)));
