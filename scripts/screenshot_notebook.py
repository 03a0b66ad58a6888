"""Pictures of the example notebook: execute it, and photograph what it looks like in a browser.

    python scripts/screenshot_notebook.py [PICTURE] [--keep]

Needs the ``notebook`` extra, nbconvert, and a Chromium. ``--keep`` writes the outputs of the run into
the notebook as well, but of its plots only the last one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "two_nodes.ipynb"
PICTURE = ROOT / "docs" / "img" / "notebook.png"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_WIDTH, _HEIGHT = 860, 4000
_COLOURS = 40
_LARGEST = 100_000
_CELL_SECONDS = 120


def executed(path: Path = NOTEBOOK) -> nbformat.NotebookNode:
    """The notebook with its outputs, as a real kernel makes them."""
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    client = NotebookClient(notebook, kernel_name="python3", timeout=_CELL_SECONDS)
    client.execute(env=environment, cwd=str(path.parent))
    return notebook


def keep(notebook: nbformat.NotebookNode, path: Path = NOTEBOOK) -> None:
    """Write the notebook with the last of its plots, and no other output."""
    kept = nbformat.from_dict(notebook)
    plots = 0
    for cell in reversed(kept.cells):
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.outputs = [each for each in cell.outputs if "image/png" in each.get("data", {})]
        cell.outputs = cell.outputs if plots == 0 else []
        plots += len(cell.outputs)
    nbformat.write(kept, path)


def photograph(notebook: nbformat.NotebookNode, picture: Path = PICTURE) -> None:
    """A PNG of at most 100 kB of what the notebook looks like."""
    from nbconvert import HTMLExporter

    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser to take the picture with: none of {', '.join(_BROWSERS)}")
    html, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder, "page.html"), Path(folder, "shot.png")
        page.write_text(html)
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={folder}/profile", f"--window-size={_WIDTH},{_HEIGHT}",
                "--virtual-time-budget=5000", f"--screenshot={shot}", page.as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        shrink(shot, picture)


def shrink(shot: Path, picture: Path) -> None:
    """The picture without the empty rest of the page, in few colours: the most frequent as they are,
    and some that are near to all others."""
    from PIL import Image, ImageChops

    image = Image.open(shot).convert("RGB")
    empty = Image.new("RGB", image.size, image.getpixel((0, image.height - 1)))
    box = ImageChops.difference(image, empty).getbbox()
    bottom = image.height if box is None else min(image.height, box[3] + 10)
    cut = image.crop((0, 0, image.width, bottom))
    colours: list[Any] = cut.getcolors(cut.width * cut.height) or []
    frequent = sorted(colours, key=lambda each: each[0], reverse=True)[:_COLOURS]
    rest = cut.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(part for _, colour in frequent for part in colour), *rest])
    cut.quantize(palette=palette, dither=Image.Dither.NONE).save(picture, optimize=True)
    if picture.stat().st_size > _LARGEST:
        sys.exit(f"{picture} has {picture.stat().st_size} bytes, more than {_LARGEST}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("picture", nargs="?", type=Path, default=PICTURE)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)
    notebook = executed()
    if options.keep:
        keep(notebook)
    photograph(notebook, options.picture)
    print(f"{options.picture}: {options.picture.stat().st_size} bytes")


if __name__ == "__main__":
    main()
