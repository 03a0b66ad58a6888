"""The picture of the progress display in docs/img: three loads at once, from a real node to another.

python scripts/screenshot_progress.py [PICTURE]
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
from pathlib import Path

from rich.console import Console

import kachery_p2p as kc
from kachery_p2p.client.display.progress_bars import Bars
from kachery_p2p.client.display.progress_display import display
from kachery_p2p.testing import Network

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "img" / "progress.svg"
SIZES = {"recording.dat": 48_000_000, "sorting.npz": 24_000_000, "video.mp4": 60_000_000}
_COLUMNS = 100
_RATE = 12_000_000
_WATCH_SECONDS = 3.0


async def _watched(uris: list[str]) -> str:
    """The display as SVG, some seconds after the loads of these began."""
    loads = [asyncio.create_task(kc.aload_file(uri)) for uri in uris]
    await asyncio.sleep(_WATCH_SECONDS)
    console = Console(
        record=True, file=io.StringIO(), width=_COLUMNS, force_terminal=True,
        color_system="truecolor",
    )  # fmt: skip
    console.print(Bars().render(display.rows()))
    for load in loads:
        load.cancel()
    await asyncio.gather(*loads, return_exceptions=True)
    return console.export_svg(title="paths = await asyncio.gather(kc.aload_file(...), ...)")


def main(picture: Path = PICTURE) -> None:
    if not sys.stderr.isatty():
        sys.exit("the bars appear on a terminal only: run this on one, or under script(1)")
    with Network(["anna", "ben"], processes=True) as network:
        with network["anna"].at():
            uris = [kc.store_bytes(os.urandom(size), name) for name, size in SIZES.items()]
        network.slow("ben", _RATE)
        with network["ben"].at():
            picture.write_text(asyncio.run(_watched(uris)))
    print(f"{picture}: {picture.stat().st_size} bytes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
