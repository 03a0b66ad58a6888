"""Pushing to keepers, between real nodes over loopback."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from kachery_p2p.node.files import download as download_module
from kachery_p2p.node.keepers import keeper as keeper_module
from kachery_p2p.node.keepers.pusher import Pusher, Thing, Wish
from kachery_p2p.node.keepers.taking import Coming
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    ContentPinned,
    KacheryError,
    KeepRefused,
    NobodyKeeps,
    NotFound,
    NotKept,
    StorageFull,
)
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import (
    KEEP_UNFINISHED_SECONDS,
    KEPT_AFTER_REMOVAL_SECONDS,
    MANIFEST_CHUNK,
)
from kachery_p2p.storage.inventory.kept import Pushed
from tests.node.feeds.lab import Subfeed
from tests.node.harness import Live, laboratory, until

from .lab import content, has, kept_at, offer, push


async def test_a_pushed_file_is_on_the_keepers_disk_and_stays_when_its_node_has_gone() -> None:
    async with laboratory("A", "K", "C") as lab:
        await offer(lab, "K")
        sha1, manifest = await lab.store("A", content(MANIFEST_CHUNK + 100_000))
        pushed = await push(lab, "A", sha1, manifest, label="big.dat")
        assert [each["label"] for each in pushed["kept"]] == ["K"]
        assert manifest is not None
        assert has(lab["K"], sha1)
        assert has(lab["K"], manifest)
        listed = await lab.call("A", "keep.list")
        assert [(e["content"], e["confirmed"]) for e in listed["elsewhere"]] == [(sha1, True)]
        assert listed["elsewhere"][0]["count"] == 2
        (here,) = (await lab.call("K", "keep.list"))["here"]
        assert (here["content"], here["node"], here["whole"]) == (sha1, lab.id("A"), True)
        assert (here["label"], here["count"]) == ("big.dat", 2)
        assert here["size"] == MANIFEST_CHUNK + 100_000 + len(lab.bytes_of("K", manifest))
        await lab.stop("A")
        await lab.announced("K")
        await lab.load("C", sha1, manifest)
        assert lab.bytes_of("C", sha1) == content(MANIFEST_CHUNK + 100_000)


async def test_a_folder_is_kept_with_all_that_is_in_it() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        small = [(await lab.store("A", content(5_000, seed)))[0] for seed in range(5)]
        big, manifest = await lab.store("A", content(MANIFEST_CHUNK + 1, 7))
        listing = {
            "files": {
                str(place): {"sha1": sha1, "size": 5_000} for place, sha1 in enumerate(small)
            },
            "dirs": {"sub": {"files": {"big": {"sha1": big, "manifest": manifest}}, "dirs": {}}},
        }
        folder, _ = await lab.store("A", json.dumps(listing).encode())
        pushed = await push(lab, "A", folder)
        assert pushed["count"] == 8
        assert manifest is not None
        for sha1 in (*small, big, manifest, folder):
            assert has(lab["K"], sha1)
            with pytest.raises(ContentPinned, match="kept for node"):
                await lab.call("K", "delete_file", sha1=sha1)
        assert await kept_at(lab, "K") == [folder]


async def test_what_is_not_all_here_is_not_pushed() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        listing = {"files": {"x": {"sha1": "ab" * 20, "size": 1}}, "dirs": {}}
        folder, _ = await lab.store("A", json.dumps(listing).encode())
        assert (await push(lab, "A", folder))["missing"] == ["ab" * 20]
        assert await kept_at(lab, "K") == []


async def test_nobody_keeps_until_somebody_offers_it_to_this_node() -> None:
    async with laboratory("A", "K", "C") as lab:
        sha1, _ = await lab.store("A", b"x" * 100)
        with pytest.raises(NobodyKeeps):
            await push(lab, "A", sha1)
        await offer(lab, "K", nodes=[lab.id("C")])
        with pytest.raises(NobodyKeeps):
            await push(lab, "A", sha1)
        mine = (await lab.store("C", b"y" * 100))[0]
        await push(lab, "C", mine)
        await offer(lab, "K", nodes=[lab.id("A")])
        await push(lab, "A", sha1)
        with pytest.raises(NobodyKeeps):
            await push(lab, "C", mine, to=lab.id("K"))
        assert await kept_at(lab, "K") == sorted([sha1, mine])
        # It is remembered over a restart.
        await lab.restart("K")
        await lab.linked("K", "lab")
        await lab.announced("K")
        await push(lab, "A", (await lab.store("A", b"z" * 100))[0])


async def test_who_asks_a_keeper_that_does_not_keep_for_it_is_refused() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K", nodes=[lab.id("A")])
        sha1, _ = await lab.store("A", content(1_000))
        holders = await lab["A"].keepers.pusher.keepers(None)
        # The offer ends between the look-up and the push.
        await lab.call("K", "keep.offer", channel="lab", nodes=[])
        pusher = lab["A"].keepers.pusher
        thing, _ = await pusher.file(sha1, None, "")
        assert thing is not None
        with pytest.raises(KeepRefused, match="does not keep anything for this node"):
            await _at(pusher, holders[0], thing)
        assert await kept_at(lab, "K") == []
        assert not has(lab["K"], sha1)


async def _at(pusher: Pusher, holder: Holder, thing: Thing) -> Pushed:
    return await pusher._at(holder, thing, Wish(), lambda *_: None)


async def test_a_keeper_over_its_limit_says_so_and_has_nothing_of_it() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K", limit=150_000)
        first, _ = await lab.store("A", content(100_000))
        second, _ = await lab.store("A", content(60_000, 2))
        await push(lab, "A", first)
        with pytest.raises(KeepRefused, match="60000 bytes more would pass the 150000 bytes"):
            await push(lab, "A", second)
        assert await kept_at(lab, "K") == [first]
        assert not has(lab["K"], second)
        await push(lab, "A", first)  # what is kept counts once
        await lab.call("A", "keep.drop", sha1=first)
        await push(lab, "A", second)
        assert await kept_at(lab, "K") == [second]


async def test_a_storage_without_room_refuses_and_lets_go_of_what_came() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        await lab.call("K", "set_limit", bytes=300_000)
        await lab.call("K", "store", data=content(250_000, 9))
        files = [(await lab.store("A", content(40_000, seed)))[0] for seed in range(3)]
        listing = {"files": {sha1: {"sha1": sha1, "size": 40_000} for sha1 in files}, "dirs": {}}
        folder, _ = await lab.store("A", json.dumps(listing).encode())
        with pytest.raises(KeepRefused, match="no room") as refused:
            await push(lab, "A", folder)
        assert str(lab["K"].store.root) not in str(refused.value)
        await lab["K"].keepers.keeper.sweep()
        assert await kept_at(lab, "K") == []
        assert not any(has(lab["K"], sha1) for sha1 in (*files, folder))


async def test_two_copies_are_at_two_keepers_and_too_few_keepers_are_named() -> None:
    async with laboratory("A", "K", "L") as lab:
        await offer(lab, "K")
        sha1, _ = await lab.store("A", content(10_000))
        with pytest.raises(NotKept, match="1 of the 2 keepers"):
            await push(lab, "A", sha1, copies=2)
        await offer(lab, "L")
        pushed = await push(lab, "A", sha1, copies=2)
        assert sorted(each["label"] for each in pushed["kept"]) == ["K", "L"]
        assert has(lab["K"], sha1)
        assert has(lab["L"], sha1)


async def test_a_keeper_that_refuses_is_passed_over_for_one_that_does_not() -> None:
    async with laboratory("A", "K", "L") as lab:
        await offer(lab, "K", limit=1)
        await offer(lab, "L")
        sha1, _ = await lab.store("A", content(10_000))
        pushed = await push(lab, "A", sha1)
        assert [each["label"] for each in pushed["kept"]] == ["L"]


async def test_a_node_without_the_role_is_refused() -> None:
    async with laboratory("A", "K", "B") as lab:
        await offer(lab, "K")
        sha1, _ = await lab.store("B", content(10_000))
        await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("B"), roles="request")
        roles = lab["K"].network.book
        key = lab.channels["lab"]
        await until(lambda: "provide-files" not in roles.granted(key, lab.id("B")))
        with pytest.raises(AccessDenied, match="provide-files"):
            await push(lab, "B", sha1)
        assert await kept_at(lab, "K") == []


async def test_what_came_from_another_channel_is_not_pushed_to_this_one() -> None:
    async with laboratory("A", "K", "C") as lab:
        await lab.channel("second", {"A": "all", "C": "all"}, owner="P")
        sha1, _ = await lab.store("C", content(10_000), channel="second", tell="second")
        await lab.load("A", sha1, channel="second")
        await offer(lab, "K")
        with pytest.raises(BadInput, match="came from another channel"):
            await push(lab, "A", sha1)


async def test_dropping_deletes_what_came_only_to_be_kept_and_nothing_else() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        only, _ = await lab.store("A", content(10_000, 1))
        pinned, _ = await lab.store("A", content(10_000, 2))
        own, _ = await lab.store("A", content(10_000, 3))
        await lab.store("K", content(10_000, 3))
        before, _ = await lab.store("A", content(10_000, 4))
        await lab.load("K", before)
        for sha1 in (only, pinned, own, before):
            await push(lab, "A", sha1)
        await lab.call("K", "pin", sha1=pinned, name="mine")
        for sha1 in (only, pinned, own, before):
            await lab.call("A", "keep.drop", sha1=sha1)
        await lab["K"].keepers.keeper.sweep()
        assert await kept_at(lab, "K") == []
        here = [has(lab["K"], sha1) for sha1 in (only, pinned, own, before)]
        assert here == [False, True, True, True]
        with pytest.raises(NotFound):
            await lab.call("A", "keep.drop", sha1=only)


async def test_what_two_nodes_push_goes_when_neither_wants_it() -> None:
    async with laboratory("A", "K", "B") as lab:
        await offer(lab, "K")
        sha1, _ = await lab.store("A", content(10_000))
        await lab.store("B", content(10_000))
        await push(lab, "A", sha1)
        await push(lab, "B", sha1)
        await lab.call("A", "keep.drop", sha1=sha1)
        await lab["K"].keepers.keeper.sweep()
        assert has(lab["K"], sha1)
        with pytest.raises(ContentPinned, match=f"kept release sha1://{sha1}"):
            await lab.call("K", "delete_file", sha1=sha1)
        await lab.call("K", "keep.release", sha1=sha1, node=lab.id("B"))
        assert not has(lab["K"], sha1)
        listed = (await lab.call("B", "keep.list"))["elsewhere"]
        assert [each["confirmed"] for each in listed] == [False]


async def test_a_users_unpin_does_not_end_what_is_kept() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        sha1, _ = await lab.store("A", content(10_000))
        await push(lab, "A", sha1)
        with pytest.raises(BadInput, match="kept for node"):
            await lab.call("K", "unpin", sha1=sha1)
        await lab.call("K", "pin", sha1=sha1, name="mine")
        assert (await lab.call("K", "unpin", sha1=sha1))["ended"] == 1
        with pytest.raises(ContentPinned, match="kept for node"):
            await lab.call("K", "delete_file", sha1=sha1)
        await lab.call("K", "delete_file", sha1=sha1, force=True)
        listed = (await lab.call("A", "keep.list"))["elsewhere"]
        assert [each["confirmed"] for each in listed] == [False]
        await push(lab, "A", sha1)
        assert has(lab["K"], sha1)


async def test_kept_things_go_when_their_time_is_over_or_their_node_is_no_member() -> None:
    async with laboratory("A", "K", "B") as lab:
        await offer(lab, "K")
        keeper = lab["K"].keepers.keeper
        month, _ = await lab.store("A", content(10_000, 1))
        ever, _ = await lab.store("A", content(10_000, 2))
        theirs, _ = await lab.store("B", content(10_000, 3))
        await push(lab, "A", month, seconds=30 * 86_400.0)
        await push(lab, "A", ever)
        await push(lab, "B", theirs)
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("B"))
        key = lab.channels["lab"]
        await until(lambda: not lab["K"].network.is_member(key, lab.id("B")))
        now = lab["K"].context.clock
        await keeper.sweep()
        assert await kept_at(lab, "K") == sorted([month, ever, theirs])
        lab["K"].context.clock = lambda: now() + 31 * 86_400.0
        await keeper.sweep()
        assert await kept_at(lab, "K") == [ever]
        await until(lambda: not has(lab["K"], month))
        assert not has(lab["K"], theirs)
        assert has(lab["K"], ever)
        assert KEPT_AFTER_REMOVAL_SECONDS < 31 * 86_400.0


async def test_a_push_that_broke_off_counts_until_it_is_given_up() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K", limit=150_000)
        sha1, _ = await lab.store("A", content(100_000))
        keeper, taker = lab["K"].keepers.keeper, lab["K"].keepers.keeper._taker
        begun = asyncio.Event()

        async def never(*_: Any) -> None:
            begun.set()
            await asyncio.Event().wait()

        fetch, taker._fetch = taker._fetch, never  # type: ignore[method-assign]
        task = asyncio.create_task(push(lab, "A", sha1))
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: not keeper._coming)
        assert [e["whole"] for e in (await lab.call("K", "keep.list"))["here"]] == [False]
        taker._fetch = fetch  # type: ignore[method-assign]
        other, _ = await lab.store("A", content(90_000, 2))
        with pytest.raises(KeepRefused):
            await push(lab, "A", other)
        now = lab["K"].context.clock
        lab["K"].context.clock = lambda: now() + KEEP_UNFINISHED_SECONDS + 1
        await keeper.sweep()
        await push(lab, "A", other)
        assert await kept_at(lab, "K") == [other]


async def test_a_damaged_copy_at_the_keeper_is_fetched_anew_before_it_is_kept() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        sha1, _ = await lab.store("A", content(200_000))
        await lab.load("K", sha1)
        blob = lab["K"].store.find(sha1)
        assert blob is not None
        blob.path.chmod(0o644)
        blob.path.write_bytes(b"\0" * 200_000)
        await push(lab, "A", sha1)
        assert lab.bytes_of("K", sha1) == content(200_000)


async def test_who_says_less_than_there_is_is_refused_and_nothing_stays() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K", limit=50_000)
        sha1, _ = await lab.store("A", content(200_000))
        pusher = lab["A"].keepers.pusher
        thing, _ = await pusher.file(sha1, None, "")
        assert thing is not None
        (holder,) = await pusher.keepers(None)
        with pytest.raises(KeepRefused, match="more than the 1000 bytes"):
            await _at(pusher, holder, replace(thing, size=1_000))
        await lab["K"].keepers.keeper.sweep()
        assert await kept_at(lab, "K") == []
        assert not has(lab["K"], sha1)


async def test_the_keepers_word_counts_although_the_pusher_ended_before_it_wrote_that_down() -> (
    None
):
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        sha1, _ = await lab.store("A", content(10_000))
        await push(lab, "A", sha1, label="x.dat")
        row = lab["A"].state.pushed()[0]
        lab["A"].state.forget_push(row.content, row.channel, row.keeper)
        (listed,) = (await lab.call("A", "keep.list"))["elsewhere"]
        assert (listed["content"], listed["confirmed"]) == (sha1, True)
        assert listed["label"] == "x.dat"


async def test_the_same_thing_pushed_twice_at_once_is_kept_once() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        sha1, _ = await lab.store("A", content(100_000))
        results = await asyncio.gather(
            *(push(lab, "A", sha1) for _ in range(3)), return_exceptions=True
        )
        assert any(not isinstance(each, KacheryError) for each in results)
        assert await kept_at(lab, "K") == [sha1]


async def test_an_offer_ends_with_the_channel_and_is_not_back_when_it_is_joined_again() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K", limit=1_000)
        document = await lab.export("A", "lab")
        await lab.call("K", "channel.leave", channel="lab")
        key = f"keep:{lab.channels['lab'].hex()}"
        await until(lambda: lab["K"].state.get_meta(key) is None)
        await lab.call("K", "channel.join", document=document)
        shown = await lab.call("K", "channel.show", channel="lab")
        assert shown["keeping"] == {"keep_for": [], "keep_limit": None, "used": 0}


@pytest.mark.parametrize("copies", [1, 2])
async def test_a_push_that_cannot_be_noted_says_why(
    copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pusher's own disk is full: that is no keeper's fault, and no other one is tried."""
    async with laboratory("A", "K", "C") as lab:
        await offer(lab, "K")
        await offer(lab, "C")
        sha1, _ = await lab.store("A", content(10_000))

        def full(pushed: Pushed) -> None:
            raise StorageFull(what="the node's state", path="/state")

        monkeypatch.setattr(lab["A"].state, "push", full)
        with pytest.raises(StorageFull):
            await push(lab, "A", sha1, copies=copies)
        monkeypatch.undo()
        # The keeper has it, and says so when it is asked.
        listed = (await lab.call("A", "keep.list"))["elsewhere"]
        assert {each["confirmed"] for each in listed} == {True}


