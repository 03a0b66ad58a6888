"""The index of a storage folder, and the folder itself, say the same."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kachery_p2p.storage import paths, sweeper
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.partials import Partial
from kachery_p2p.storage.inventory import inventory
from kachery_p2p.storage.inventory.deletion import delete
from kachery_p2p.storage.inventory.inventory import Inventory
from kachery_p2p.storage.inventory.quota import Quota
from kachery_p2p.storage.state import StateDB
from kachery_p2p.storage.sweeper import Sweeper


class Place:
    """A storage folder with its index; ``now`` is the clock of both."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 1_000.0
        self.moved: list[tuple[list[str], list[str]]] = []
        self.state = StateDB(root / "state.sqlite", durable=False)
        self.open()

    def open(self) -> None:
        self.store = BlobStore(self.root / "storage", durable=False).open()
        self.index = Inventory.open(self.root, self.store.root, clock=lambda: self.now)
        self.store.ledger = Quota(self.store, self.index, self.state, clock=lambda: self.now)

    def close(self) -> None:
        self.index.close()
        self.store.close()

    def kill(self) -> None:
        """As after kill -9: what waits in memory is lost."""
        self.index._dirty.clear()
        self.close()

    def put(self, data: bytes, label: str = "") -> str:
        return self.store.store_bytes(data, lambda names: self.index.storing(names, label)).sha1

    def put_many(self, contents: list[bytes]) -> list[str]:
        """Each under its place as a label."""

        def arriving(sha1s: Sequence[str]) -> None:
            labels = [str(number) for number in range(len(sha1s))]
            self.index.storing_each(list(zip(sha1s, labels, strict=True)))

        return self.store.store_batch(contents, arriving)

    def fetch(self, data: bytes, node: str = "n1") -> str:
        def arriving(names: object) -> None:
            self.index.fetching(sha1_of(data), channel="c1", node=node, node_label="Ann")

        return self.store.store_bytes(data, arriving).sha1

    def sweep(self) -> None:
        sweeper = Sweeper(
            self.store, self.state, inventory=self.index, moved=lambda *m: self.moved.append(m)
        )
        sweeper.begin()
        while sweeper.step():
            pass

    def told(self) -> tuple[set[str], set[str]]:
        """What came and went, as far as it was told of."""
        fresh = [sha1 for some, _ in self.moved for sha1 in some]
        gone = [sha1 for _, some in self.moved for sha1 in some]
        assert len(fresh) == len({*fresh})
        assert len(gone) == len({*gone})
        return {*fresh}, {*gone}

    def on_disk(self) -> int:
        return sum(
            path.stat().st_size
            for path in (self.root / "storage" / "sha1").rglob("*")
            if path.is_file() and not path.name.endswith((".checked", ".link", ".map"))
        )


