/** Shows a file by what is in it. */

import type { Bytes } from "../bytes.js";
import type { Piece } from "../file.js";
import { asKacheryError } from "../errors.js";
import { MAX_NPY_HEADER, PLAYED_WHOLE, SHOWN_ARRAY, SHOWN_IMAGE, SHOWN_JSON, SHOWN_ROWS, SHOWN_TEXT } from "../limits.js";
import { bytesText, make } from "./dom.js";
import { type Picture, pictureOf } from "./array_picture.js";
import { lend } from "./media.js";
import { itemSize, parseHeader, Statistics } from "./npy.js";
import { parseJson, parseRows, showJson, showTable, showText } from "./text.js";

const IMAGES: Readonly<Record<string, string>> = {
  png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", gif: "image/gif", webp: "image/webp",
  avif: "image/avif", bmp: "image/bmp", svg: "image/svg+xml",
};

const SOUND: Readonly<Record<string, string>> = {
  wav: "audio/wav", mp3: "audio/mpeg", ogg: "audio/ogg", flac: "audio/flac", m4a: "audio/mp4",
};
const FILMS: Readonly<Record<string, string>> = { mp4: "video/mp4", webm: "video/webm", mov: "video/quicktime" };

type Tell = (text: string, error?: boolean) => void;

export const extension = (name: string): string => /\.([A-Za-z0-9]{1,8})$/.exec(name)?.[1]?.toLowerCase() ?? "";

/** As much of a file as is needed to show and save it. */
export interface Showable {
  readonly name: string;
  readonly size: number;
  bytes(start?: number, stop?: number): Promise<Bytes>;
  read(start?: number, stop?: number): AsyncGenerator<Piece, void, undefined>;
  /** What a sink is given is its own. */
  pour(sink: (bytes: Bytes) => void | Promise<void>, tell: (done: number) => void): Promise<void>;
}

/** What is on the page already. */
export class BytesFile implements Showable {
  constructor(
    readonly name: string,
    private readonly data: Bytes,
  ) {}

  get size(): number {
    return this.data.length;
  }

  async bytes(start = 0, stop = this.size): Promise<Bytes> {
    return this.data.slice(start, stop);
  }

  async *read(start = 0, stop = this.size): AsyncGenerator<Piece, void, undefined> {
    yield { offset: start, bytes: this.data.slice(start, stop) };
  }

  async pour(sink: (bytes: Bytes) => void | Promise<void>, tell: (done: number) => void): Promise<void> {
    await sink(this.data.slice());
    tell(this.size);
  }
}

