"""An owner's node whose state was restored from a backup gives nothing back that was taken."""

from __future__ import annotations

import shutil

import pytest

from kachery_p2p.protocol.identity import NodeKey
from tests.node.channels.removing import remove
from tests.node.harness import Lab, laboratory, until

STRANGERS = [NodeKey(bytes([number]) * 32).node_id for number in range(1, 6)]


def members(lab: Lab, name: str) -> set[str]:
    return {m.node_id for m in lab[name].network.book.signed(lab.channels["lab"]).document.members}


async def add(lab: Lab, node: str) -> None:
    await lab.call("A", "channel.add-node", channel="lab", node=node, label=node[:8])


def agree(lab: Lab) -> bool:
    digests = {lab[name].network.book.signed(lab.channels["lab"]).digest for name in "APD"}
    return len(digests) == 1


@pytest.mark.parametrize(("lost", "since"), [(3, 0), (1, 0), (0, 2)])
async def test_what_was_removed_before_and_after_the_backup_stays_out(
    lost: int, since: int
) -> None:
    """Whichever of the two histories is the longer one: of equal versions neither was looked at."""
    async with laboratory("A", "B", "C", "D") as lab:
        await lab.stop("A")
        shutil.copytree(lab.root / "A", lab.root / "backup")
        await lab.restart("A")
        await lab.linked("A", "lab")
        await remove(lab, "B")
        for node in STRANGERS[:lost]:
            await add(lab, node)
        version = lab["A"].network.version_of(lab.channels["lab"])
        for name in "PD":
            await until(lambda: lab[name].network.version_of(lab.channels["lab"]) == version)  # noqa: B023
        removed, gone = lab.id("C"), {lab.id("B"), lab.id("C")}
        for name in "BCA":
            await lab.stop(name)
        port = lab["P"].listening
        await lab.stop("P")
        shutil.rmtree(lab.root / "A")
        (lab.root / "backup").rename(lab.root / "A")
        await lab.restart("A")
        await lab.call("A", "channel.remove-node", channel="lab", node=removed)
        for node in STRANGERS[3 : 3 + since]:
            await add(lab, node)
        await lab.restart("P", listen=port)
        await until(lambda: agree(lab), "all have one document")
        assert not members(lab, "P") & gone
        given = {*STRANGERS[:lost], *STRANGERS[3 : 3 + since]}
        assert given <= members(lab, "P")
        assert any("restored from a backup" in text for _, text in lab["A"].context.warnings)


async def test_a_restored_owner_that_changed_nothing_takes_what_others_have_in_silence() -> None:
    async with laboratory("A", "B", "D") as lab:
        await lab.stop("A")
        shutil.copytree(lab.root / "A", lab.root / "backup")
        await lab.restart("A")
        await lab.linked("A", "lab")
        await remove(lab, "B")
        await until(lambda: agree(lab))
        await lab.stop("A")
        shutil.rmtree(lab.root / "A")
        (lab.root / "backup").rename(lab.root / "A")
        await lab.restart("A")
        await until(lambda: agree(lab))
        assert lab.id("B") not in members(lab, "A")
        assert not any("backup" in text for _, text in lab["A"].context.warnings)
