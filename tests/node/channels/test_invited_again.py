"""Who was removed, and lines that it still has: none lets it back in but a new one."""

from __future__ import annotations

import pytest

from kachery_p2p.protocol.errors import (
    InvitationRefused,
    LinkClosed,
    StorageFull,
)
from kachery_p2p.storage.state import StateDB
from tests.node.channels.inviting import invite, join, lab_of_one, removed, state_of
from tests.node.harness import until


async def test_who_was_removed_does_not_come_back_with_the_same_line() -> None:
    async with lab_of_one("B") as lab:
        line = await invite(lab, uses=5)
        await join(lab, "B", line)
        await lab.linked("B", "lab")
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("B"))
        await lab.call("B", "channel.leave", channel="lab")
        with pytest.raises(InvitationRefused, match="removed"):
            await join(lab, "B", line)


async def test_who_was_removed_comes_back_with_a_new_line() -> None:
    async with lab_of_one("B") as lab:
        await join(lab, "B", await invite(lab))
        await lab.linked("B", "lab")
        await removed(lab, "B")
        await until(lambda: not lab["B"].network.links_on(lab.channels["lab"]))
        # Its own document still calls it a member.
        new = await invite(lab)
        assert (await join(lab, "B", new))["member"]
        assert lab["A"].network.is_member(lab.channels["lab"], lab.id("B"))
        assert await state_of(lab) == ["revoked", "used up"]
        await lab.linked("B", "lab")


async def test_who_was_removed_is_told_so_if_the_line_is_an_old_one() -> None:
    async with lab_of_one("B") as lab:
        line = await invite(lab, uses=5)
        await join(lab, "B", line)
        await lab.linked("B", "lab")
        await removed(lab, "B")
        await until(lambda: not lab["B"].network.links_on(lab.channels["lab"]))
        with pytest.raises(InvitationRefused, match="removed"):
            await join(lab, "B", line)


async def test_a_member_that_nobody_talks_to_asks_without_using_the_line() -> None:
    async with lab_of_one("B") as lab:
        await join(lab, "B", await invite(lab))
        await lab.linked("B", "lab")
        new = await invite(lab)
        for link in list(lab["B"].network.links):
            link.close(LinkClosed(peer="test", reason="the network went away"))
        assert (await join(lab, "B", new, roles="request-files"))["member"]
        assert await state_of(lab) == ["used up", "open"]


async def test_who_was_removed_does_not_come_back_with_the_same_line_and_a_new_key() -> None:
    """It pasted the line for several nodes once more, as another node."""
    async with lab_of_one("B", "C", "D") as lab:
        line, other = await invite(lab, uses=5, label="group"), await invite(lab, label="other")
        await join(lab, "B", line)
        await join(lab, "D", line)
        report = await removed(lab, "B")
        (revoked,), (still,) = report["revoked"], report["open"]
        assert (revoked["label"], revoked["state"]) == ("group", "revoked")
        assert report["came_by"]["invitations"] == [revoked["id"]]
        assert [each["label"] for each in report["came_by"]["companions"]] == ["group"]
        assert still["label"] == "other"
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "C", line)
        assert not lab["A"].network.is_member(lab.channels["lab"], lab.id("C"))
        # What it never used stays good, and so do those who came by the same line.
        assert (await join(lab, "C", other))["member"]
        assert lab["A"].network.is_member(lab.channels["lab"], lab.id("D"))


async def test_it_does_not_come_back_after_a_restart_or_while_the_disk_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with lab_of_one("B", "C") as lab:
        line = await invite(lab, uses=5)
        await join(lab, "B", line)

        def full(self: object, id: bytes) -> bool:
            raise StorageFull(what="the node's state", path="state.sqlite")

        with monkeypatch.context() as patch:
            patch.setattr(StateDB, "revoke_invitation", full)
            with pytest.raises(StorageFull):
                await removed(lab, "B")
            with pytest.raises(InvitationRefused, match="revoked"):
                await join(lab, "C", line)
        await lab.restart("A")
        await lab.linked("A", "lab")
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "C", line)
        assert await state_of(lab) == ["revoked"]


async def test_all_invitations_can_be_revoked_with_a_removal() -> None:
    async with lab_of_one("B", "C") as lab:
        first, second = await invite(lab, uses=5), await invite(lab)
        await join(lab, "B", first)
        report = await removed(lab, "B", revoke_all=True)
        assert len(report["revoked"]) == 2
        assert report["open"] == []
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "C", second)
        assert (await join(lab, "C", await invite(lab)))["member"], "new ones are good"


async def test_who_loses_a_role_does_not_get_it_back_with_the_same_line() -> None:
    async with lab_of_one("B", "C") as lab:
        line = await invite(lab, uses=5)
        await join(lab, "B", line)
        report = await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("B"),
                                roles="request-files")  # fmt: skip
        assert [each["state"] for each in report["revoked"]] == ["revoked"]
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "C", line)
