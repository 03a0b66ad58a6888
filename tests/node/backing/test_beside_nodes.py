"""An origin and other nodes as sources of one download."""

from __future__ import annotations

from pathlib import Path

import pytest

from kachery_p2p.node.files.content import Content
from kachery_p2p.node.files.origin_source import OriginSource, OriginSources, PlainBody
from kachery_p2p.node.files.progress import Progress
from kachery_p2p.node.files.segments import Segments
from kachery_p2p.node.files.unkept import Memory
from kachery_p2p.protocol.errors import NotFound, OriginUnreachable
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.protocol.files.messages import Piece
from kachery_p2p.protocol.limits import MANIFEST_CHUNK, MIB
from kachery_p2p.storage import paths

from .folders import content, put
from .lab import lab_with

LARGE = MANIFEST_CHUNK + 5 * MIB


async def test_what_an_origin_does_not_give_to_the_end_comes_from_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give = OriginSource.piece

    async def give_the_first_half(
        self: OriginSource, sha1: str, start: int, stop: int, proofs: bool
    ) -> tuple[Piece, PlainBody]:
        if stop > LARGE // 2:
            raise OriginUnreachable(origin=self.name, reason="the line is cut")
        return await give(self, sha1, start, stop, proofs)

    data = content(LARGE)
    sha1, manifest = put(tmp_path, data)
    async with lab_with(str(tmp_path)) as lab:
        await lab.store("B", data)
        await lab.announced("B")
        monkeypatch.setattr(OriginSource, "piece", give_the_first_half)
        loaded = await lab.load("A", sha1, manifest)
        assert lab.bytes_of("A", sha1) == data
        by = {source["label"]: source["bytes"] for source in loaded["sources"]}
        assert by.keys() == {str(tmp_path), "B"}
        assert by["B"] < 0.9 * LARGE, "what the origin gave is kept"


async def test_as_long_as_an_origin_gives_nobody_else_is_asked(tmp_path: Path) -> None:
    data = content(LARGE)
    sha1, manifest = put(tmp_path, data)
    async with lab_with(str(tmp_path)) as lab:
        await lab.store("B", data)
        await lab.announced("B")
        loaded = await lab.load("A", sha1, manifest)
        assert [source["label"] for source in loaded["sources"]] == [str(tmp_path)]


async def test_an_origin_without_a_tree_gives_nothing_to_a_download_that_verifies_parts(
    tmp_path: Path,
) -> None:
    sha1, name = put(tmp_path, content(LARGE), tree=False)
    assert name is not None
    manifest = Manifest.parse(paths.path_of(tmp_path, name).read_bytes())
    async with lab_with(str(tmp_path)) as lab:
        network, backing = lab["A"].network, lab["A"].backing
        near = OriginSources(backing, network.context, sha1)
        [holder] = await near.holders()
        source = near.source(holder)
        assert source is not None
        here = Content(network.context, sha1, network.spawn, Memory())
        await here.open(LARGE, manifest)
        try:
            assert here.want([], whole=True)
            with pytest.raises(NotFound):
                await Segments(here, Progress(started=0.0), lambda: None).feed(source)
            assert here.plan.free, "it is there for others to give"
        finally:
            await here.close()
