"""A provider behind a line of 20 Mbit/s."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.daemons import Daemon, free_port
from tests.netns import hosts

REASON = hosts.why_not()
pytestmark = [
    pytest.mark.netns,
    pytest.mark.processes,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]

STORE = """
import json, os
import kachery_p2p as kc
print(json.dumps([kc.store_bytes(os.urandom(21_000_000))] +
                 [kc.store_bytes(os.urandom(1000)) for _ in range(40)]))
"""

LOAD = """
import asyncio, json, sys
import kachery_p2p as kc

async def main():
    big, *small = json.load(sys.stdin)
    moving = asyncio.Event()
    loading = asyncio.create_task(
        kc.aload_file(big, progress=lambda info: info["done"] and moving.set()))
    await moving.wait()
    done = 0
    for uri in small:
        assert len(await kc.aload_bytes(uri)) == 1000
        if loading.done():
            break
        done += 1
    assert await loading is not None
    print(done)

asyncio.run(main())
"""


def test_small_things_do_not_wait_behind_a_large_one(short_folder: Path) -> None:
    with hosts.host(rate="20mbit") as name:
        url = f"ws://{hosts.OUTER}:{free_port()}"
        proxy = Daemon(short_folder, "proxy", listen=url.removeprefix("ws://"), proxy=True)
        far = Daemon(short_folder, "far", netns=name)
        near = Daemon(short_folder, "near")
        with proxy, far, near:
            far.cli("channel", "create", "lab", "--bootstrap", f"{url}#{proxy.node_id}")
            far.cli("channel", "add-node", "lab", near.node_id)
            text = far.cli("channel", "export", "lab").stdout
            for daemon, roles in ((proxy, "none"), (near, "all")):
                daemon.cli("channel", "join", "-", "--roles", roles, stdin=text)
            uris = far.python(STORE)
            done = int(near.python(LOAD, stdin=json.dumps(json.loads(uris))))
            # The large file takes eight seconds of line. With a window as for a fast path each
            # small one would take two of them.
            assert done >= 10
