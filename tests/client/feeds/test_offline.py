"""Feeds without a node: names, URIs, and what is refused before anybody is asked."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest

import kachery_p2p as kc
from kachery_p2p.client.feeds.live_logs import batches, encode_all, patiently
from kachery_p2p.protocol import errors
from kachery_p2p.protocol.errors import BadInput, BadUri, DaemonNotRunning, LinkClosed
from kachery_p2p.protocol.feeds.feed import pack_texts, subfeed_hash
from kachery_p2p.protocol.limits import MAX_FEED_MESSAGE, MAX_FEED_WATCHES, MAX_SLICE, MAX_URI
from kachery_p2p.protocol.uri import parse_uri

FEED_ID = "0123456789abcdef" * 4
FEED = f"feed://{FEED_ID}"
PRIMES = subfeed_hash("primes").hex()
ODD_NAMES: list[Any] = [
    "a/b",
    "é ü?#&=",
    "~" + PRIMES,
    {"b": 1, "a": [None]},
    5,
    "x" * 1_000,
    "é" * 900,
]


def live(name: Any = "primes") -> kc.Subfeed:
    return kc.Feed(bytes.fromhex(FEED_ID)).load_subfeed(name)


# --- names ---------------------------------------------------------------------------------------


def test_a_subfeed_is_named_as_users_know_it() -> None:
    subfeed = live()
    assert subfeed.uri == f"{FEED}/primes"
    assert (subfeed.subfeed_name, subfeed.subfeed_hash) == ("primes", PRIMES)
    assert (subfeed.position, subfeed.is_snapshot) == (0, False)
    assert repr(subfeed) == f"<Subfeed {FEED}/primes at message 0>"
    assert live({"n": 1}).uri == f"{FEED}/~{subfeed_hash({'n': 1}).hex()}"


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: repr(name)[:20])
def test_the_uri_of_a_subfeed_leads_back_to_it(name: Any) -> None:
    subfeed = live(name)
    assert len(subfeed.uri) <= MAX_URI
    assert subfeed_hash(parse_uri(subfeed.uri).path).hex() == subfeed.subfeed_hash


@pytest.mark.parametrize("name", ["", "~123", "x" * 1_001, {1, 2}, float("nan"), "\ud800"])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(BadInput):
        live(name)


def test_a_feed_says_what_it_is() -> None:
    feed = kc.Feed(bytes.fromhex(FEED_ID), is_writeable=True)
    assert feed.uri == feed.get_uri() == FEED
    assert feed.feed_id == feed.get_feed_id() == FEED_ID
    assert (feed.is_writeable, feed.is_snapshot) == (True, False)
    assert repr(feed) == f"<Feed {FEED} (writeable)>"
    assert feed.get_subfeed("x", 7).position == 7


def test_a_position_is_a_number_from_0() -> None:
    import numpy as np

    subfeed = live()
    subfeed.set_position(np.int64(5))
    assert subfeed.position == 5
    assert type(subfeed.position) is int
    for wrong in (-1, 1.5, "1", None, 1 << 41):
        with pytest.raises(BadInput, match="position"):
            subfeed.set_position(wrong)
    assert subfeed.position == 5


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        ("load_feed", f"{FEED}/primes"),
        ("delete_feed", f"{FEED}/primes"),
        ("delete_feed", "sha1://" + "0" * 40),
        ("load_feed", ""),
        ("load_feed", None),
        ("load_feed", "feed://123"),
        ("load_feed", "http://x"),
        ("load_feed", "sha1dir://" + "0" * 40),
        ("load_feed", "sha1://" + "0" * 40 + "?subfeedName=x"),
        ("load_subfeed", FEED),
        ("load_subfeed", "primes"),
        ("load_subfeed", "sha1://" + "0" * 40),
        ("load_subfeed", "sha1://" + "0" * 40 + "?subfeedName=%FF"),
        ("load_subfeed", "sha1://" + "0" * 40 + "?subfeedName="),
        ("load_subfeed", f"{FEED}/~12"),
        ("get_feed_id", FEED),
        ("create_feed", FEED),
        ("create_feed", ""),
    ],
)
def test_what_names_something_else_is_refused(function: str, argument: Any, folder: Path) -> None:
    with pytest.raises(BadInput):
        getattr(kc, function)(argument)


def test_a_feed_is_not_created_under_a_uri(folder: Path) -> None:
    for uri in (FEED, "sha1://" + "0" * 40):
        with pytest.raises(BadInput, match="under a name"):
            kc.load_feed(uri, create=True)


@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_times_that_are_none_are_refused(wrong: float, folder: Path) -> None:
    with pytest.raises(BadInput, match="timeout_sec"):
        kc.load_feed("myfeed", timeout_sec=wrong)
    with pytest.raises(BadInput, match="wait_msec"):
        live().get_next_messages(wait_msec=wrong)


# --- twins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kc.Feed, kc.Subfeed])
def test_every_method_that_asks_the_node_is_there_twice(kind: type) -> None:
    methods = {name: value for name, value in vars(kind).items() if inspect.isfunction(value)}
    waiting = {name for name, value in methods.items() if inspect.iscoroutinefunction(value)}
    waiting = {name for name in waiting if not name.startswith("_")}
    assert len(waiting) >= 3
    for name in waiting:
        assert inspect.signature(methods[name[1:]]) == inspect.signature(methods[name])
    for name, value in methods.items():
        assert name.startswith("_") or inspect.getdoc(value), name
    assert not [name for name in methods if name[1:] in waiting]


# --- messages ------------------------------------------------------------------------------------


async def test_the_message_that_cannot_be_sent_is_named(folder: Path) -> None:
    for wrong in (float("nan"), b"bytes", {1: 2}, "x" * MAX_FEED_MESSAGE):
        with pytest.raises(BadInput, match=r"feed message \[2\]: .*nothing was appended"):
            await encode_all([1, 2, wrong, 3])
    with pytest.raises(BadInput, match="give a list"):
        await encode_all({"a": 1})
    assert await encode_all(iter(["é", None])) == ['"é"'.encode(), b"null"]


def test_bad_messages_are_refused_before_a_node_is_asked(folder: Path) -> None:
    subfeed = live()
    for call in (subfeed.append_message, subfeed.submit_message):
        with pytest.raises(BadInput):
            call(float("nan"))
    for many in (subfeed.append_messages, subfeed.submit_messages):
        with pytest.raises(BadInput):
            many([float("nan")])
        assert many([]) == []


async def test_a_long_batch_gives_others_their_turn() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await encode_all(range(20_000))
    task.cancel()
    assert turns > 10


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [1],
        [MAX_SLICE],
        [MAX_SLICE - 1, 1],
        [MAX_SLICE - 2, 1],
        [MAX_SLICE // 2, MAX_SLICE // 2 - 1, 1, MAX_FEED_MESSAGE, MAX_FEED_MESSAGE],
        [300_000] * 17,
        [1] * 600_000,
    ],
    ids=lambda sizes: str(sizes[:3]),
)
def test_a_batch_is_cut_so_that_each_part_fits(sizes: list[int]) -> None:
    texts = [b"1" * size for size in sizes]
    parts = list(batches(texts))
    assert [text for part in parts for text in part] == texts
    packed = [pack_texts(part) for part in parts]
    assert all(0 < len(each) <= MAX_SLICE for each in packed)
    for one, following in itertools.pairwise(parts):
        assert len(pack_texts([*one, following[0]])) > MAX_SLICE, "no more parts than it takes"


# --- who needs a node ----------------------------------------------------------------------------


def test_everything_about_live_feeds_needs_a_node(folder: Path) -> None:
    subfeed, feed = live(), kc.Feed(bytes.fromhex(FEED_ID))
    node = "ab" * 32
    calls = [
        lambda: kc.create_feed(),
        lambda: kc.load_feed("myfeed"),
        lambda: kc.load_feed(FEED),
        lambda: kc.load_subfeed(subfeed.uri),
        lambda: kc.get_feed_id("myfeed"),
        lambda: kc.delete_feed(FEED),
        lambda: kc.list_feeds(),
        lambda: kc.watch_for_new_messages(
            {"a": {"feedId": FEED_ID, "subfeedName": "x", "position": 0}}, wait_msec=1
        ),
        lambda: feed.create_snapshot(["x"]),
        lambda: feed.delete(),
        lambda: feed.show(),
        lambda: subfeed.append_message(1),
        lambda: subfeed.append_messages([1]),
        lambda: subfeed.submit_message(1),
        lambda: subfeed.get_next_messages(),
        lambda: subfeed.get_next_message(),
        lambda: next(subfeed.message_stream()),
        lambda: subfeed.get_num_local_messages(),
        lambda: subfeed.get_num_messages(),
        lambda: subfeed.print_messages(),
        lambda: subfeed.get_access_rules(),
        lambda: subfeed.set_access_rules({"rules": []}),
        lambda: subfeed.grant_write_access(node_id=node),
        lambda: subfeed.resolve_fork(),
    ]
    for call in calls:
        with pytest.raises(errors.NeedsNode, match="KACHERY_P2P_OFFLINE_STORAGE_DIR"):
            call()


def test_access_rules_are_checked_before_a_node_is_asked(folder: Path) -> None:
    for rules in ({}, {"rules": [{"nodeId": "x", "write": True}]}, {"rules": [1]}, []):
        with pytest.raises(BadInput):
            live().set_access_rules(rules)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="node id"):
        live().grant_write_access(node_id="alice")


# --- watches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("watch", "complaint"),
    [
        ({"subfeedName": "x"}, "feedId or feed_uri"),
        ({"feedId": FEED_ID, "feed_uri": FEED, "subfeedName": "x"}, "feedId or feed_uri"),
        ({"feedId": FEED_ID}, "subfeedName"),
        ({"feedId": FEED_ID, "subfeedName": "x", "subfeedHash": PRIMES}, "one of subfeedName"),
        ({"feedId": FEED_ID, "subfeedHash": "12"}, "40 hex digits"),
        ({"feedId": FEED_ID, "subfeedName": "x", "postion": 1}, "'postion' is none of"),
        ({"feedId": FEED_ID, "subfeedName": "x", "position": -1}, "position"),
        ({"feedId": "12", "subfeedName": "x"}, "needs 64"),
        ({"feed_uri": "sha1://" + "0" * 40, "subfeedName": "x"}, "feed"),
        ([], "not a dict"),
    ],
)
def test_a_wrong_watch_is_named(watch: Any, complaint: str, folder: Path) -> None:
    good = {"feedId": FEED_ID, "subfeedName": "x", "position": 0}
    with pytest.raises(BadInput, match=rf"subfeed_watches\['mine'\].*{complaint}"):
        kc.watch_for_new_messages({"other": good, "mine": watch}, wait_msec=0)


def test_too_many_watches_are_refused(folder: Path) -> None:
    watch = {"feedId": FEED_ID, "subfeedName": "x", "position": 0}
    with pytest.raises(BadInput, match=str(MAX_FEED_WATCHES + 1)):
        kc.watch_for_new_messages(dict.fromkeys(range(MAX_FEED_WATCHES + 1), watch), wait_msec=0)


# --- a node that goes away -----------------------------------------------------------------------


async def test_who_was_there_is_waited_for_and_who_never_was_is_not() -> None:
    gone = LinkClosed(peer="the local node", reason="it stopped")
    absent = DaemonNotRunning(reason="tried nothing")
    outcomes: list[Any] = [gone, absent, absent, "back"]

    async def work() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    assert await patiently(work) == "back"
    outcomes[:] = [absent, "back"]
    assert await patiently(work, known=True) == "back"
    outcomes[:] = [absent]
    with pytest.raises(DaemonNotRunning):
        await patiently(work)
    outcomes[:] = [BadUri(uri="x", reason="y")]
    with pytest.raises(BadUri):
        await patiently(work, known=True)
