"""Ten thousand objects in an origin: listed a page at a time, announced, kept over a restart."""

from __future__ import annotations

from pathlib import Path

from kachery_p2p.storage.backing.objects import Objects
from tests.node.harness import laboratory, until

from .folders import put_many
from .lab import lab_with

COUNT = 10_000


async def test_many_objects_are_listed_in_pages_and_announced(
    tmp_path: Path,
) -> None:
    names = put_many(tmp_path, COUNT)
    largest = max(len(Objects(str(tmp_path)).page(f"{at:02x}")) for at in range(256))
    assert largest < COUNT // 100
    async with lab_with(str(tmp_path)) as lab:
        told = (await lab.call("A", "origins"))["origins"][0]
        assert (told["objects"], told["state"]) == (COUNT, "ok")
        await until(lambda: sum(lab["A"].announcer.announced().values()) >= COUNT)
        await lab.load("B", names[-1])


async def test_a_restart_has_the_index_and_a_folder_that_went_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "mounted"
    names = put_many(root, 20)
    async with laboratory("A") as lab:
        await lab.call("A", "set_origins", origins=[{"url": str(root)}])
        await lab.call("A", "origins", refresh=True)
        root.rename(tmp_path / "elsewhere")
        root.mkdir()  # as a mount point that nothing is mounted on
        await lab.restart("A")
        told = (await lab.call("A", "origins", refresh=True))["origins"][0]
        assert (told["objects"], told["state"]) == (20, "origin-unreachable")
        assert "mounted" in told["error"]
        assert lab["A"].origin_index.has(names[0])
        await lab.call("A", "set_origins", origins=[])
        assert not lab["A"].origin_index.has(names[0])
