"""Nobody has it: said only when everybody who is there has told all that it has."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.node.files.offers import BlobOffers
from kachery_p2p.node.gossip.exchange import Exchange
from kachery_p2p.node.gossip.lookup import Lookup
from kachery_p2p.node.gossip.own_log import LogKeeper
from kachery_p2p.node.gossip.questions import Answer, Where
from kachery_p2p.protocol.errors import NotFound, NotKnownYet
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.gossip.announcements import MARK, AnnouncementLog
from kachery_p2p.protocol.gossip.completeness import pack_mark
from kachery_p2p.protocol.gossip.keys import ContentKey
from kachery_p2p.protocol.gossip.messages import GOSSIP_PULL, WHO_HAS, Pull, WhoHas
from kachery_p2p.storage.paths import path_of
from tests.node.harness import Lab, laboratory, until

NOTHING = 40 * "0"


class Held:
    """A scan that has seen everything, once it has ``passed``, and goes on when it is told to."""

    def __init__(self) -> None:
        self.passed = threading.Event()
        self.go_on = threading.Event()

    def set(self) -> None:
        self.go_on.set()


@contextmanager
def scans_held_up(lab: Lab, name: str) -> Iterator[Held]:
    """A node that looks through its storage, whenever it starts, and comes to no end for now."""
    scan, held = BlobOffers.scan, Held()

    def slow(self: BlobOffers) -> Iterator[ContentKey]:
        yield from scan(self)
        if self._context.store.root == lab.root / name / "storage":
            held.passed.set()
            assert held.go_on.wait(20)

    BlobOffers.scan = slow  # type: ignore[method-assign]
    try:
        yield held
    finally:
        BlobOffers.scan = scan  # type: ignore[method-assign]
        held.set()


def hold_up_pulls(lab: Lab, name: str) -> asyncio.Event:
    """A node that is asked for its log, and takes its time."""
    network, go_on = lab[name].network, asyncio.Event()
    serve = network.handlers.streams[GOSSIP_PULL][1]

    async def slow(*arguments: Any) -> None:
        await go_on.wait()
        await serve(*arguments)

    network.on_stream_of(GOSSIP_PULL, Pull, slow)
    return go_on


def unless_on(storage: Path, method: Callable[..., None]) -> Callable[..., None]:
    """A method of an exchange that does nothing on the node with this storage."""

    def patched(self: Exchange, *arguments: Any, **options: Any) -> None:
        if self._context.store.root != storage:
            method(self, *arguments, **options)

    return patched


async def held(lab: Lab, proxy: str = "P") -> None:
    """Somebody's question waits at the proxy."""
    await until(lambda: lab[proxy].availability._held._by_channel, "a question is held")


def label(lab: Lab, name: str) -> str:
    """What the document calls a node, or the start of its id."""
    member = lab["P"].context.book.signed(lab.channels["lab"]).document.member(lab.id(name))
    return (member.label if member else "") or lab.id(name)[:8]


def copy_in(lab: Lab, name: str, data: bytes) -> str:
    """A file that is put into a node's storage while the node does not run."""
    sha1 = hashlib.sha1(data).hexdigest()
    path = path_of(lab.root / name / "storage", sha1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return sha1


async def test_a_restarted_proxy_does_not_say_nobody_before_it_knows_what_its_members_have() -> (
    None
):
    """Load_* gave None while 300,000 files were announced to a proxy that came back."""
    async with laboratory("A", "B") as lab:
        sha1, _ = await lab.store("A", b"there all the time")
        go_on = hold_up_pulls(lab, "A")
        await lab.restart("P")
        load = asyncio.create_task(lab.load("B", sha1))
        await held(lab)
        assert not load.done()
        go_on.set()
        await load
        assert lab.bytes_of("B", sha1) == b"there all the time"


async def test_a_restarted_proxy_waits_for_members_that_are_not_back_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory("A", "B") as lab:
        sha1, _ = await lab.store("A", b"on its way back")
        connect, may_connect = lab["A"].reach.connect, asyncio.Event()

        async def slow(*arguments: Any) -> Any:
            await may_connect.wait()
            return await connect(*arguments)

        monkeypatch.setattr(lab["A"].reach, "connect", slow)
        await lab.restart("P")
        load = asyncio.create_task(lab.load("B", sha1))
        await held(lab)
        may_connect.set()
        await load


async def test_a_member_that_does_not_come_back_is_not_waited_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kachery_p2p.node.gossip.census.REJOIN_SECONDS", 0.3)
    async with laboratory("A", "B") as lab:
        await lab.stop("A")
        await lab.restart("P")
        await lab.linked("B", "lab")
        assert isinstance(await lab.error("B", NOTHING), NotFound)


async def test_after_a_change_of_the_secret_all_is_announced_anew_before_nobody_is_said() -> None:
    """For 6.7 s after a removal at 100,000 files."""
    async with laboratory("A", "B", "C") as lab:
        sha1, _ = await lab.store("A", b"as before")
        with scans_held_up(lab, "A") as go_on:
            await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("C"))
            version = lab["A"].network.version_of(lab.channels["lab"])
            await until(lambda: lab["B"].network.version_of(lab.channels["lab"]) == version)
            load = asyncio.create_task(lab.load("B", sha1))
            await held(lab)
            go_on.set()
            await load


