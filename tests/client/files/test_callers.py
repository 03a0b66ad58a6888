"""Values and files from wherever a program calls: threads, loops, forks, and after Ctrl-C."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import kachery_p2p as kc
from kachery_p2p.protocol import errors
from tests import forked
from tests.client.files.online import BOTH, blob_path, content
from tests.daemons import Lab, announced, at

pytestmark = pytest.mark.processes


# --- the node ------------------------------------------------------------------------------------


@BOTH
def test_mutables_take_any_json_as_key(lab: Lab, call: Any) -> None:
    keys = ["k", "", "ключ", 1, 1.5, True, None, [1, "2"], {"a": {"b": 1}, "c": 2}, "1", "true"]
    with at(lab.a):
        for number, key in enumerate(keys):
            assert call("set", key, {"number": number})
        for number, key in enumerate(keys):
            assert call("get", key) == {"number": number}
        assert call("get", {"c": 2, "a": {"b": 1}}) == {"number": 8}  # order is no difference
        assert call("set", "k", "other", update=False) is False
        assert call("get", "k") == {"number": 0}
        assert call("set", "k", "text") is True
        assert call("get_string", "k") == "text"
        assert call("delete", "k") is True
        assert call("delete", "k") is False
        assert call("get", "k") is None
        assert call("get_string", "k") is None
        assert call("set", "k", "new", update=False) is True
        for bad in ({1, 2}, b"bytes", float("nan")):
            with pytest.raises(errors.BadInput):
                call("set", bad, 1)
            with pytest.raises(errors.BadInput):
                call("set", "k", bad)
    with at(lab.b):
        assert call("get", "k") is None  # they are this node's alone


@BOTH
def test_the_node_says_who_it_is(lab: Lab, call: Any) -> None:
    with at(lab.a):
        assert call("get_node_id") == lab.a.node_id
        info = call("node_info")
        assert (info["pid"], info["node_id"]) == (lab.a.pid, lab.a.node_id)
        assert info["storage_dir"] == str(lab.a.storage)
        (mine,) = [channel for channel in call("get_channels") if channel["name"] == "lab"]
        assert mine["owner"]
    with at(lab.b):
        (mine,) = call("get_channels")
        assert not mine["owner"]


def test_uris_are_taken_apart_and_put_together() -> None:
    manifest = "de" * 20
    uri = f"sha1://{'ab' * 20}/my%20file.dat?manifest={manifest}"
    parsed = kc.parse_uri(uri)
    assert (parsed.algorithm, parsed.hash) == ("sha1", "ab" * 20)
    assert (parsed.label, parsed.manifest) == ("my file.dat", manifest)
    assert kc.build_uri(parsed) == uri
    assert kc.build_uri(sha1="ab" * 20, label="my file.dat", manifest=manifest) == uri


# --- where it is called from ---------------------------------------------------------------------


def test_from_twenty_threads(lab: Lab, tmp_path: Path) -> None:
    with at(lab.a), ThreadPoolExecutor(20) as pool:
        texts = [f"from thread {number}" for number in range(100)]
        uris = list(pool.map(kc.store_text, texts))
        assert list(pool.map(kc.load_text, uris)) == texts
    with at(lab.b), ThreadPoolExecutor(20) as pool:
        announced(uris[-1])
        assert list(pool.map(kc.load_text, uris)) == texts
        load = functools.partial(kc.load_file, uris[0], tmp_path / "same")
        assert {future.result() for future in [pool.submit(load) for _ in range(40)]} == {
            str(tmp_path / "same")
        }
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


def test_inside_a_running_loop(lab: Lab) -> None:
    async def main() -> tuple[Any, Any]:
        uri = kc.store_text("as in a notebook")
        return kc.load_text(uri), await kc.aload_text(uri)

    with at(lab.a):
        assert asyncio.run(main()) == ("as in a notebook", "as in a notebook")


def test_many_loops_leave_nothing_open(lab: Lab) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def main() -> str:
        return await kc.aget_node_id()

    with at(lab.a):
        asyncio.run(main())
        before = descriptors()
        for _ in range(5):
            assert asyncio.run(main()) == lab.a.node_id
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(main()) == lab.a.node_id
            loop.close()
        asyncio.run(main())
        assert descriptors() == before


FORK = """
import os, sys
import kachery_p2p as kc
uri = kc.store_text("before the fork")
child = os.fork()
if not child:
    ok = kc.load_text(uri) == "before the fork" and kc.store_text("of the child")
    os._exit(0 if ok else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, kc.load_text(uri), kc.load_text(kc.store_text("of the child")))
"""


def test_after_a_fork_on_both_sides(lab: Lab) -> None:
    assert lab.a.python(FORK) == "0 before the fork of the child\n"


LOAD = """
import json, sys
import kachery_p2p as kc
def tell(info):
    print(json.dumps(info), flush=True)
try:
    kc.load_file(sys.argv[1], progress=tell)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_ends_a_load_that_the_next_one_continues(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "large.dat"
    size = 192 * 1024 * 1024
    piece = content("large", 1 << 20)
    with path.open("wb") as file:
        for number in range(size >> 20):
            file.write(number.to_bytes(8, "big") + piece[8:])
    with at(lab.a):
        uri = kc.store_file(path)
    process = forked.Popen(
        [sys.executable, "-c", LOAD, uri], env=lab.b.env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    verified = 0
    for line in process.stdout:
        verified = json.loads(line)["done"]
        if verified >= size // 8:
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=10)
    assert process.returncode == 130
    with at(lab.b):
        assert kc.load_file(uri, local_only=True) is None
        told: list[dict[str, Any]] = []
        assert kc.load_file(uri, progress=told.append) == str(blob_path(lab.b, uri))
    assert told[-1]["done"] == size
    assert 0 < told[-1]["fetched"] <= size - verified