/** What to put on the page. `tell` hears how far it is; `over`: it is not needed any more. */
export async function show(file: Showable, tell: Tell, over: AbortSignal): Promise<Node> {
  if (file.size === 0) return make("p", { class: "note" }, "The file is empty.");
  const kind = extension(file.name);
  const image = IMAGES[kind];
  if (image && file.size <= SHOWN_IMAGE) return showImage(await file.bytes(), image, file.name);
  for (const [element, types] of [["audio", SOUND], ["video", FILMS]] as const) {
    const type = types[kind];
    if (type) return showMedia(element, file, type, tell, over);
  }
  const head = await file.bytes(0, Math.min(file.size, MAX_NPY_HEADER + 12));
  if (head[0] === 0x93 && head[1] === 0x4e) return showArray(file, head, tell, over);
  if (kind === "pdf" && startsWith(head, "%PDF-") && file.size <= SHOWN_IMAGE) return showPdf(await file.bytes(), file.name);
  if (isBinary(head)) return make("p", { class: "note" }, "This page has no view for what is in it. You can save it.");
  if ((kind === "json" || (kind === "" && /^\s*[[{]/.test(decode(head)))) && file.size <= SHOWN_JSON)
    return showParsed(decode(await file.bytes()));
  const whole = file.size <= SHOWN_TEXT;
  const text = decode(await file.bytes(0, Math.min(file.size, SHOWN_TEXT)), whole);
  if (kind === "csv" || kind === "tsv") {
    // A line that was cut off at the end is not shown.
    const lines = whole ? text : text.slice(0, text.lastIndexOf("\n") + 1);
    return showTable(parseRows(lines, kind === "csv" ? separatorOf(lines) : "\t", SHOWN_ROWS + 2), whole);
  }
  return showText(text, whole);
}

function showParsed(text: string): Node {
  try {
    return showJson(parseJson(text));
  } catch (error) {
    const reason = error instanceof RangeError ? "it is nested too deeply" : "it is no valid JSON";
    return make("div", {}, make("p", { class: "note" }, `Shown as text: ${reason}.`), showText(text.slice(0, SHOWN_TEXT), text.length <= SHOWN_TEXT));
  }
}

function showImage(bytes: Bytes, type: string, name: string): Node {
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  const image = make("img", { alt: name, src: url });
  const broken = make("p", { class: "note", hidden: "" }, "The browser cannot show this image. You can save it.");
  image.addEventListener("load", () => URL.revokeObjectURL(url));
  image.addEventListener("error", () => {
    image.hidden = true;
    broken.hidden = false;
  });
  return make("div", {}, image, broken);
}

async function showMedia(element: "audio" | "video", file: Showable, type: string, tell: Tell, over: AbortSignal): Promise<Node> {
  const broken = make("p", { class: "note", hidden: "" }, "The browser cannot play this. You can save it.");
  const failed = (error: unknown) => {
    tell(asKacheryError(error).message, true);
    broken.textContent = "A part of it could not be fetched. Load the page again to go on.";
  };
  const lent = file.size > PLAYED_WHOLE ? await lend(file, type, over, failed) : null;
  if (!lent && file.size > SHOWN_IMAGE) return make("p", { class: "note" }, "This window cannot play what is so long. You can save it, or open the link in a normal window.");
  // The browser reads from it for as long as it is on the page.
  const player = make(element, { controls: "", controlslist: "nodownload", preload: "metadata", src: lent ?? URL.createObjectURL(new Blob([await file.bytes()], { type })) });
  player.addEventListener("error", () => (broken.hidden = false));
  return make("div", {}, player, broken);
}

/**
 * In the browser's own viewer, which has a process of its own; no browser starts that in a sandboxed frame. It
 * is a PDF by the type that this page gives it, whatever is in it, so no script in it is one of this page's.
 */
function showPdf(bytes: Bytes, name: string): Node {
  // Firefox puts its viewer, which is made of scripts, under this page's own policy, where it cannot start.
  if (!navigator.pdfViewerEnabled || /firefox\//i.test(navigator.userAgent)) return make("p", { class: "note" }, "A PDF. This browser shows none inside pages; save it to read it.");
  return make("iframe", { class: "pdf", title: name, src: URL.createObjectURL(new Blob([bytes], { type: "application/pdf" })) });
}

async function showArray(file: Showable, head: Bytes, tell: Tell, over: AbortSignal): Promise<Node> {
  const header = parseHeader(head);
  const values = header.shape.reduce((product, n) => product * n, 1);
  const facts: [string, string][] = [
    ["shape", `(${header.shape.join(", ")})`],
    ["dtype", header.dtype],
    ["order", header.fortran ? "Fortran" : "C"],
    ["values", String(values)],
  ];
  const stop = Math.min(file.size, header.offset + SHOWN_ARRAY);
  let picture: Picture | null = null;
  const statistics = Statistics.of(header.dtype, (value) => picture?.add(value));
  const notes: Node[] = [];
  if (statistics) {
    picture = pictureOf(header.shape, header.fortran, Math.floor((stop - header.offset) / itemSize(header.dtype)));
    let told = -Infinity;
    for await (const { offset, bytes } of file.read(header.offset, stop)) {
      if (over.aborted) break;
      statistics.add(bytes);
      if (performance.now() - told < 150) continue;
      told = performance.now();
      tell(`Computing statistics: ${bytesText(offset + bytes.length)} of ${bytesText(stop)}`);
    }
    const number = (value: number) => (Number.isInteger(value) ? String(value) : value.toPrecision(8).replace(/\.?0+($|e)/, "$1"));
    facts.push(
      ["min", number(statistics.least)],
      ["max", number(statistics.greatest)],
      ["mean", number(statistics.mean)],
      ["standard deviation", number(statistics.deviation)],
    );
    if (statistics.nan) facts.push(["not a number", String(statistics.nan)]);
    if (stop < file.size)
      notes.push(make("p", { class: "note" }, `Statistics are of the first ${bytesText(SHOWN_ARRAY)}.`));
    if (picture && statistics.count) notes.push(picture.element());
    notes.push(make("p", { class: "note" }, "First values:"), make("pre", {}, statistics.first.map(number).join(", ")));
  }
  const rows = facts.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)));
  return make("div", {}, make("table", {}, make("tbody", {}, ...rows)), ...notes);
}

/** `whole` false: a letter may be cut off at the end. */
const decode = (bytes: Bytes, whole = true): string => new TextDecoder().decode(bytes, { stream: !whole });

const startsWith = (head: Bytes, letters: string): boolean => decode(head.subarray(0, letters.length)) === letters;

/** As most programs tell: text has no zero byte. */
const isBinary = (head: Bytes): boolean => head.subarray(0, 8_192).includes(0);

/** Some programs write semicolons where commas stand in numbers. */
function separatorOf(text: string): string {
  const line = text.slice(0, text.indexOf("\n") + 1 || undefined);
  return !line.includes(",") && line.includes(";") ? ";" : ",";
}