def sha1_of(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()
    made.state.close()


def test_what_is_stored_and_fetched_is_told_apart_and_keeps_its_label(place: Place) -> None:
    mine, theirs = place.put(b"mine", "a.txt"), place.fetch(b"theirs")
    found = {thing.sha1: thing for thing in place.index.listed(limit=10)}
    assert (found[mine].source, found[mine].label, found[mine].size) == ("stored", "a.txt", 4)
    assert (found[theirs].source, found[theirs].node_label) == ("fetched", "Ann")
    assert place.index.used == place.on_disk() == 10


def test_storing_what_was_fetched_makes_it_the_users_own_and_not_the_other_way(
    place: Place,
) -> None:
    sha1 = place.fetch(b"x")
    place.now += 5
    place.put(b"x", "x.txt")
    thing = place.index.thing(sha1)
    assert thing is not None
    assert (thing.source, thing.node, thing.stored) == ("stored", "", 1_005.0)
    place.fetch(b"x")
    thing = place.index.thing(sha1)
    assert thing is not None
    assert thing.source == "stored"


def test_what_may_be_here_is_known_once_the_whole_folder_was_compared(place: Place) -> None:
    kept, damaged = place.put(b"kept"), place.put(b"damaged")
    place.store.quarantine(damaged)
    gone, comes = place.put(b"gone"), sha1_of(b"on its way")
    delete(place.store, gone)
    place.index.look(gone)
    names = [kept, damaged, gone, comes, sha1_of(b"never seen")]
    place.index.prepare(names)
    assert [place.index.may_have(sha1) for sha1 in names] == [True] * 5, "who knows?"
    place.sweep()
    place.index.fetching(comes, channel="c", node="n", node_label="")
    place.index.prepare(names)
    assert [place.index.may_have(sha1) for sha1 in names] == [True, True, False, True, False]


def test_after_a_kill_between_the_row_and_the_file_nothing_is_miscounted(place: Place) -> None:
    kept = place.put(b"kept")
    place.index.fetching(sha1_of(b"never came"), channel="c", node="n", node_label="")
    place.kill()
    place.open()
    assert place.index.used == place.on_disk() == 4
    assert [thing.sha1 for thing in place.index.listed(limit=10)] == [kept]


def test_what_a_killed_process_had_just_fetched_is_still_fetched(place: Place) -> None:
    sha1 = place.fetch(b"x" * 100)
    place.kill()
    place.open()
    thing = place.index.thing(sha1)
    assert thing is not None
    assert (thing.source, thing.held, place.index.used) == ("fetched", 100, 100)


def test_what_waits_to_be_written_outlives_a_kill_batch_by_batch(place: Place) -> None:
    """Each batch is committed in one row, and none of them has been written to where it belongs."""
    batches = [[f"{batch}-{number}".encode() for number in range(20)] for batch in range(3)]
    for batch in batches:
        place.put_many(batch)
    fetched = place.fetch(b"from elsewhere")
    place.index.storing_each([(sha1_of(b"never came"), "never.txt")])
    assert place.index._db is not None
    assert place.index._row("SELECT count(*) FROM things") == (0,)
    place.kill()
    place.open()
    found = {thing.sha1: thing for thing in place.index.listed(limit=100)}
    assert found.keys() == {fetched, *(sha1_of(data) for batch in batches for data in batch)}
    assert found[fetched].source == "fetched"
    assert {thing.label for thing in found.values()} == {"", *map(str, range(20))}
    assert not any(thing.arriving for thing in found.values())
    assert place.index.used == place.on_disk()
    assert place.index._row("SELECT count(*) FROM pending") == (0,)


def test_what_was_known_of_before_a_kill_is_not_undone_by_older_news(place: Place) -> None:
    sha1 = place.fetch(b"x")
    place.index.flush()
    place.put(b"x", "mine.txt")
    place.index.flush()
    place.kill()
    place.open()
    thing = place.index.thing(sha1)
    assert thing is not None
    assert (thing.source, thing.label) == ("stored", "mine.txt")


def test_pending_changes_that_cannot_be_read_cost_the_index_and_no_file(place: Place) -> None:
    sha1 = place.put(b"x")
    place.index.flush()
    place.index._change("INSERT INTO pending (rows) VALUES (?)", b"\x93\x01\x02")
    place.close()
    place.open()
    place.sweep()
    assert [thing.sha1 for thing in place.index.listed(limit=10)] == [sha1]
    assert place.index.used == place.on_disk() == 1


def test_a_small_file_beside_others_of_its_hash_counts_with_them(place: Place) -> None:
    """Its size is known without looking; that of what lies beside it is not."""
    sha1 = place.put(b"good")
    path = place.store.path(sha1)
    os.chmod(path, 0o600)
    path.write_bytes(b"evil")
    place.store.quarantine(sha1)
    place.put(b"good")
    thing = place.index.thing(sha1)
    assert thing is not None
    assert (thing.kind, thing.held, thing.aside) == ("file", 4, 4)
    assert place.index.used == place.on_disk() == 8
    place.put_many([b"good", b"good", b"more"])
    assert place.index.used == place.on_disk() == 12


def test_a_partial_counts_what_was_written_of_it_also_after_a_kill(place: Place) -> None:
    data = os.urandom(500_000)
    partial = Partial.open(place.store, sha1_of(data), len(data))
    partial.append(0, data[:100_000])
    partial.sync()
    assert place.index.used == 0  # its claim counts as long as it is open
    place.kill()
    place.open()
    place.sweep()
    thing = place.index.thing(partial.sha1)
    assert thing is not None
    assert (thing.kind, thing.size) == ("partial", 500_000)
    assert 100_000 <= place.index.used < 120_000
    partial.close()


def test_what_others_put_into_the_folder_and_took_out_is_found(place: Place) -> None:
    gone = place.put(b"taken away")
    place.sweep()
    data = b"put there by kachery"
    path = place.store.path(sha1_of(data))
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    place.store.path(gone).unlink()
    place.store.path(gone).parent.rmdir()
    place.moved.clear()
    place.sweep()
    assert [thing.sha1 for thing in place.index.listed(limit=10)] == [sha1_of(data)]
    thing = place.index.thing(sha1_of(data))
    assert thing is not None
    assert thing.source == "found"
    assert place.told() == ({sha1_of(data)}, {gone})
    assert place.index.used == place.on_disk()


def test_a_folder_of_many_pages_is_compared_with_few_questions_and_commits(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a commit for each file and two queries for each folder: 620 µs of processor time a file,
    and a million files were not announced in 270 s for that."""
    monkeypatch.setattr(inventory, "SWEEP_ROWS", 20)
    monkeypatch.setattr(sweeper, "SWEEP_TOGETHER", 50)
    names = set()
    for number in range(400):
        data = b"%d" % number
        path = place.store.path(sha1_of(data))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        names.add(sha1_of(data))
    said: list[str] = []
    assert place.index._db is not None
    place.index._db.set_trace_callback(said.append)
    place.sweep()
    place.index.flush()
    assert sum(sql.startswith("SELECT") for sql in said) < 60
    assert sum(sql == "COMMIT" for sql in said) <= 3
    assert place.told() == (names, set())
    assert place.index.used == place.on_disk()
    # Whole folders go, and those between others, more than a page of them.
    gone = {sha1 for sha1 in names if sha1 < "c"}
    shutil.rmtree(place.store.root / "sha1")
    for sha1 in names - gone:
        path = place.store.path(sha1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0123456789")
    place.moved.clear()
    place.sweep()
    assert place.told() == (set(), gone)
    assert place.index.used == place.on_disk() == 10 * len(names - gone)
    said.clear()
    place.sweep()
    assert not [sql for sql in said if "INTO things" in sql]
    assert place.index.counts()[1] == len(names - gone)


def test_what_changes_between_a_listing_and_its_comparison_is_as_it_is_then(place: Place) -> None:
    """Folders are listed together, so the comparison comes a while later."""
    goes, grows, comes = place.put(b"goes"), place.put(b"grows"), sha1_of(b"comes")
    place.sweep()
    place.close()
    for path in place.root.glob("files.sqlite*"):
        path.unlink()
    place.open()
    found = {sha1: paths.beside(place.store.path(sha1).parent)[sha1] for sha1 in (goes, grows)}
    place.store.path(goes).unlink()
    place.store.path(grows).write_bytes(b"has grown")
    assert place.put(b"comes") == comes
    pages = list(place.index.compare("", "", found, ()))
    assert pages == [([grows], [])]
    assert {thing.sha1: thing.size for thing in place.index.listed(limit=9)} == {grows: 9, comes: 5}
    assert place.index.used == place.on_disk()


@pytest.mark.parametrize("damage", ["lost", "garbage"])
def test_an_index_that_is_lost_is_made_anew(place: Place, damage: str) -> None:
    sha1 = place.put(b"here", "name")
    place.close()
    for path in place.root.glob("files.sqlite*"):
        path.unlink()
    if damage == "garbage":
        (place.root / "files.sqlite").write_bytes(b"no database at all" * 100)
    place.open()
    assert not place.index.complete
    place.sweep()
    assert place.index.complete
    thing = place.index.thing(sha1)
    assert thing is not None
    assert (thing.source, thing.size) == ("found", 4)


def test_another_folder_under_the_same_index_is_read_from_end_to_end(place: Place) -> None:
    place.put(b"here")
    place.sweep()
    place.close()
    os.rename(place.root / "storage", place.root / "old")
    place.open()
    assert not place.index.complete
    place.sweep()
    assert (place.index.used, place.index.listed(limit=10)) == (0, [])


def test_last_uses_are_written_together(place: Place) -> None:
    sha1 = place.put(b"x")
    place.index.flush()
    place.now += 10
    for _ in range(100):
        place.index.touch(sha1)
    assert len(place.index._dirty) == 1
    place.close()
    place.open()
    thing = place.index.thing(sha1)
    assert thing is not None
    assert thing.used == 1_010.0


def test_a_listing_goes_on_where_its_page_ended(place: Place) -> None:
    for number in range(25):
        place.now += 1
        place.put(b"%d" % number * (number % 5 + 1), f"f{number}")
    for sort in ("sha1", "size", "used", "stored"):
        found, after = [], None
        while page := place.index.listed(sort=sort, after=after, limit=4):
            found += page
            value = 0.0 if sort == "sha1" else getattr(page[-1], sort)
            after = (value, page[-1].sha1)
        assert len({thing.sha1 for thing in found}) == len(found) == 25, sort
        values = [getattr(thing, sort) for thing in found]
        assert values == sorted(values, reverse=sort != "sha1")
    assert [t.label for t in place.index.listed(limit=9, pattern="f1?", sort="used")][:2] == [
        "f19",
        "f18",
    ]
    assert [t.sha1[:4] for t in place.index.listed(limit=9, pattern=sha1_of(b"0")[:8] + "*")] == [
        sha1_of(b"0")[:4]
    ]


def test_a_link_has_the_size_of_its_file_and_takes_no_room(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "original.dat"
    path.write_bytes(b"o" * 1_000)
    fd = os.open(path, os.O_RDONLY)
    try:
        stored = place.store.link_fd(fd, path, arriving=lambda names: place.index.storing(names))
    finally:
        os.close(fd)
    thing = place.index.thing(stored.sha1)
    assert thing is not None
    assert (thing.kind, thing.size, thing.held, thing.path) == ("link", 1_000, 0, str(path))


def test_damaged_copies_count(place: Place) -> None:
    sha1 = place.put(b"x" * 100)
    place.store.quarantine(sha1)
    thing = place.index.thing(sha1)
    assert thing is not None
    assert (thing.kind, thing.aside, place.index.used) == ("damaged", 100, 100)
    place.put(b"x" * 100)
    assert (place.index.used, place.on_disk()) == (200, 200)


def test_names_that_are_no_utf8_are_listed(place: Place, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.dat"))
    path.write_bytes(b"odd")
    fd = os.open(path, os.O_RDONLY)
    try:
        sha1 = place.store.link_fd(fd, path, arriving=lambda n: place.index.storing(n)).sha1
    finally:
        os.close(fd)
    place.close()
    place.open()
    thing = place.index.thing(sha1)
    assert thing is not None
    assert thing.path == str(path)
    assert paths.LINK == ".link"


def test_what_was_moved_to_another_disk_is_there_as_what_is_linked(
    place: Place, tmp_path: Path
) -> None:
    """It could be read, and yet was in no list, offered to nobody, and could not be deleted."""
    kept, lost = place.put(b"k" * 5_000, "kept"), place.put(b"l" * 5_000, "lost")
    place.index.flush()
    for sha1 in (kept, lost):
        os.rename(place.store.path(sha1), tmp_path / sha1)
        place.store.path(sha1).symlink_to(tmp_path / sha1)
    (tmp_path / lost).unlink()
    place.sweep()
    thing = place.index.look(kept)
    assert thing is not None
    assert (thing.kind, thing.size, thing.held, thing.label) == ("link", 5_000, 0, "kept")
    assert thing.path == str(tmp_path / kept)
    assert place.index.look(lost) is None
    assert place.moved == [([], [lost])], "what is there stays on offer"
    assert delete(place.store, kept)
    assert place.store.find(kept) is None
    assert (tmp_path / kept).read_bytes() == b"k" * 5_000
    assert place.index.look(kept) is None
