"""Files that a disk changes without a sign of it: who receives them finds out, and says so."""

from __future__ import annotations

import os
from typing import Any

import pytest

from kachery_p2p.protocol.errors import CorruptContent, NotFound
from kachery_p2p.protocol.files.messages import FILE_DOUBT, FILE_READ
from kachery_p2p.protocol.limits import BLOCK
from kachery_p2p.storage.files.stamps import put_stamp
from kachery_p2p.storage.files.treefile import TreeFile
from tests.node.files.contents import BIG, content
from tests.node.harness import Lab, laboratory, until


def unseen_damage(lab: Lab, sha1: str, at: int) -> None:
    """The disk changes a byte, and nothing about the file says so: it looks as when it was compared."""
    blob = lab["A"].store.find(sha1)
    assert blob is not None
    blob.path.chmod(0o644)
    with blob.path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    put_stamp(lab["A"].store.root, sha1, blob.path.stat())


async def test_what_a_disk_changed_unseen_is_put_aside_when_a_requester_says_so() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        unseen_damage(lab, sha1, BIG // 2)
        error = await lab.error("B", sha1, manifest)
        assert isinstance(error, CorruptContent | NotFound)
        await until(lambda: lab["A"].store.find(sha1) is None, "put aside")
        await until(lambda: not lab["A"].provider._doubting, "withdrawn")
        await lab.announced("A")
        assert isinstance(await lab.error("B", sha1, manifest), NotFound)
        assert not (await lab.call("B", "find", sha1=sha1))["holders"]


async def test_what_is_only_said_to_be_damaged_is_offered_as_before() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        channel = lab.channels["lab"]
        link = await lab["B"].reach.to(lab.id("A"), channel)
        liar = {"channel": channel, "sha1": bytes.fromhex(sha1)}
        stream = link.open(FILE_READ, {**liar, "ranges": [(0, BIG)], "proofs": True})
        assert await stream.receive() is not None
        stream.end(CorruptContent(what="your file", source="you"))
        for _ in range(3):
            link.note(FILE_DOUBT, {**liar, "start": 0, "stop": BLOCK})
        for nonsense in ({"start": 0, "stop": BIG}, {"start": 5, "stop": 5}):
            link.note(FILE_DOUBT, liar | nonsense)
        await until(lambda: not lab["A"].provider.reading())
        await until(lambda: not lab["A"].provider._doubting)
        assert lab.bytes_of("A", sha1) == data
        await lab.announced("A")
        assert (await lab.call("B", "find", sha1=sha1))["holders"]
        await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data


@pytest.mark.parametrize("changed", [False, True])
async def test_a_large_file_is_compared_for_who_compares_it_only_if_it_changed(
    monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        blob = lab["A"].store.find(sha1)
        assert blob is not None
        if changed:
            os.utime(blob.path)
        compared = []
        check_blocks = TreeFile.check_blocks

        def counted(self: TreeFile, start: int, data: Any) -> bool:
            compared.append(start)
            return check_blocks(self, start, data)

        monkeypatch.setattr(TreeFile, "check_blocks", counted)
        await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data
        assert bool(compared) == changed
