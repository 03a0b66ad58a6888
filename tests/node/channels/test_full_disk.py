"""What changes of a channel on a disk that is full or hangs: it counts at once, and is kept later."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol.channels.messages import ChannelQuery
from kachery_p2p.protocol.channels.signed_document import parse
from kachery_p2p.protocol.channels.text_encoding import from_text
from kachery_p2p.protocol.errors import (
    ChangeNotKept,
    KacheryError,
    LinkClosed,
    StorageFull,
)
from kachery_p2p.storage.state import StateDB
from tests.node.channels.removing import is_out, never, remove, talking
from tests.node.harness import Lab, laboratory, until


class FullDisk:
    """The state of a node takes no change while ``full``; counts how often it was tried."""

    def __init__(self, state: StateDB, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        self.tries = 0
        inner = state.transaction

        @contextlib.contextmanager
        def transaction() -> Any:
            with inner() as db:
                yield db
                if self.full and db.total_changes:
                    self.tries += 1
                    raise StorageFull(what="the node's state", path="/full")

        monkeypatch.setattr(state, "transaction", transaction)


def version_on_disk(lab: Lab, name: str) -> int:
    row = lab[name].state.channel(lab.channels["lab"].hex())
    return 0 if row is None else parse(row.document, now=0.0, check_expiry=False).document.version


# --- the disk ---------------------------------------------------------------------------------


async def test_a_full_disk_keeps_no_removed_member_in(monkeypatch: pytest.MonkeyPatch) -> None:
    async with talking("A", "B", "C") as lab:
        disk = FullDisk(lab["P"].state, monkeypatch)
        before = version_on_disk(lab, "P")
        await remove(lab, "B")
        await until(lambda: is_out(lab, "B", "P"), "B is out at the proxy")
        await until(lambda: is_out(lab, "B", "C"), "and it was passed on")
        await until(lambda: disk.tries >= 2, "it is tried again")
        warnings = [text for _, text in lab["P"].context.warnings]
        assert any("writing channel 'lab'" in text and "No space" in text for text in warnings)
        assert sum("writing channel" in text for text in warnings) == 1, "told once, not each time"
        assert version_on_disk(lab, "P") == before
        disk.full = False
        await until(lambda: version_on_disk(lab, "P") > before, "it recovers by itself")


async def test_a_restart_does_not_forget_a_removal_that_was_acknowledged() -> None:
    async with laboratory("A", "B", "C") as lab:
        await lab.stop("P")
        await lab.stop("C")
        await remove(lab, "B")
        # As after a kill: nothing is done in order.
        assert version_on_disk(lab, "A") == lab["A"].network.version_of(lab.channels["lab"])
        await lab.stop("A")
        await lab.start("A")
        assert not lab["A"].network.is_member(lab.channels["lab"], lab.id("B"))


async def test_the_owner_is_told_if_a_removal_is_not_on_disk_and_it_counts_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with talking("A", "B", "C") as lab:
        disk = FullDisk(lab["A"].state, monkeypatch)
        with pytest.raises(StorageFull, match="counts already") as caught:
            await remove(lab, "B")
        assert isinstance(caught.value, ChangeNotKept)
        for name in ("A", "P", "C"):
            await until(lambda name=name: is_out(lab, "B", name), f"B is out at {name}")  # type: ignore[misc]
        disk.full = False
        known = lab["A"].network.version_of(lab.channels["lab"])
        await until(lambda: version_on_disk(lab, "A") == known, "it is written by itself")


async def test_a_channel_that_cannot_be_kept_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    async with laboratory("A", "B", channel=False) as lab:
        await lab.channel("lab", {"A": "all"})
        text = await lab.export("A", "lab")
        disk = FullDisk(lab["B"].state, monkeypatch)
        with pytest.raises(StorageFull, match="nothing was lost"):
            await lab.call("B", "channel.join", document=text)
        assert list(lab["B"].context.book) == []
        disk.full = False
        await lab.call("B", "channel.join", document=text)
        assert version_on_disk(lab, "B") > 0


async def test_leaving_on_a_full_disk_counts_at_once_and_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory("A", "B") as lab:
        disk = FullDisk(lab["B"].state, monkeypatch)
        with pytest.raises(StorageFull):
            await lab.call("B", "channel.leave", channel="lab")
        assert list(lab["B"].context.book) == []
        await until(lambda: not lab["B"].network.links)
        assert version_on_disk(lab, "B") > 0
        disk.full = False
        await until(lambda: version_on_disk(lab, "B") == 0, "it is forgotten on disk, too")


async def test_later_documents_are_not_overtaken_on_their_way_to_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory("A", "B", "C") as lab:
        first, go = threading.Event(), threading.Event()
        put = lab["P"].state.put_channel

        def slow(*args: Any, **options: Any) -> None:
            if not first.is_set():
                first.set()
                assert go.wait(10)
            put(*args, **options)

        monkeypatch.setattr(lab["P"].state, "put_channel", slow)
        try:
            await remove(lab, "B")
            await until(first.is_set)
            await until(lambda: is_out(lab, "B", "P"), "nobody waits for the disk to be cut")
            await remove(lab, "C")
            await until(lambda: is_out(lab, "C", "P"), "a disk that hangs holds up nobody")
        finally:
            go.set()
        newest = lab["A"].network.version_of(lab.channels["lab"])
        await until(lambda: version_on_disk(lab, "P") == newest)


async def test_a_stop_writes_what_could_not_be_written_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kachery_p2p.node.supervision.RETRY_FIRST", 5_000.0, raising=False)
    monkeypatch.setattr("kachery_p2p.node.supervision.RETRY_MOST", 5_000.0, raising=False)
    async with laboratory("A", "B", "C") as lab:
        disk = FullDisk(lab["C"].state, monkeypatch)
        await remove(lab, "B")
        key = lab.channels["lab"]
        # Other things are written there too.
        await until(lambda: not lab["C"].network.is_member(key, lab.id("B")), "C has heard of it")
        await until(lambda: disk.tries, "it was tried")
        disk.full = False
        await lab.stop("P")
        await lab.stop("C")
        await lab.start("C")
        assert not lab["C"].network.is_member(key, lab.id("B"))


async def test_an_owner_whose_disk_hangs_is_told_so_and_the_removal_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kachery_p2p.node.channels.documents.KEEP_SECONDS", 0.1, raising=False)
    async with laboratory("A", "B") as lab:
        go = threading.Event()
        put = lab["A"].state.put_channel

        def hangs(*args: Any, **options: Any) -> None:
            assert go.wait(10)
            put(*args, **options)

        monkeypatch.setattr(lab["A"].state, "put_channel", hangs)
        try:
            with pytest.raises(ChangeNotKept, match="not answered"):
                await remove(lab, "B")
            await until(lambda: is_out(lab, "B", "P"))
        finally:
            go.set()
        newest = lab["A"].network.version_of(lab.channels["lab"])
        await until(lambda: version_on_disk(lab, "A") == newest)


async def test_a_document_that_did_not_come_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The only one who has it was slow to answer: its removal must not be lost with the answer."""
    monkeypatch.setattr("kachery_p2p.node.channels.documents.REQUEST_SECONDS", 0.2)
    async with laboratory("A", "B") as lab:
        serve, asked = lab["A"].documents._serve, 0

        async def slow(*args: Any) -> None:
            nonlocal asked
            asked += 1
            if asked < 3:
                await never()
            await serve(*args)

        lab["A"].network.on_stream_of("channel.document", ChannelQuery, slow)
        await remove(lab, "B")
        await until(lambda: is_out(lab, "B", "P"))
        assert asked == 3