async def test_who_looks_under_a_new_secret_is_not_told_of_the_old_one() -> None:
    """The requester knows of the removal, and neither the provider nor the proxy does."""
    async with laboratory("A", "B", "C") as lab:
        key = lab.channels["lab"]
        sha1, _ = await lab.store("B", b"announced under the old secret")
        pull, may_pull = lab["P"].documents._pull, asyncio.Event()

        async def slow(*arguments: Any) -> Any:
            await may_pull.wait()
            return await pull(*arguments)

        lab["P"].documents._pull = slow  # type: ignore[method-assign]
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("C"))
        assert lab["P"].network.version_of(key) < lab["A"].network.version_of(key)
        load = asyncio.create_task(lab.load("A", sha1))
        await held(lab)
        may_pull.set()
        await load


async def test_what_came_while_a_member_did_not_run_is_waited_for_while_it_looks() -> None:
    async with laboratory("A", "B") as lab:
        await lab.store("A", b"so that there was a complete log once")
        await lab.stop("A")
        sha1 = copy_in(lab, "A", b"copied in")
        with scans_held_up(lab, "A") as go_on:
            await lab.start("A")
            await lab.linked("A", "lab")
            load = asyncio.create_task(lab.load("B", sha1))
            await held(lab)
            go_on.set()
            await load


async def test_who_is_still_announcing_is_named_when_patience_is_at_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory("A", "B") as lab:
        hold_up_pulls(lab, "A")
        await lab.restart("P")
        await lab.linked("A", "lab")
        monkeypatch.setattr(Lookup.find, "__kwdefaults__", {"patience": 0.2})
        error = await lab.error("B", NOTHING)
        assert isinstance(error, NotKnownYet)
        assert error.fields["who"] == f"{label(lab, 'A')} on 'lab'"
        found = await lab.call("B", "find", sha1=NOTHING)
        assert found["code"] == "not-known-yet"


async def test_a_member_that_says_nothing_for_long_is_named_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kachery_p2p.node.gossip.census.ANNOUNCE_SILENCE_SECONDS", 0.2)
    monkeypatch.setattr("kachery_p2p.node.gossip.pulls.STALL_SECONDS", 0.3)
    async with laboratory("A", "B") as lab:
        hold_up_pulls(lab, "A")
        await lab.restart("P")
        await lab.linked("A", "lab")
        await lab.linked("B", "lab")
        error = await lab.error("B", NOTHING)
        assert isinstance(error, NotFound)
        assert f"silent: {label(lab, 'A')} on 'lab'" in error.fields["detail"]


async def test_when_all_have_told_all_nobody_is_said_at_once() -> None:
    async with laboratory("A", "B") as lab:
        await lab.store("A", b"something else")
        await lab.announced("B")
        found = await lab["B"].lookup.find(file_key(NOTHING), patience=0)
        assert not found.open
        assert not found.errors
        assert isinstance(await lab.error("B", NOTHING), NotFound)


async def test_a_question_that_a_dying_proxy_holds_is_asked_again_when_it_is_back() -> None:
    async with laboratory("A", "B") as lab:
        sha1, _ = await lab.store("A", b"through two proxies' lives")
        go_on = hold_up_pulls(lab, "A")
        await lab.restart("P")
        load = asyncio.create_task(lab.load("B", sha1))
        await held(lab)
        await lab.restart("P")
        go_on.set()
        await load