@pytest.mark.parametrize("what", ["a small file", "a large file", "a folder"])
async def test_what_was_stored_a_moment_ago_is_fetched_from_who_pushes_it(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the proxies have heard that anybody has it."""
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")

        async def say_nothing(*_: object) -> None:
            pass

        monkeypatch.setattr(lab["A"].announcer, "_announce", say_nothing)
        manifest = None
        if what == "a folder":
            names = [(await lab.store("A", content(1_000, seed)))[0] for seed in range(20)]
            files = {f"{at}": {"size": 1_000, "sha1": name} for at, name in enumerate(names)}
            listing = json.dumps({"files": files, "dirs": {}}).encode()
            sha1, _ = await lab.store("A", listing)
        else:
            size = 10_000 if what == "a small file" else MANIFEST_CHUNK + 1
            sha1, manifest = await lab.store("A", content(size))
        pushed = await push(lab, "A", sha1, manifest)
        assert [each["confirmed"] for each in (await lab.call("A", "keep.list"))["elsewhere"]] == [
            True
        ]
        assert pushed["count"] == {"a small file": 1, "a large file": 2, "a folder": 21}[what]


@pytest.mark.parametrize("feed", [False, True])
async def test_what_is_pushed_once_more_is_kept_for_the_longer_of_the_two(feed: bool) -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        if feed:
            log = await Subfeed.create(lab)
            await log.append("A", 1)
            what = {"feed": log.feed.hex()}
        else:
            what = {"sha1": (await lab.store("A", content(10_000)))[0]}

        async def until_when(**more: Any) -> float | None:
            (said,) = (await lab.call("A", "keep.push", **what, **more))["kept"]
            (here,) = (await lab.call("K", "keep.list"))["here"]
            (mine,) = (await lab.call("A", "keep.list"))["elsewhere"]
            assert said["until"] == here["until"] == mine["until"]
            until: float | None = here["until"]
            return until

        month = await until_when(seconds=30 * 86_400.0)
        assert month is not None
        assert await until_when(seconds=86_400.0) == month
        year = await until_when(seconds=365 * 86_400.0)
        assert year is not None
        assert year > month
        assert await until_when() is None
        assert await until_when(seconds=86_400.0) is None
        # Who wants it to go sooner says so.
        await lab.call("A", "keep.drop", **what)
        assert await until_when(seconds=86_400.0) is not None


async def test_a_push_says_how_far_it_is_inside_the_large_files_of_a_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper_module, "KEEP_TELL_SECONDS", 0.05)
    monkeypatch.setattr(download_module, "_TELL_SECONDS", 0.0)
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        sizes = [6_000_000, 6_000_001]
        names = [(await lab.store("A", content(size, size)))[0] for size in sizes]
        files = {name: {"sha1": name, "size": 1} for name in names}
        folder, _ = await lab.store("A", json.dumps({"files": files, "dirs": {}}).encode())
        await lab.call("A", "set_rates", upload=6_000_000)
        live = Live()
        pushed = await lab.live("A", live, "keep.push", sha1=folder)
        small = pushed["size"] - sum(sizes)
        whole = {0, small, small + sizes[0], small + sizes[1], pushed["size"]}
        told = [each["done"] for each in live.told]
        assert set(told) - whole, "only whole files were told of"
        assert told == sorted(told)


async def test_a_push_that_does_not_end_keeps_nobody_else_from_pushing() -> None:
    """Its own node alone waits for it, when it pushes the same thing once more."""
    async with laboratory("A", "C", "K") as lab:
        await offer(lab, "K")
        sha1, _ = await lab.store("A", content(1_000))
        other, _ = await lab.store("C", content(1_000, seed=2))
        taker = lab["K"].keepers.keeper._taker
        begun, may_end = asyncio.Event(), asyncio.Event()
        fetch = taker._fetch

        async def slowly(work: Coming, *more: Any) -> None:
            if work.kept.node == lab.id("A") and not may_end.is_set():
                begun.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    await may_end.wait()
            await fetch(work, *more)

        taker._fetch = slowly  # type: ignore[method-assign]
        first = asyncio.create_task(push(lab, "A", sha1))
        await begun.wait()
        again = asyncio.create_task(push(lab, "A", sha1))
        with pytest.raises(KacheryError, match="another push of the same thing"):
            await first
        await push(lab, "C", other)
        assert not again.done()
        may_end.set()
        await again
        assert await kept_at(lab, "K") == sorted([sha1, other])
