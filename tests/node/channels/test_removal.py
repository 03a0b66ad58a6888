"""A removal always happens: whoever does not read, whatever the disk says, whichever step fails."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from kachery_p2p.node import node as node_module
from kachery_p2p.node.links import link as link_module
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol.channels.document import ChannelDocument
from kachery_p2p.protocol.channels.messages import ChannelQuery
from kachery_p2p.protocol.channels.signed_document import parse
from kachery_p2p.protocol.channels.text_encoding import from_text
from kachery_p2p.protocol.errors import (
    ChangeNotKept,
    KacheryError,
    LinkClosed,
    NotAMember,
    StorageFull,
)
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.limits import MAX_CONTROL_BYTES, MAX_CONTROL_QUEUE
from kachery_p2p.storage.state import StateDB
from tests.node.harness import Lab, laboratory, until

BIG = bytes(200_000)


async def never(*_: Any) -> None:
    await asyncio.Event().wait()


async def deafen(lab: Lab, name: str, at: str = "P") -> Link:
    """From now on a node reads nothing of what another one sends to it, and as much waits as may."""
    [link] = lab[at].network.links_to(lab.id(name), lab.channels["lab"])
    link.transport.send = never  # type: ignore[method-assign]
    for _ in range(10):
        link.note("nothing", None)
        await asyncio.sleep(0)
    for _ in range(MAX_CONTROL_QUEUE - len(link._mux.control)):
        link.note("nothing", None)
    assert link.closed_by is None
    # The worst order: before everybody else's turn comes.
    others = dict(lab[at].network.links)
    lab[at].network.links.clear()
    lab[at].network.links.update({link: None} | others)
    return link


def is_out(lab: Lab, name: str, at: str) -> bool:
    """Nothing of a node is left at another one: no membership, link, or circuit."""
    node, gone = lab[at], lab.id(name)
    return (
        not node.network.is_member(lab.channels["lab"], gone)
        and all(link.peer != gone or link.closed_by for link in node.network.links)
        and all(gone not in ends for _, *ends in node.relay._circuits.values())
    )


async def remove(lab: Lab, name: str, owner: str = "A") -> Any:
    return await lab.call(owner, "channel.remove-node", channel="lab", node=lab.id(name))


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


@contextlib.asynccontextmanager
async def talking(*leaves: str) -> AsyncIterator[Lab]:
    """A laboratory in which B has a circuit through the proxy to A, and reads from it."""
    async with laboratory(*leaves) as lab:
        sha1, _ = await lab.store("A", BIG)
        await lab.load("B", sha1)
        assert len(lab["P"].relay) == 1
        yield lab


# --- who does not read ------------------------------------------------------------------------


async def test_a_member_that_does_not_read_keeps_no_removed_member_in() -> None:
    async with talking("A", "B", "C", "D") as lab:
        for name in ("C", "D"):
            await deafen(lab, name)
        await remove(lab, "B")
        await until(lambda: is_out(lab, "B", "P"), "B is out at the proxy")
        await until(lambda: is_out(lab, "B", "A"), "B is out at the owner")
        after, _ = await lab.store("A", b"stored after the removal")
        assert isinstance(await lab.error("B", after), KacheryError)
        assert lab.bytes_of("B", after) == b""


async def test_a_removal_reaches_members_past_one_that_does_not_read() -> None:
    async with laboratory("A", "B", "C", "D") as lab:
        await deafen(lab, "C")
        await remove(lab, "B")
        await until(lambda: is_out(lab, "B", "D"), "D has heard")


async def test_a_full_queue_ends_its_own_link_and_not_that_of_who_announces() -> None:
    async with laboratory("A", "B", "C") as lab:
        key = lab.channels["lab"]
        [innocent] = lab["P"].network.links_to(lab.id("A"), key)
        deaf = await deafen(lab, "C")
        for _ in range(3):
            deaf.note("nothing", None)
        assert isinstance(deaf.closed_by, LinkClosed)
        assert "does not read" in str(deaf.closed_by)
        await until(deaf.closed.is_set)
        sha1, _ = await lab.store("A", b"x")
        await lab.load("B", sha1)
        assert innocent.closed_by is None


async def test_whoever_watches_and_does_not_read_costs_the_announcer_nothing() -> None:
    async with laboratory("A", "B", "C") as lab:
        key = lab.channels["lab"]
        [innocent] = lab["P"].network.links_to(lab.id("A"), key)
        deaf = await deafen(lab, "C")
        deaf.note("nothing", None)
        watch_list = lab["P"].availability.watch_list
        watch_list.appeared = (  # type: ignore[method-assign]
            lambda channel, keys, origin: [deaf.note("appeared", None) for _ in range(5)]
        )
        sha1, _ = await lab.store("A", b"announced")
        await lab.load("B", sha1)
        assert innocent.closed_by is None
        assert deaf.closed_by is not None


async def test_a_peer_that_reads_nothing_is_given_up_though_it_speaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "WRITE_STALL_SECONDS", 0.2, raising=False)
    monkeypatch.setattr(link_module, "_TICK_SECONDS", 0.05)
    async with laboratory("A", "B") as lab:
        [link] = lab["P"].network.links_to(lab.id("B"), lab.channels["lab"])
        link.transport.send = never  # type: ignore[method-assign]
        link.note("nothing", None)
        [there] = lab["B"].network.links_to(lab.id("P"), lab.channels["lab"])
        while link.closed_by is None:
            there.note("I am alive", None)
            await asyncio.sleep(0.01)
        assert "read nothing" in str(link.closed_by)
        await lab.linked("B", "lab")


async def test_a_thousand_answers_on_a_slow_road_are_no_reason_to_drop_it() -> None:
    """They wait for the route, and what waits is bounded."""
    async with laboratory("A", "B") as lab:
        [link] = lab["P"].network.links_to(lab.id("B"), lab.channels["lab"])
        send, go = link.transport.send, asyncio.Event()
        most = 0

        async def slow(record: Any) -> None:
            nonlocal most
            await go.wait()
            most = max(most, link._mux.control.bytes)  # type: ignore[arg-type]
            await send(record)

        async def much(link: Link, params: Any) -> Any:
            return bytes(32_000)

        lab["P"].network.on_request_of("much", dict, much)
        [asking] = lab["B"].network.links_to(lab.id("P"), lab.channels["lab"])
        link.transport.send = slow  # type: ignore[method-assign]
        answers = asyncio.gather(*(asking.request("much", {}) for _ in range(1_000)))
        await until(lambda: len(link._serving) >= 900, "all are asked")
        go.set()
        assert {len(answer) for answer in await answers} == {32_000}
        assert link.closed_by is None
        assert most < MAX_CONTROL_BYTES / 2


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
        await until(lambda: disk.tries, "it was tried")
        disk.full = False
        key = lab.channels["lab"]
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


# --- whichever step fails ---------------------------------------------------------------------

STEPS = ["relay", "provider", "feed_server", "task_server", "bootstraps", "watches", "announcer",
         "availability"]  # fmt: skip


@pytest.mark.parametrize("part", STEPS)
async def test_a_step_that_fails_keeps_no_other_from_happening_and_is_done_again(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking("A", "B", "C") as lab:
        node = lab["P"]
        owner = getattr(node, part)
        names = {"bootstraps": "refresh", "watches": "on_change", "announcer": "on_change",
                 "availability": "on_change"}  # fmt: skip
        name = names.get(part, "cut")
        step, failures = getattr(owner, name), 0

        def fails(*args: Any) -> None:
            nonlocal failures
            if failures < 3:
                failures += 1
                raise OSError("a bug")
            step(*args)

        monkeypatch.setattr(owner, name, fails)
        await remove(lab, "B")
        await until(lambda: is_out(lab, "B", "P"), "B is out at the proxy")
        await until(lambda: failures == 3)
        consequences = node.documents._consequences
        await until(lambda: not consequences.open(lab.channels["lab"]), "and it was done")
        assert any("a bug" in text for _, text in node.context.warnings)


async def test_a_link_whose_rights_cannot_be_told_is_closed_and_the_others_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory("A", "B", "C", "D") as lab:
        network, bad = lab["P"].network, lab.id("A")
        reconsider = network.reconsider

        def fails(link: Link) -> None:
            if link.peer == bad and not network.is_member(lab.channels["lab"], lab.id("B")):
                raise RuntimeError("a bug")
            reconsider(link)

        monkeypatch.setattr(network, "reconsider", fails)
        await remove(lab, "B")
        await until(lambda: is_out(lab, "B", "P"))
        monkeypatch.undo()
        await lab.linked("A", "lab")
        assert is_out(lab, "B", "P")


async def test_a_listener_that_fails_does_not_keep_the_others_from_hearing() -> None:
    async with laboratory("A", "B") as lab:
        heard: list[str] = []

        def fails(*_: Any) -> None:
            raise RuntimeError("a bug")

        network = lab["P"].network
        for listeners, name in (
            (network.on_lost, "lost"),
            (network.on_shared, "shared"),
            (network.on_peer_version, "version"),
        ):
            listeners.insert(0, fails)
            listeners.append(lambda *_, name=name: heard.append(name))  # type: ignore[misc]
        await lab.stop("B")
        await until(lambda: "lost" in heard)
        await lab.start("B")
        await lab.linked("B", "lab")
        assert {"shared", "version"} <= set(heard)


async def test_an_expiry_that_fails_half_way_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with laboratory("A", "B") as lab:
        node, failures = lab["P"], 0
        look = node.network.reconsider_all

        def fails() -> bool:
            nonlocal failures
            failures += 1
            if failures < 3:
                raise RuntimeError("a bug")
            return look()

        monkeypatch.setattr(node.network, "reconsider_all", fails)
        document = node.context.book.signed(lab.channels["lab"]).document
        monkeypatch.setattr(
            ChannelDocument, "expired", lambda self, now: self.channel_id == document.channel_id
        )
        with contextlib.suppress(RuntimeError):
            node.documents.check_expiry()
        await until(lambda: not node.network.links, "nobody is linked any more")
        assert failures >= 3


async def test_housekeeping_survives_what_fails_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "_HOUSEKEEPING_SECONDS", 0.02)
    calls = {"reach": 0, "feeds": 0}

    def fails(*_: Any) -> None:
        calls["reach"] += 1
        raise OSError("a bug")

    async def hangs(*_: Any) -> None:
        calls["feeds"] += 1
        await asyncio.Event().wait()

    monkeypatch.setattr("kachery_p2p.node.links.reach.Reach.sweep", fails)
    monkeypatch.setattr("kachery_p2p.node.feeds.reader.FeedReader.sweep", hangs)
    async with laboratory("A", "B") as lab:
        await until(lambda: calls["reach"] > 6 and calls["feeds"], "it goes on")
        channel = lab.channels["lab"]
        monkeypatch.setattr(
            ChannelDocument, "expired", lambda self, now: self.channel_id == channel
        )
        await until(lambda: not lab["P"].network.links, "the channel's end is noticed")


# --- between the look and the deed ------------------------------------------------------------


async def two_channels(lab: Lab) -> None:
    """B shares a second channel with A, so that its link to A outlives its removal from ``lab``."""
    await lab.channel("two", {"A": "all", "B": "all"})
    sha1, _ = await lab.store("A", BIG)
    await lab.load("B", sha1)
    await until(lambda: lab["A"].network.links_to(lab.id("B"), lab.channels["two"]))


def direct(lab: Lab, source: str, target: str) -> Link:
    return lab[source].network.links_to(lab.id(target), lab.channels["two"])[0]


async def test_whoever_is_removed_while_a_slow_disk_reads_gets_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory("A", "B", listening=("A",)) as lab:
        await two_channels(lab)
        sha1, _ = await lab.store("A", b"secret")
        reads, go = threading.Event(), threading.Event()
        info = lab["A"].provider._info

        def slow(*args: Any) -> Any:
            reads.set()
            assert go.wait(10)
            return info(*args)

        monkeypatch.setattr(lab["A"].provider, "_info", slow)
        link = direct(lab, "B", "A")
        params = {"channel": lab.channels["lab"], "sha1": bytes.fromhex(sha1)}
        asking = asyncio.create_task(link.request("file.open", params))
        try:
            await until(reads.is_set)
            await remove(lab, "B")
        finally:
            go.set()
        with pytest.raises(NotAMember):
            await asking


async def test_a_task_whose_arguments_come_after_the_removal_does_not_run() -> None:
    async with laboratory("A", "B", listening=("A",)) as lab:
        await two_channels(lab)
        submitted: list[Any] = []

        async def submit(*args: Any, **options: Any) -> Any:
            submitted.append(args)
            raise LinkClosed(peer="nobody", reason="this is a test")

        lab["A"].task_queue.submit = submit  # type: ignore[method-assign]
        link = direct(lab, "B", "A")
        params = {"channel": lab.channels["lab"], "task": bytes(16), "function": "f.1",
                  "type": "query", "again": False}  # fmt: skip

        async def run(between: Callable[[], Awaitable[Any]]) -> None:
            stream = link.open("task.run", params)
            await until(lambda: stream.credit > 0, "the arguments may come")
            await between()
            with contextlib.suppress(KacheryError):
                await stream.send([2], b"{}")
                await stream.receive()
            assert stream.ended

        await run(lambda: asyncio.sleep(0))
        assert len(submitted) == 1
        await run(lambda: remove(lab, "B"))
        assert len(submitted) == 1


async def test_who_may_ask_for_nothing_any_more_does_not_hear_that_it_appeared() -> None:
    async with laboratory("A", "B") as lab:
        key, heard = lab.channels["lab"], asyncio.Event()
        content = file_key(hashlib.sha1(b"rare").hexdigest())
        lab["B"].watches.add(content, heard.set)
        watch_list = lab["P"].availability.watch_list
        await until(lambda: watch_list._watchers)
        roles = "provide-files,provide-feeds"
        await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("B"), roles=roles)
        await until(
            lambda: "request-files" not in lab["P"].context.book.effective(key, lab.id("B"))
        )
        told: list[str] = []
        [link] = lab["P"].network.links_to(lab.id("B"), key)
        link.note = lambda topic, params: told.append(topic)  # type: ignore[method-assign]
        [(_, blinded)] = watch_list._watchers
        watch_list.appeared(key, [blinded], lab["A"].context.key.public)
        assert told == []


async def test_a_proxy_whose_role_is_taken_relays_nothing_more() -> None:
    async with talking("A", "B") as lab:
        await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("P"), roles="none")
        await until(lambda: len(lab["P"].relay) == 0)


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