async def test_what_is_written_of_channels_never_holds_up_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a commit nor a look that would wait for one."""
    loop_thread, found = threading.current_thread(), []
    names = ("put_channel", "delete_channel", "keep_admissions", "put_invitation", "invitation",
             "invitations", "use_invitation", "return_use", "revoke_invitation",
             "forget_invitation", "delete_invitations")  # fmt: skip

    def watched(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if threading.current_thread() is loop_thread:
                found.append(name)
            return inner(*args, **options)

        return call

    for name in names:
        monkeypatch.setattr(StateDB, name, watched(name, getattr(StateDB, name)))
    async with laboratory("A", "B", "C", channel=False) as lab:
        await lab.channel("lab", {"A": "all", "B": "all"})
        made = await lab.call("A", "channel.invite", channel="lab", roles="request-files")
        await lab.call("C", "channel.join", document=made["line"])
        await lab.call("A", "channel.invites", channel="lab")
        other = await lab.call("A", "channel.invite", channel="lab", roles="request-files")
        await lab.call("A", "channel.revoke-invite", channel="lab", invitation=other["id"])
        await remove(lab, "B")
        await lab.call("C", "channel.leave", channel="lab")
        assert found == []


# --- what follows later -----------------------------------------------------------------------


async def test_what_is_stored_on_a_full_disk_is_announced_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory() as lab:
        await lab.announced("A")
        full = True
        append = lab["A"].state.append_announcements

        def fails(*args: Any) -> None:
            if full:
                raise StorageFull(what="the node's state", path="/full")
            append(*args)

        monkeypatch.setattr(lab["A"].state, "append_announcements", fails)
        sha1, _ = await lab.store("A", b"stored meanwhile", tell=None)
        await until(lambda: any("announcing" in text for _, text in lab["A"].context.warnings))
        other, _ = await lab.store("A", b"and this", tell=None)
        full = False
        await lab.announced("A")
        for each in (sha1, other):
            await lab.load("B", each)
        log = lab["A"].state.announcements(lab.channels["lab"].hex())
        assert [row.seq for row in log] == list(range(1, len(log) + 1)), "the log has no hole"


async def test_announcements_follow_a_new_secret_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory("A", "B", "C") as lab:
        sha1, _ = await lab.store("A", b"x")
        full, tries = True, 0
        restart = lab["A"].state.set_epoch

        def fails(*args: Any) -> None:
            nonlocal tries
            if full:
                tries += 1
                raise StorageFull(what="the node's state", path="/full")
            restart(*args)

        monkeypatch.setattr(lab["A"].state, "set_epoch", fails)
        await remove(lab, "B")
        await until(lambda: tries >= 2)
        full = False
        key = lab.channels["lab"]
        announcer = lab["A"].announcer
        await until(lambda: announcer._secret_versions.get(key) == 2 and announcer._logs[key].live)
        await lab.announced("A")
        await until(lambda: (lab["C"].context.book.secret(key) or (0,))[0] == 2)
        await lab.load("C", sha1)


async def test_a_bootstrap_link_comes_back_after_an_error_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory() as lab:
        reach, failures = lab["B"].reach, 0
        connect = reach.connect

        async def fails(*args: Any, **options: Any) -> Link:
            nonlocal failures
            failures += 1
            if failures < 3:
                raise ZeroDivisionError
            return await connect(*args, **options)

        monkeypatch.setattr(reach, "connect", fails)
        for link in list(lab["B"].network.links):
            link.close(LinkClosed(peer="x", reason="test"))
        await until(lambda: failures >= 3)
        await lab.linked("B", "lab")


async def test_a_join_that_cannot_be_kept_is_not_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory("A", "B", channel=False) as lab:
        await lab.channel("lab", {"A": "all"})
        made = await lab.call("A", "channel.invite", channel="lab", roles="request-files")
        put, full = lab["A"].state.put_channel, True

        def fails(*args: Any, **options: Any) -> None:
            if full:
                raise StorageFull(what="the node's state", path="/full")
            put(*args, **options)

        monkeypatch.setattr(lab["A"].state, "put_channel", fails)
        with pytest.raises(KacheryError):
            await lab.call("B", "channel.join", document=made["line"])
        full = False
        await lab.call("B", "channel.join", document=made["line"])
        document = parse(
            from_text(await lab.export("A", "lab"))[0], now=0.0, check_expiry=False
        ).document
        assert document.member(lab.id("B")) is not None
        known = lab["A"].network.version_of(lab.channels["lab"])
        assert version_on_disk(lab, "A") == known


async def test_a_newcomer_that_asks_twice_at_once_takes_one_use() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await lab.channel("lab", {"A": "all"})
        made = await lab.call("A", "channel.invite", channel="lab", roles="request-files", uses=2)
        joins = [lab.call("B", "channel.join", document=made["line"]) for _ in range(2)]
        await asyncio.gather(*joins)
        [row] = (await lab.call("A", "channel.invites", channel="lab"))["invitations"]
        assert row["nodes"] == [lab.id("B")]
        await lab.call("C", "channel.join", document=made["line"])
