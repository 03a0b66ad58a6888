"""Others' logs: what is proven is kept and can be proven on, and nothing else leaves a trace."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from kachery_p2p.protocol.errors import (
    BadInput,
    ForgedFeed,
    StorageFull,
)
from kachery_p2p.protocol.feeds.feed import Run, Slice, leaf_hashes, sign_head
from kachery_p2p.protocol.feeds.frontier import left_peaks, right_proof
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.tree import root, verify_range
from kachery_p2p.storage.feeds.store import FeedRow, FeedStore
from tests.storage.feeds.samples import (
    ALL,
    FEED,
    OTHER,
    SEED,
    SUB,
    History,
    dump,
    extend,
    leaves_of,
    nodes_over,
)


@pytest.fixture
def store(tmp_path):
    with FeedStore(tmp_path / "feeds.sqlite", durable=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def long() -> History:
    return History(66_200)


def check_held(store, history: History, base: int, size: int, total: int, starts, stops) -> None:
    """That the store reads and proves exactly [base, size) under the head at ``total``."""
    info = store.info(FEED, SUB)
    assert (info.base, info.size, info.head.size) == (base, size, total)
    nodes = history.nodes(total)
    for start in starts:
        found = store.read(FEED, SUB, start, **{**ALL, "max_messages": 3})
        assert leaves_of(found) == leaves_of(history.slice(start, min(start + 3, size)))
        for stop in stops:
            if not start <= stop or not stop:
                continue
            proof = store.proof(FEED, SUB, start, stop)
            assert proof.head == info.head
            assert proof.peaks == left_peaks(nodes, start)
            assert proof.right == right_proof(nodes, total, stop)
        if start < size:
            proven = store.leaf_proof(FEED, SUB, start)
            assert proven.leaf == history.leaves[start] == nodes(0, start)
            verify_range("sha256", info.head.root, total, start, [proven.leaf], proven.proof)
    for refused in (base - 1, size + 1):
        with pytest.raises(BadInput, match="held here"):
            store.proof(FEED, SUB, *sorted((refused, max(1, size))))
    for refused in (base - 1, size):
        with pytest.raises(BadInput, match="held here"):
            store.leaf_proof(FEED, SUB, refused)
    with pytest.raises(BadInput, match="held here"):
        store.read(FEED, SUB, base - 1, **ALL)


# --- everything small, and the borders of tiles ------------------------------------------------


def test_every_stretch_of_small_logs(tmp_path):
    history = History(13)
    with FeedStore(tmp_path / "feeds.sqlite", durable=False) as store:
        for total in range(1, 14):
            for base in range(total + 1):
                for size in range(base, total + 1):
                    if not size:
                        continue
                    history.give(store, base, size, total)
                    stretch = range(base, size + 1)
                    for _ in range(2):
                        check_held(store, history, base, size, total, stretch, stretch)
                        store._let_go(FEED)
                    store.delete_feed(FEED)


BORDERS = (0, 1, 255, 256, 257, 511, 512, 513, 770)


@pytest.mark.parametrize("base", BORDERS)
def test_the_borders_of_tiles(store, base):
    history = History(1030)
    for size in (each for each in (*BORDERS, 1024, 1030) if each >= base and each):
        for total in {size, size + 1, 1030} - {1031}:
            history.give(store, base, (base + size) // 2 or 1, total)
            store._let_go(FEED)
            history.give(store, (base + size) // 2 or 1, size, total)
            near = [each for each in (*BORDERS, 1024) if base <= each <= size]
            for _ in range(2):
                check_held(store, history, base, size, total, near, near)
                store._let_go(FEED)
            store.delete_feed(FEED)


@pytest.mark.parametrize("base", [0, 300, 65_535, 65_536, 65_537])
def test_the_borders_of_tiles_of_tiles(store, base, long):
    near = (0, 255, 256, 300, 32_768, 65_279, 65_280, 65_535, 65_536, 65_537, 65_792)
    for total in (65_535, 65_536, 65_537, 66_200):
        if total < base:
            continue
        size = max(min(total, 66_000), base)
        middle = max(base, min(65_400, size), 1)
        long.give(store, base, middle, total)
        store._let_go(FEED)
        long.give(store, middle, size, total)
        points = [each for each in (*near, size) if base <= each <= size]
        check_held(store, long, base, size, total, points, points)
        store._let_go(FEED)
        check_held(store, long, base, size, total, points, points)
        store.delete_feed(FEED)


def test_a_mirror_grows_by_many_small_slices(store):
    history = History(600)
    at = 3
    history.give(store, at, at, 50)
    for number in range(1000):
        stop = min(600, at + number % 5)
        total = min(600, stop + number % 3)
        history.give(store, at, stop, total)
        at = stop
        if number % 50 == 0:
            store._let_go(FEED)
    check_held(store, history, 3, 600, 600, [3, 255, 256, 599], [256, 512, 600])
    assert leaves_of(store.read(FEED, SUB, 3, **ALL)) == leaves_of(history.slice(3, 600))


# --- what a mirror remembers -------------------------------------------------------------------


def test_a_mirror_knows_where_it_has_a_log_from(store):
    history = History(5)
    history.give(store, 2, 3, 4, name="name")
    info = store.info(FEED, SUB)
    assert (info.base, info.size, info.head, info.known) == (2, 3, history.head(4), 4)
    assert (info.name, info.channels, info.fork) == ("name", {"channel"}, None)
    assert store.feeds() == [FeedRow(FEED, None, False, 1.004)]
    extend(store, FEED, SUB, history.slice(3, 5), [], history.head(), "second", name="another")
    store._let_go(FEED)
    info = store.info(FEED, SUB)
    assert (info.name, info.channels) == ("name", {"channel", "second"})
    assert store.key(FEED) is None


def test_what_is_known_already_is_left_out(store):
    history = History(700)
    assert history.give(store, 0, 300) == 300
    for start, stop in ((0, 300), (0, 20), (40, 300), (299, 300), (300, 300), (7, 7)):
        before = dump(store)
        assert history.give(store, start, stop) == 300
        assert dump(store) == before
    assert history.give(store, 200, 513) == 513
    assert leaves_of(store.read(FEED, SUB, 0, **ALL)) == leaves_of(history.slice(0, 513))
    check_held(store, history, 0, 513, 700, [0, 256, 300, 512], [256, 301, 513])


def test_of_two_heads_the_better_one_is_kept(store):
    history = History(40)
    history.give(store, 0, 10, 20)
    history.give(store, 10, 10, 30)
    assert store.info(FEED, SUB).head == history.head(30)
    history.give(store, 10, 10, 15)
    assert store.info(FEED, SUB).head == history.head(30)
    # Messages count for more: those under the longer head may never come.
    history.give(store, 10, 14, 14)
    info = store.info(FEED, SUB)
    assert (info.size, info.head, info.known) == (14, history.head(14), 30)
    check_held(store, history, 0, 14, 14, range(15), range(15))
    history.give(store, 3, 3, 40)
    assert (store.info(FEED, SUB).head, store.info(FEED, SUB).known) == (history.head(14), 40)


def test_a_gap_is_refused(store):
    history = History(20)
    with pytest.raises(BadInput, match="without peaks"):
        extend(store, FEED, SUB, history.slice(5, 6), history.right(6), history.head(), "channel")
    assert (store.feeds(), store.logs()) == ([], [])
    history.give(store, 5, 10)
    before = dump(store)
    for start, stop in ((11, 12), (11, 11), (4, 8), (0, 20), (4, 4)):
        with pytest.raises(BadInput, match="messages 5 to 10"):
            history.give(store, start, stop)
    assert dump(store) == before


# --- forgeries ---------------------------------------------------------------------------------


def tampered(history: History, start: int, stop: int) -> dict[str, dict[str, object]]:
    """Ways in which a slice can be wrong -> what of it is replaced."""
    good = history.slice(start, stop)
    altered = [*good.texts[:-1], b'"x"']
    swapped = [good.texts[1], good.texts[0], *good.texts[2:]]
    run = good.runs[-1]
    total = history.size
    others = NodeKey(b"z" * 32)
    head, right = history.head(), history.right(stop)
    longer = History(total + 1)

    def runs(last: Run) -> Slice:
        return Slice(start, [*good.runs[:-1], last], good.texts)

    return {
        "altered": {"slice": replace(good, texts=altered)},
        "reordered": {"slice": replace(good, texts=swapped)},
        "first dropped": {"slice": history.slice(start + 1, stop), "start": start},
        "last dropped": {"slice": history.slice(start, stop - 1)},
        "duplicated": {
            "slice": Slice(
                start,
                [*good.runs[:-1], Run(run.count + 1, run.timestamp, run.author)],
                [*good.texts, good.texts[-1]],
            )
        },
        "another time": {"slice": runs(Run(run.count, run.timestamp + 1, run.author))},
        "another author": {"slice": runs(Run(run.count, run.timestamp, b"b" * 32))},
        "made up": {"slice": History(total, "z").slice(start, stop)},
        "no messages": {"slice": Slice(start, [], [])},
        "a head of another subfeed": {"head": History(total, subfeed=OTHER).head()},
        "a head of another feed": {"head": History(total, key=others).head()},
        "another's signature": {
            "head": msgspec.structs.replace(head, sig=History(total, key=others).head().sig)
        },
        "another root": {"head": msgspec.structs.replace(head, root=bytes(32))},
        "another size": {"head": msgspec.structs.replace(head, size=total + 1)},
        "another head's root": {"head": longer.head()},
        "a head too short": {"head": history.head(stop - 1), "right": []},
        "a head that is shorter": {"head": history.head(stop)},
        "a proof too long": {"right": [*right, bytes(32)]},
        "a proof too short": {"right": right[:-1]},
        "an altered proof": {"right": [bytes(32), *right[1:]]},
        "an odd proof": {"right": [right[0][:31], *right[1:]]},
        "no proof": {"right": []},
    }


NAMES = list(tampered(History(40), 10, 21))


@pytest.mark.parametrize("held", [None, 5, 10, 14])
@pytest.mark.parametrize("name", NAMES)
def test_a_forged_slice_leaves_no_trace(store, name, held):
    history = History(40)
    if name == "no messages" and held == 14:
        held = 10  # else it begins where nothing new is said, and is no forgery
    if held is not None:
        history.give(store, 5, held)
    start = 5 if held == 5 else 10
    wrong = tampered(history, start, 21)[name]
    slice = wrong.get("slice", history.slice(start, 21))
    if "start" in wrong:
        slice = replace(slice, start=start)
    before, info = dump(store), store.info(FEED, SUB)
    with pytest.raises(ForgedFeed, match="node 7") as caught:
        extend(
            store,
            FEED,
            SUB,
            slice,
            wrong.get("right", history.right(21)),
            wrong.get("head", history.head()),
            "another channel",
            base_peaks=history.peaks(start),
            name="a name",
            source="node 7",
        )
    assert "Try again" in str(caught.value)
    assert (dump(store), store.info(FEED, SUB)) == (before, info)
    store._let_go(FEED)
    assert store.info(FEED, SUB) == info
    assert history.give(store, start, 21) == 21


def test_wrong_peaks_begin_nothing(store):
    history = History(40)
    good = history.peaks(11)
    before = dump(store)
    for peaks in (
        [],
        good[:-1],
        [*good, bytes(32)],
        [bytes(32), *good[1:]],
        good[::-1],
        [b"x"] * 3,
    ):
        with pytest.raises(ForgedFeed):
            extend(store,
                FEED, SUB, history.slice(11, 20), history.right(20), history.head(), "channel",
                base_peaks=peaks,
            )  # fmt: skip
    assert dump(store) == before
    assert history.give(store, 11, 20) == 20


def test_a_replayed_old_head_takes_nothing_back(store):
    history = History(40)
    history.give(store, 0, 40)
    before = dump(store)
    for size in (1, 10, 39):
        assert history.give(store, 0, size, size) == 40
        assert history.give(store, size - 1, size, size) == 40
    assert dump(store) == before


# --- trouble -----------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing_of_a_mirror(small_disk):
    large = [b'"%s"' % (b"x" * 900_000)] * 8
    runs = [Run(1, 5, None)] * 8
    history = History(300)
    leaves = [*history.leaves, *leaf_hashes(Slice(0, runs, large))]
    head = sign_head(NodeKey(SEED), SUB, 308, root("sha256", b"".join(leaves)), 5)
    with FeedStore(small_disk / "feeds.sqlite") as store:
        history.give(store, 0, 300)
        for _ in range(2):
            with pytest.raises(StorageFull):
                extend(store, FEED, SUB, Slice(300, runs, large), [], head, "channel")
            assert store.info(FEED, SUB).size == 300
            assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
        right = right_proof(nodes_over(leaves), 308, 301)
        piece = Slice(300, runs[:1], large[:1])
        assert extend(store, FEED, SUB, piece, right, head, "channel") == 301
    with FeedStore(small_disk / "feeds.sqlite") as store:
        assert store.read(FEED, SUB, 300, **ALL).texts == large[:1]


def test_a_message_with_a_newline_is_no_message(store):
    slice = Slice(0, [Run(1, 5, None)], [b"[\n]"])
    head = sign_head(NodeKey(SEED), SUB, 1, leaf_hashes(slice)[0], 5)
    before = dump(store)
    with pytest.raises(BadInput, match="newline"):
        extend(store, FEED, SUB, slice, [], head, "channel")
    assert dump(store) == before
