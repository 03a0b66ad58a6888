"""The pictures in docs/img: what ``kachery-p2p status`` shows on one of three nodes that are busy.

A proxy and two leaves that listen on no port. While the laptop fetches a file from the workstation
through the proxy, follows a feed of its and waits for tasks that it runs, the laptop is asked twice
what goes on, and the answer is drawn at 80 and at 160 columns, as rich exports it.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demo import Person, free_port
from rich.console import Console

from kachery_p2p.cli.status.view import View

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "img"
WIDTHS = (80, 160)
MEGABYTES = 800

GIVE = """
import json, sys
import numpy as np
import kachery_p2p as kc
rng = np.random.default_rng(0)
with open(sys.argv[1], "wb") as file:
    for _ in range(int(sys.argv[2])):
        file.write(rng.bytes(1_000_000))
feed = kc.create_feed("measurements")
feed.load_subfeed("temperature").append_messages([{"celsius": 20 + n % 7} for n in range(1234)])
print(json.dumps({"file": kc.store_file(sys.argv[1]), "feed": feed.uri}))
"""

FUNCTIONS = """
import time
from kachery_p2p import taskfunction

@taskfunction("spikesort.2", type="query")
def spikesort(*, recording):
    time.sleep(60)
    return recording
"""

BUSY = """
import asyncio, json, sys
import kachery_p2p as kc

async def main(uri, feed):
    requests = [await kc.arequest_task("spikesort.2", {"recording": n}, "query") for n in range(4)]
    subfeed = (await kc.aload_feed(feed)).load_subfeed("temperature")
    await subfeed.aget_next_messages(wait_msec=10_000)
    while sum(t["state"] == "running" for t in (await kc.anode_status())["tasks"]) < 2:
        await asyncio.sleep(0.05)
    reading = asyncio.create_task(subfeed.aget_next_messages(wait_msec=60_000))
    loading = asyncio.create_task(kc.aload_file(uri))
    before = await kc.anode_status()
    while not loading.done():
        status = await kc.anode_status()
        for download in status["downloads"]:
            if download["size"] and download["verified"] > 0.55 * download["size"]:
                print(json.dumps([before, status]))
                reading.cancel()
                loading.cancel()
                for request in requests:
                    request.cancel()
                return
        if status["downloads"] and status["now"] - before["now"] > 0.5:
            before = status
        await asyncio.sleep(0.02)
    sys.exit("the file came too quickly; make it larger")

asyncio.run(main(*sys.argv[1:]))
"""


def picture(before: dict[str, Any], status: dict[str, Any], width: int) -> Console:
    """A console that has drawn it and remembers."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=width,
        force_terminal=True,
        color_system="standard",
        highlight=False,
    )
    console.print(View(status, before, now=time.time()))
    return console


def run(folder: Path, people: list[Person], console: Console) -> tuple[dict[str, Any], ...]:
    """Two looks at the laptop, a moment apart."""
    proxy, workstation, laptop = (
        Person(folder, name, console) for name in ("proxy", "workstation", "laptop")
    )
    url = f"ws://127.0.0.1:{free_port()}"
    for person, extra in (
        (proxy, ["--listen", url.removeprefix("ws://"), "--proxy"]),
        (workstation, []),
        (laptop, []),
    ):
        people.append(person)
        person.kachery("daemon", "start", "--label", person.name, *extra)
    node_id = json.loads(laptop.kachery("info", "--json"))["node_id"]
    # Nobody answers at the second address: that is what a warning looks like.
    lost = f"ws://127.0.0.1:{free_port()}#{'5e' * 32}"
    workstation.kachery("channel", "create", "lab", "--bootstrap", url, "--bootstrap", lost)
    workstation.kachery("channel", "add-node", "lab", node_id, "--label", "laptop")
    text = workstation.kachery("channel", "export", "lab")
    proxy.kachery("channel", "join", "-", stdin=text)
    laptop.kachery("channel", "join", "-", "--roles", "request,provide-files", stdin=text)
    given = workstation.python(GIVE, str(folder / "recording.dat"), str(MEGABYTES))
    (folder / "functions.py").write_text(FUNCTIONS)
    backend = subprocess.Popen(
        [
            *(sys.executable, "-m", "kachery_p2p.cli", "task", "backend"),
            *(f"{folder}/functions.py:", "--channel", "lab", "--slots", "2"),
        ],
        env=workstation.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        before, status = laptop.python(BUSY, given["file"], given["feed"])
    finally:
        backend.terminate()
        backend.wait()
    return before, status


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="kp", dir="/tmp"))  # socket paths must be short
    people: list[Person] = []
    console = Console(highlight=False)
    try:
        before, status = run(folder, people, console)
    finally:
        for person in people:
            person.kachery("daemon", "stop")
        shutil.rmtree(folder, ignore_errors=True)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        drawn = picture(before, status, width)
        path = IMAGES / f"status-{width}.svg"
        svg = drawn.export_svg(title="kachery-p2p status", clear=False, unique_id=f"status-{width}")
        path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")
        print(drawn.export_text())
        print(f"{path} ({path.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
