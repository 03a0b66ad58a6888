"""A storage folder stays within its limit, whatever comes, and loses nothing that it must keep."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kachery_p2p.protocol.errors import StorageFull, StorageLimitReached
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.partials import Partial
from kachery_p2p.storage.inventory.deletion import delete
from kachery_p2p.storage.inventory.inventory import Inventory
from kachery_p2p.storage.inventory.quota import Quota
from kachery_p2p.storage.state import StateDB

from .test_inventory import Place, sha1_of


class Limited(Place):
    """With a limit, which is there again after a start."""

    limit: int | None = 1_000

    def open(self) -> None:
        super().open()
        self.gone: list[str] = []
        self.quota = Quota(
            self.store,
            self.index,
            self.state,
            limit=self.limit,
            gone=self.gone.append,
            clock=lambda: self.now,
        )
        self.store.ledger = self.quota

    def has(self, sha1: str) -> bool:
        return self.store.find(sha1) is not None


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Limited]:
    made = Limited(tmp_path)
    yield made
    made.close()
    made.state.close()


def unread(place: Place, sha1: str) -> None:
    """As if no program had read the file since it came."""
    path = place.store.path(sha1)
    os.utime(path, (0, path.stat().st_mtime))


def test_what_was_used_least_recently_goes_and_nothing_that_must_stay(place: Limited) -> None:
    mine = place.put(b"m" * 300)
    first, second, third = (place.fetch(bytes([n]) * 200) for n in range(3))
    for sha1 in (first, second, third):
        unread(place, sha1)
    for sha1 in (second, third, first):
        place.now += 1
        place.index.touch(sha1)
    place.fetch(b"x" * 300)
    assert [place.has(each) for each in (mine, first, second, third)] == [True, True, False, True]
    assert place.gone == [second]
    assert place.on_disk() == place.index.used == 1_000


def test_a_use_that_only_the_file_system_saw_counts(place: Limited) -> None:
    first, second = place.fetch(b"1" * 500), place.fetch(b"2" * 500)
    unread(place, second)
    path = place.store.path(first)
    os.utime(path, (path.stat().st_mtime + 100, path.stat().st_mtime))
    place.fetch(b"3" * 500)
    assert (place.has(first), place.has(second)) == (True, False)


def test_without_anything_that_may_go_the_error_says_what_holds_the_room(place: Limited) -> None:
    kept = place.put(b"m" * 700)
    pinned = place.fetch(b"p" * 200)
    place.state.pin(pinned, [pinned], "x")
    with pytest.raises(StorageLimitReached) as raised:
        place.put(b"n" * 101)
    assert (
        raised.value.fields["held"]
        == "stored here: 700 bytes; fetched, and pinned or in use: 200 bytes"
    )
    assert (raised.value.fields["limit"], raised.value.fields["needed"]) == (1_000, 101)
    for words in ("kachery-p2p du", "kachery-p2p rm", "daemon set --max-storage"):
        assert words in str(raised.value)
    assert place.has(kept)
    assert place.has(pinned)
    assert place.on_disk() == 900
    place.put(b"n" * 100)


def test_for_what_can_never_fit_nothing_goes(place: Limited) -> None:
    here = place.fetch(b"x" * 500)
    with pytest.raises(StorageLimitReached):
        place.fetch(b"y" * 1_001)
    assert place.has(here)


def test_storing_again_what_is_here_takes_no_room(place: Limited) -> None:
    sha1 = place.put(b"m" * 1_000)
    assert place.put(b"m" * 1_000) == sha1


def test_what_is_being_read_does_not_go_and_is_read_to_its_end(place: Limited) -> None:
    sha1 = place.fetch(b"r" * 600)
    blob = place.store.find(sha1)
    assert blob is not None
    with place.store.held(blob) as held:
        with pytest.raises(StorageFull):
            place.fetch(b"s" * 500)
        assert delete(place.store, sha1)  # somebody says so
        assert place.store.read(held, 0, 600) == b"r" * 600
    place.fetch(b"s" * 500)


def test_a_download_is_refused_before_a_byte_is_written_or_takes_what_fits(place: Limited) -> None:
    place.put(b"m" * 600)
    data = os.urandom(500)
    partial = Partial.open(place.store, sha1_of(data), len(data))
    with pytest.raises(StorageFull):
        partial.reserve()
    partial.append(0, data[:400])
    with pytest.raises(StorageFull):
        partial.append(400, data[400:])
    assert partial.received_bytes == 400
    partial.close()
    assert place.quota.room.reserved == 0


def test_an_old_download_goes_and_one_that_runs_does_not(place: Limited) -> None:
    old, new = os.urandom(400), os.urandom(400)
    partial = Partial.open(place.store, sha1_of(old), len(old))
    partial.append(0, old[:300])
    partial.close()
    assert place.index.used
    place.quota.set_limit(900)
    running = Partial.open(place.store, sha1_of(new), len(new))
    running.append(0, new[:300])
    place.quota.set_limit(650)
    place.put(b"m" * 350)
    assert not place.store.path(sha1_of(old), ".partial").exists()
    running.append(300, new[300:400]) if place.quota.room.lacking(100) == 0 else None
    running.close()


def test_a_damaged_copy_goes_first_unless_it_is_all_there_is_of_what_was_stored(
    place: Limited,
) -> None:
    lost, theirs = place.put(b"l" * 100), place.fetch(b"t" * 100)
    for sha1 in (lost, theirs):
        place.store.quarantine(sha1)
    fetched = place.fetch(b"f" * 500)
    place.fetch(b"g" * 400)
    assert not list(place.store.path(theirs).parent.glob("*.corrupt-*"))
    assert place.has(fetched) is False or place.index.used <= 1_000
    assert list(place.store.path(lost).parent.glob("*.corrupt-*"))


def test_a_smaller_limit_lets_go_at_once_and_a_dry_run_says_the_same(place: Limited) -> None:
    place.put(b"m" * 100)
    for number in range(4):
        place.now += 1
        place.fetch(b"%d" % number * 200)
    would = [thing.sha1 for thing in place.quota.collect(500, pretend=True)]
    assert place.index.used == 900
    place.quota.set_limit(500)
    assert place.gone == would
    assert place.index.used == place.on_disk() == 500


def test_many_threads_at_once_never_pass_the_limit(place: Limited) -> None:
    most, over = [0], []

    def work(seed: int) -> None:
        for number in range(30):
            data = bytes([seed, number]) * 75
            with contextlib.suppress(StorageFull):
                (place.put if number % 10 == 0 else place.fetch)(data)
            most[0] = max(most[0], place.quota.room.used)
            with place.quota.lock:  # nothing goes while it is counted: that would count twice
                if place.on_disk_or_less() > 1_000:
                    over.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not over
    assert most[0] <= 1_000
    assert place.index.used == place.on_disk() <= 1_000
    assert place.quota.room.reserved == 0


def _on_disk_or_less(place: Place) -> int:
    """What lies there, counted while files go: those that vanish meanwhile do not count."""
    total = 0
    for folder, _, names in os.walk(place.root / "storage" / "sha1"):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total


Place.on_disk_or_less = _on_disk_or_less  # type: ignore[attr-defined]


LIMIT = 4_000
SIZES = st.integers(1, 1_500)


class Storage(RuleBasedStateMachine):
    """A store under a limit: what is stored, fetched, pinned, read, downloaded, deleted and killed."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        Limited.limit = LIMIT
        self.place = Limited(Path(self.folder.name))
        self.serial = 0
        self.mine: dict[str, bytes] = {}
        self.pinned: set[str] = set()
        self.fetched: set[str] = set()
        self.partials: list[tuple[Partial, bytes]] = []

    def content(self, size: int) -> bytes:
        self.serial += 1
        return (b"%08d" % self.serial * (size // 8 + 1))[:size]

    @rule(size=SIZES)
    def store(self, size: int) -> None:
        data = self.content(size)
        try:
            self.mine[self.place.put(data)] = data
        except StorageFull:
            self.refused_rightly(size)

    @rule(size=SIZES)
    def fetch(self, size: int) -> None:
        try:
            self.fetched.add(self.place.fetch(self.content(size)))
        except StorageFull:
            self.refused_rightly(size)

    def refused_rightly(self, size: int) -> None:
        """Only if what must stay leaves no room."""
        stays = sum(map(len, self.mine.values()))
        stays += sum(
            thing.bytes
            for thing in map(self.place.index.thing, self.pinned - set(self.mine))
            if thing is not None
        )
        stays += self.place.quota.room.reserved
        assert stays + size > LIMIT

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        here = sorted(s for s in self.fetched if self.place.has(s))
        if here:
            sha1 = data.draw(st.sampled_from(here))
            self.place.state.pin(sha1, [sha1])
            self.pinned.add(sha1)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        sha1 = data.draw(st.sampled_from(sorted(self.pinned)))
        self.place.state.unpin(sha1)
        self.pinned.discard(sha1)

    @rule(size=st.integers(100, 2_000))
    def begin_download(self, size: int) -> None:
        data = self.content(size)
        self.place.index.fetching(sha1_of(data), channel="c", node="n", node_label="")
        self.partials.append((Partial.open(self.place.store, sha1_of(data), size), data))

    @precondition(lambda self: self.partials)
    @rule(share=st.floats(0.1, 1.0))
    def go_on(self, share: float) -> None:
        partial, data = self.partials[-1]
        at = partial.received_bytes
        stop = min(len(data), at + max(1, int(share * len(data))))
        try:
            partial.append(at, data[at:stop])
            if stop == len(data):
                self.place.index.fetching(partial.sha1, channel="c", node="n", node_label="")
                partial.finish()
                self.partials.pop()
                self.fetched.add(partial.sha1)
        except StorageFull:
            assert partial.received_bytes == at

    @precondition(lambda self: self.partials)
    @rule()
    def break_off(self) -> None:
        self.partials.pop()[0].close()

    @precondition(lambda self: self.mine)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        here = sorted(self.mine.keys() - self.pinned)
        if here:
            sha1 = data.draw(st.sampled_from(here))
            assert delete(self.place.store, sha1)
            del self.mine[sha1]

    @precondition(lambda self: self.fetched)
    @rule(data=st.data())
    def rot(self, data: st.DataObject) -> None:
        # Contents of a few bytes may be both fetched and stored.
        others = self.fetched - self.pinned - self.mine.keys()
        here = sorted(s for s in others if self.place.has(s))
        if here:
            self.place.store.quarantine(data.draw(st.sampled_from(here)))

    @rule()
    def kill(self) -> None:
        self.place.kill()
        self.partials = [(partial, data) for partial, data in self.partials if _closed(partial)]
        self.place.open()

    @rule()
    def compare(self) -> None:
        before = self.place.index.used
        self.place.sweep()
        if not self.partials:
            assert self.place.index.used == before

    @invariant()
    def within_the_limit(self) -> None:
        room = self.place.quota.room
        assert room.used + room.reserved <= LIMIT + 4_096 * self.serial_of_partials()
        held = _on_disk_or_less_content(self.place)
        assert held <= LIMIT

    def serial_of_partials(self) -> int:
        """A partial takes whole blocks of the disk, of which the last is counted though half of it is
        empty."""
        return sum(1 for _ in (self.place.root / "storage" / "sha1").rglob("*.partial"))

    @invariant()
    def nothing_that_must_stay_is_missing(self) -> None:
        for sha1, data in self.mine.items():
            blob = self.place.store.find(sha1)
            assert blob is not None
            assert self.place.store.read(blob, 0, blob.size) == data
        for sha1 in self.pinned:
            assert self.place.has(sha1)

    def teardown(self) -> None:
        if hasattr(self, "place"):
            for partial, _ in self.partials:
                partial.close()
            self.place.close()
            self.place.state.close()
            self.folder.cleanup()
        Limited.limit = 1_000


def _closed(partial: Partial) -> bool:
    partial.close()
    return False


def _on_disk_or_less_content(place: Place) -> int:
    """Bytes of content: blobs and damaged copies whole, and of downloads what was written."""
    total = 0
    for path in (place.root / "storage" / "sha1").rglob("*"):
        if path.is_file() and path.suffix not in (".partial", ".map", ".tree", ".checked", ".link"):
            total += path.stat().st_size
    return total


StorageTest = Storage.TestCase
StorageTest.settings = settings(
    max_examples=25,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_an_evicted_small_file_does_not_come_back_from_the_journal(tmp_path: Path) -> None:
    with StateDB(tmp_path / "state.sqlite", durable=False) as state:
        store = BlobStore(tmp_path / "storage", journal_bytes=1 << 16).open()
        index = Inventory.open(tmp_path, store.root)
        store.ledger = Quota(store, index, state)
        sha1 = store.store_bytes(b"x" * 100, lambda names: index.storing(names)).sha1
        assert store.in_journal(sha1)
        journal = store.root / ".kachery-p2p.journal"
        assert delete(store, sha1)
        kept = journal.read_bytes()  # as the disk is after a power cut
        index.close()
        store.close()
        journal.write_bytes(kept)
        with BlobStore(tmp_path / "storage", journal_bytes=1 << 16).open() as again:
            assert again.find(sha1) is None