async def test_on_one_channel_nobody_waits_for_what_is_found_on_another() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await lab.channel("lab", {"A": "all", "B": "all"})
        await lab.channel("two", {"A": "all", "B": "all", "C": "all"})
        await lab.start("Q", listen="127.0.0.1:0", proxy=True)
        sha1, _ = await lab.store("A", b"known on one", tell="lab")
        with scans_held_up(lab, "C") as scan:
            lab["C"].announcer.on_change(lab.channels["two"])
            await lab.call("A", "channel.set-roles", channel="two", node=lab.id("C"), roles="none")
            await lab.call("A", "channel.set-roles", channel="two", node=lab.id("C"), roles="all")
            await until(scan.passed.is_set)
            await lab.load("B", sha1)
            assert not scan.go_on.is_set()


async def test_a_member_that_left_and_came_back_contradicts_nothing_that_it_signed() -> None:
    async with laboratory("A", "B") as lab:
        channel, me = lab.channels["lab"], lab["B"].context.key.public
        for number in range(5):
            await lab.store("B", b"%d" % number)
        index = lab["P"].availability.index
        before = index.position(channel, me)
        text = await lab.export("A", "lab")
        await lab.call("B", "channel.leave", channel="lab")
        sha1, _ = await lab.store("B", b"while it was away", tell=None)
        await lab.call("B", "channel.join", document=text, roles="all")
        await lab.announced("B")
        after = index.position(channel, me)
        assert before is not None
        assert after is not None
        assert after[0] > before[0]
        assert not [w for w in lab["P"].context.warnings if "two different" in w[1]]
        assert lab["B"].announcer.log(channel).live == 6  # type: ignore[union-attr]
        await lab.load("A", sha1)


