/** From the files of a view to a document: what they name of one another becomes URLs of the frame's own. */

const TYPES: Readonly<Record<string, string>> = {
  html: "text/html", css: "text/css", js: "text/javascript", mjs: "text/javascript", json: "application/json",
  svg: "image/svg+xml", png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", gif: "image/gif",
  webp: "image/webp", avif: "image/avif", woff: "font/woff", woff2: "font/woff2", ttf: "font/ttf",
  wasm: "application/wasm", mp3: "audio/mpeg", ogg: "audio/ogg", mp4: "video/mp4", webm: "video/webm",
};

const typeOf = (path: string): string => TYPES[path.slice(path.lastIndexOf(".") + 1).toLowerCase()] ?? "application/octet-stream";

/** The path in the view that `reference` in the file `from` means; null if it leads elsewhere. */
export function resolve(from: string, reference: string): string | null {
  const plain = reference.trim().replace(/[?#].*$/s, "");
  if (!plain || /^[a-z][a-z0-9+.-]*:/i.test(plain) || plain.startsWith("//")) return null;
  const parts = plain.startsWith("/") ? [] : from.split("/").slice(0, -1);
  for (const part of plain.split("/")) {
    if (part === "..") parts.pop();
    else if (part && part !== ".") parts.push(part);
  }
  try {
    return decodeURIComponent(parts.join("/"));
  } catch {
    return null;
  }
}

export class Assets {
  private readonly urls = new Map<string, string>();

  constructor(private readonly files: ReadonlyMap<string, Uint8Array>) {}

  bytes(path: string): Uint8Array {
    const found = this.files.get(path);
    if (!found) throw new Error(`The view has no file ${JSON.stringify(path)}.`);
    return found;
  }

  /** A URL for it. Style sheets name others, so they are made when they are asked for. */
  url(path: string): string {
    let url = this.urls.get(path);
    if (url) return url;
    const type = typeOf(path);
    let content: BlobPart = this.bytes(path) as Uint8Array<ArrayBuffer>;
    this.urls.set(path, CIRCLE);
    if (type === "text/css") content = this.styles(path, this.text(path));
    else if (type === "text/javascript") content = this.script(path, this.text(path));
    url = blobUrl(content, type);
    this.urls.set(path, url);
    return url;
  }

  /** What the document `index.html` becomes. */
  document(): string {
    const page = new DOMParser().parseFromString(this.text(INDEX), "text/html");
    for (const base of page.querySelectorAll("base")) base.remove();
    for (const name of ["src", "href", "poster", "data"]) {
      for (const element of page.querySelectorAll(`[${name}]`)) {
        if (element.localName === "a") continue;
        const path = resolve(INDEX, element.getAttribute(name)!);
        if (path !== null && this.files.has(path)) element.setAttribute(name, this.url(path));
      }
    }
    for (const style of page.querySelectorAll("style")) style.textContent = this.styles(INDEX, style.textContent ?? "");
    // The policy of the frame has no inline scripts: they would run in frames inside it, too.
    for (const script of page.querySelectorAll("script:not([src])")) {
      if (!["", "module", "text/javascript"].includes(script.getAttribute("type") ?? "")) continue;
      script.setAttribute("src", blobUrl(this.script(INDEX, script.textContent ?? ""), "text/javascript"));
      script.textContent = "";
    }
    return `<!doctype html>${page.documentElement.outerHTML}`;
  }

  private text(path: string): string {
    return new TextDecoder().decode(this.bytes(path));
  }

  private styles(from: string, text: string): string {
    const put = (whole: string, quote: string, reference: string): string => {
      const path = resolve(from, reference);
      return path !== null && this.files.has(path) ? whole.replace(quote + reference + quote, `"${this.url(path)}"`) : whole;
    };
    return text.replace(/url\(\s*(["']?)([^"')]+)\1\s*\)/g, put).replace(/@import\s+(["'])([^"']+)\1/g, put);
  }

  /** Blob URLs are no base for `./other.js`: each is replaced, those that a module imports before itself. */
  private script(from: string, text: string): string {
    return text.replace(/(\bfrom\s*|\bimport\s*\(?\s*)(["'])(\.{0,2}\/[^"'\n]+)\2/g, (whole, before: string, quote: string, reference: string) => {
      const path = resolve(from, reference);
      if (path === null || !this.files.has(path)) return whole;
      const url = this.url(path);
      if (url === CIRCLE) throw new Error(`The modules ${from} and ${path} import one another; bundle them into one file.`);
      return before + quote + url + quote;
    });
  }
}

const INDEX = "index.html";
/** Of what is being made: two style sheets may name one another, and one of them gets nothing then. */
const CIRCLE = "data:,";

const blobUrl = (content: BlobPart, type: string): string => URL.createObjectURL(new Blob([content], { type }));
