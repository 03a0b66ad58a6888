// Builds the page into a folder: node build.mjs FOLDER, or the programs of the tests with --tests.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = new URL(".", import.meta.url).pathname;
const [folder, ...flags] = process.argv.slice(2);
if (!folder) throw new Error("usage: node build.mjs FOLDER [--tests]");

const common = { absWorkingDir: here, bundle: true, format: "esm", target: "es2022", logLevel: "warning" };

async function tests() {
  mkdirSync(folder, { recursive: true });
  await build({
    ...common,
    platform: "node",
    entryPoints: ["test/fetch.ts", "test/vectors.ts"],
    outdir: folder,
    outExtension: { ".js": ".mjs" },
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
  });
}

// What is bundled keeps its licences: each in a file of the page's folder.
function licences(inputs) {
  const names = new Set(
    inputs.map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]).filter((name) => name),
  );
  return [...names].sort().map((name) => {
    const root = join(here, "node_modules", name);
    const file = readdirSync(root).find((entry) => /^licen[cs]e/i.test(entry));
    if (!file) throw new Error(`${name} has no licence`);
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf-8"));
    return `${name} ${version}\n\n${readFileSync(join(root, file), "utf-8")}`;
  });
}

async function page() {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const made = await build({
    ...common,
    minify: true,
    metafile: true,
    entryPoints: { kachery: "src/page/main.ts" },
    outdir: folder,
  });
  await build({ ...common, format: "iife", minify: true, entryPoints: { media: "src/worker/media.ts" }, outdir: folder });
  const frame = await build({ ...common, format: "iife", minify: true, metafile: true, write: false, entryPoints: ["src/view/frame.ts"] });
  const script = frame.outputFiles[0].text.trim().replaceAll("</script", "<\\/script");
  const html = readFileSync(join(here, "src/view/frame.html"), "utf-8");
  writeFileSync(join(folder, "view.html"), html.replace("/* frame.ts */", () => script));
  for (const name of readdirSync(join(here, "views"), { withFileTypes: true }).filter((each) => each.isDirectory()).map((each) => each.name)) {
    const source = join(here, "views", name);
    await build({ ...common, minify: true, entryPoints: { view: join(source, "main.ts") }, outdir: join(folder, "views", name) });
    for (const file of ["index.html", "view.css"]) copyFileSync(join(source, file), join(folder, "views", name, file));
  }
  copyFileSync(join(here, "src/page/style.css"), join(folder, "kachery.css"));
  for (const name of ["index.html", "icon.svg"]) copyFileSync(join(here, "src/page", name), join(folder, name));
  writeFileSync(join(folder, "licences.txt"), licences(Object.keys(made.metafile.inputs)).join(`\n${"-".repeat(80)}\n`));
  for (const name of readdirSync(folder).filter((each) => each !== "views")) {
    const data = readFileSync(join(folder, name));
    console.log(name, data.length, "bytes,", gzipSync(data).length, "with gzip,", createHash("sha256").update(data).digest("hex").slice(0, 12));
  }
}

await (flags.includes("--tests") ? tests() : page());