async def test_a_member_whose_backup_was_restored_is_not_taken_to_have_told_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proxy has a complete log of it, from before."""
    async with laboratory("A", "B") as lab:
        channel, key = lab.channels["lab"], lab["A"].context.key
        own = lab["A"].announcer.log(channel)
        assert own is not None
        newer = AnnouncementLog(own.epoch + 3)
        newer.extend(newer.plan([(MARK, pack_mark(1, ["files", "feeds", "tasks"]))]))
        for batch in newer.batches(channel, key):
            lab["P"].availability.index.apply(batch)
        await lab.stop("A")
        sha1 = copy_in(lab, "A", b"after the backup")
        load_log, may_load = LogKeeper._load, threading.Event()

        def slow(self: LogKeeper, where: bytes) -> Any:
            if self._state is lab["A"].state:
                assert may_load.wait(20)
            return load_log(self, where)

        monkeypatch.setattr(LogKeeper, "_load", slow)
        await lab.start("A")
        await lab.linked("A", "lab")
        # The proxy has greeted it by now, and it could say nothing. It says so when it has its log.
        overtake, claims = lab["A"].announcer.overtake, []
        monkeypatch.setattr(lab["A"].announcer, "overtake", lambda *claim: claims.append(claim))
        may_load.set()
        await until(lambda: claims, "the proxy says that it knows more")
        load = asyncio.create_task(lab.load("B", sha1))
        await held(lab)
        overtake(*claims[0])
        await load
        own = lab["A"].announcer.log(channel)
        assert own is not None
        assert own.epoch == newer.epoch + 1


async def test_who_is_given_a_role_is_asked_what_it_has_before_nobody_is_said() -> None:
    """Its log was complete for what it could provide before."""
    async with laboratory("A", "B", channel=False) as lab:
        await lab.channel("lab", {"A": "all", "B": "provide-feeds"})
        sha1, _ = await lab.store("B", b"not to be had yet")
        with scans_held_up(lab, "B") as scan:
            await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("B"), roles="all")
            version = lab["A"].network.version_of(lab.channels["lab"])
            await until(lambda: lab["P"].network.version_of(lab.channels["lab"]) == version)
            load = asyncio.create_task(lab.load("A", sha1))
            await held(lab)
            scan.set()
            await load


async def test_a_proxy_that_lies_about_a_log_cannot_make_its_node_start_over_again_and_again() -> (
    None
):
    async with laboratory("A", "B") as lab:
        channel, announcer = lab.channels["lab"], lab["A"].announcer
        await lab.announced("A")
        first = announcer.state(channel)[0]
        announcer.overtake(channel, (first, 1 << 40))
        await until(lambda: announcer.state(channel)[0] == first + 1, "the first claim counts")
        (link,) = lab["A"].network.links_to(lab.id("P"), channel)
        for _ in range(50):
            epoch = announcer.state(channel)[0]
            announcer.overtake(channel, (epoch, 1 << 40))
            await link.request("channel.online", {"channel": channel})
            await lab.announced("A")
        assert announcer.state(channel)[0] <= first + 2
        assert isinstance(await lab.error("B", NOTHING), NotFound)


async def test_a_role_that_is_switched_off_and_on_again_is_not_complete_in_between() -> None:
    """All its files are withdrawn, and not announced anew yet."""
    async with laboratory("A", "B", channel=False) as lab:
        channel = await lab.channel("lab", {"A": "all", "B": "all"})
        sha1, _ = await lab.store("B", b"withdrawn for a moment")
        text = await lab.export("A", "lab")
        mark, marks = lab["B"].announcer._mark, []

        async def first_only(*arguments: Any, **more: Any) -> None:
            marks.append(arguments[2])
            if len(marks) == 1:
                await mark(*arguments, **more)

        lab["B"].announcer._mark = first_only  # type: ignore[method-assign]
        await lab.call("B", "channel.join", document=text, roles="provide-feeds")
        await until(lambda: not lab["B"].announcer.log(channel).live)  # type: ignore[union-attr]
        await lab.announced("B")
        lab["B"].announcer._mark = mark  # type: ignore[method-assign]
        with scans_held_up(lab, "B") as scan:
            await lab.call("B", "channel.join", document=text, roles="all")
            await until(scan.passed.is_set)
            load = asyncio.create_task(lab.load("A", sha1))
            await held(lab)
            scan.set()
            await load


async def test_who_joins_a_download_is_not_given_an_answer_from_before_it_asked() -> None:
    """Found by the simulator: one look-up served two callers, and came too early for the second."""
    async with laboratory("A", "B") as lab:
        data, go_on, asked = b"stored in between", asyncio.Event(), []
        network, sha1 = lab["P"].network, hashlib.sha1(b"stored in between").hexdigest()
        who_has = network.handlers.requests[WHO_HAS][1]

        async def late(*arguments: Any) -> Any:
            answer = await who_has(*arguments)
            asked.append(answer)
            await go_on.wait()
            return answer

        network.on_request_of(WHO_HAS, WhoHas, late)
        first = asyncio.create_task(lab.load("B", sha1))
        await until(lambda: asked, "the proxy has looked")
        await lab.store("A", data)
        second = asyncio.create_task(lab.load("B", sha1))
        await until(lambda: lab["B"].downloader.downloads[sha1]._waiters == 2)
        go_on.set()
        await second
        await first


async def test_what_a_proxy_said_while_another_held_the_question_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by the simulator: the holder came to the first proxy while the second held the question."""
    async with laboratory("A", "B") as lab:
        sha1, _ = await lab.store("A", b"there in the end")
        lookup, said = lab["B"].lookup, 0
        ask = lookup.questions.ask

        async def scripted(where: Where, key: bytes) -> Answer:
            nonlocal said
            said += 1
            match said:
                case 1:
                    return Answer(unknown={lab["A"].context.key.public: None})
                case 2:
                    assert where.hold > 0
                    return Answer()
            return await ask(where, key)

        monkeypatch.setattr(lookup.questions, "ask", scripted)
        found = await lookup.find(file_key(sha1))
        assert [holder.node for holder in found.holders] == [lab.id("A")]


async def test_what_was_said_on_a_link_counts_until_there_is_a_newer_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A computer that crashed came back while its old link was not known to be dead: of what had been
    put into its storage meanwhile it was said that nobody has it."""
    async with laboratory("A", "B") as lab:
        await lab.store("A", b"so that there was a complete log once")
        await lab.announced("A")
        for part in ("state", "storage"):
            shutil.copytree(lab.root / "A" / part, lab.root / "again" / part)
        sha1 = copy_in(lab, "again", b"copied in")
        key, quiet = lab.channels["lab"], lab.root / "again" / "storage"
        with monkeypatch.context() as patched:
            for name in ("_send_part", "_push"):
                patched.setattr(Exchange, name, unless_on(quiet, getattr(Exchange, name)))
            await lab.start("again")  # and the link of A is still there
            await until(
                lambda: len(lab["P"].network.links_to(lab.id("A"), key)) == 2, "a link of each"
            )
            load = asyncio.create_task(lab.load("B", sha1))
            await held(lab)
        for tell in lab["again"].announcer.on_state:
            tell(key)
        await load
