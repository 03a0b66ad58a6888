"""A storage folder does not grow by what nobody needs, and what somebody needs is not tidied away."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from kachery_p2p.protocol.limits import (
    MAX_QUARANTINED,
    ORIGIN_KEEP_SECONDS,
    PARTIAL_KEEP_SECONDS,
)
from kachery_p2p.storage import paths, sweeper
from kachery_p2p.storage.bindings import Bindings
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.partials import Partial
from kachery_p2p.storage.state import StateDB
from kachery_p2p.storage.sweeper import Sweeper
from tests.storage.files.samples import content

DAY = 24 * 3600.0


class Place:
    """A storage folder, a state, and a sweeper whose clock is set by hand."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sweeper, "SWEEP_PAUSE_SECONDS", -1.0)
        self.root = root
        self.now = time.time()
        self.state = StateDB(root / "state.sqlite", durable=False)
        self.open()

    def open(self, *, journal: bool = False) -> None:
        self.store = BlobStore(
            self.root / "storage", durable=journal, journal_bytes=1 << 21,
            on_manifest=self.state.set_manifest,
        ).open()  # fmt: skip
        self.bindings = Bindings(self.store, self.state)
        self.sweeper = Sweeper(self.store, self.state, clock=lambda: self.now)

    def sweep(self, days: float = 0.0) -> None:
        """A whole round, so many days later."""
        self.now += days * DAY
        self.sweeper.step()
        while self.sweeper._round is not None:
            self.sweeper.step()

    def files(self) -> set[str]:
        return {path.name for path in (self.root / "storage" / "sha1").rglob("*") if path.is_file()}

    def begin(self, data: bytes) -> Partial:
        partial = Partial.open(self.store, hashlib.sha1(data).hexdigest(), len(data))
        self.state.add_download_channel(partial.sha1, "one")
        partial.append(0, data[: len(data) // 2])
        return partial

    def put(self, data: bytes, channel: str = "one") -> str:
        stored = self.store.store_bytes(data, self.bindings.arriving(channel))
        return stored.sha1


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = Place(tmp_path, monkeypatch)
    yield made
    made.store.close()
    made.state.close()


def test_a_download_that_nobody_went_on_with_goes(place):
    partial = place.begin(content(1_000))
    partial.close()
    place.sweep(PARTIAL_KEEP_SECONDS / DAY - 1)
    assert len(place.files()) == 2
    assert place.state.download_channels(partial.sha1)
    place.sweep(2)
    assert place.files() == set()
    assert place.state.download_channels(partial.sha1) == frozenset()
    # It can be begun anew.
    again = place.begin(content(1_000))
    assert again.received_bytes == 500
    again.close()


def test_a_download_that_is_under_way_stays_however_slow_it_is(place):
    partial = place.begin(content(1_000))
    place.sweep(1_000)
    partial.append(500, content(1_000)[500:])
    partial.finish()
    assert place.store.find(partial.sha1) is not None
    other = place.begin(content(2_000, seed=2))
    other.discard()
    with place.store.arrivals.halted() as under_way:
        assert not under_way


def test_a_download_that_is_over_is_remembered_no_longer_and_its_blob_stays(place):
    partial = place.begin(content(1_000))
    partial.append(500, content(1_000)[500:])
    place.bindings.complete(partial.sha1, place.bindings.resumed(partial))
    partial.finish()
    place.sweep()
    assert place.state.download_channels(partial.sha1) == frozenset()
    assert place.state.origins(partial.sha1) == {"one"}
    place.sweep(1_000)
    assert place.files() == {partial.sha1}


def test_a_tree_without_its_content_goes(place, tmp_path):
    data = content(20_000_001)
    stored = place.store.store_bytes(data)
    kept = place.files()
    place.sweep(1_000)
    assert place.files() == kept
    os.unlink(place.store.path(stored.sha1))
    place.sweep()
    assert place.files() == {stored.manifest_sha1}


def test_of_what_was_put_aside_the_newest_is_kept(place, monkeypatch):
    monkeypatch.setattr(sweeper, "MAX_QUARANTINED", 3)
    monkeypatch.setattr(sweeper, "MAX_QUARANTINED_BYTES", 2_500)
    aside = []
    for number in range(6):
        sha1 = place.put(content(1_000, seed=number))
        path = place.store.quarantine(sha1)
        assert path is not None
        aside.append(path)
        while True:  # until the clock of the file system has moved on
            os.chmod(path, 0o600)
            if number == 0 or path.stat().st_ctime_ns > aside[-2].stat().st_ctime_ns:
                break
    place.sweep()
    assert [path.exists() for path in aside] == [False] * 4 + [True] * 2
    huge = place.store.quarantine(place.put(content(9_000, seed=9)))
    place.sweep()
    assert huge.exists()
    assert not any(path.exists() for path in aside)
    assert MAX_QUARANTINED > 1


def test_what_is_known_of_content_that_has_long_been_gone_is_forgotten(place):
    gone, stays = place.put(content(1_000)), place.put(content(1_000, seed=2))
    large = place.store.store_bytes(content(20_000_001))
    os.unlink(place.store.path(gone))
    os.unlink(place.store.path(large.sha1))
    place.sweep()
    place.sweep(ORIGIN_KEEP_SECONDS / DAY - 1)
    assert place.state.origins(gone) == {"one"}
    assert place.state.manifest(large.sha1) == large.manifest_sha1
    place.sweep(2)
    assert place.state.origins(gone) == frozenset()
    assert place.state.manifest(large.sha1) is None
    assert place.state.origins(stays) == {"one"}
    assert place.state.long_gone(place.now + DAY, 10) == []


def test_what_comes_back_from_a_backup_is_not_free(place):
    data = content(1_000)
    sha1 = place.put(data)
    os.unlink(place.store.path(sha1))
    place.sweep()
    place.sweep(20)
    place.store.path(sha1).write_bytes(data)
    place.sweep(20)
    os.unlink(place.store.path(sha1))
    place.sweep(20)
    place.store.path(sha1).write_bytes(data)
    place.sweep()
    assert not place.bindings.may_leave(sha1, "two")


def test_what_the_journal_would_bring_back_is_not_free(place):
    place.store.close()
    place.open(journal=True)
    data = content(1_000)
    sha1 = place.put(data)
    os.unlink(place.store.path(sha1))
    place.sweep()
    place.sweep(1_000)
    assert place.store.in_journal(sha1)
    assert place.state.origins(sha1) == {"one"}


def test_a_storage_that_was_taken_away_is_not_one_that_is_empty(place):
    sha1 = place.put(content(1_000))
    away = place.root / "away"
    (place.root / "storage").rename(away)
    (place.root / "storage" / "sha1").mkdir(parents=True)
    place.sweep()
    place.sweep(1_000)
    assert place.state.origins(sha1) == {"one"}
    assert place.state.long_gone(place.now + DAY, 10) == []


def test_nothing_is_forgotten_between_the_origin_and_its_blob(place):
    """The origin is on disk, the blob is not there yet: a round comes just then."""
    data = content(1_000)
    sha1 = hashlib.sha1(data).hexdigest()
    place.state.add_origin(sha1, "one")
    place.sweep()
    bind = place.bindings.arriving("one")
    swept = threading.Event()

    def arriving(sha1s):
        bind(sha1s)
        place.sweep(1_000)
        swept.set()

    place.store.store_bytes(data, arriving)
    assert swept.is_set()
    assert not place.bindings.may_leave(sha1, "two")
    place.sweep(1_000)
    assert not place.bindings.may_leave(sha1, "two")


def test_a_step_is_bounded_and_a_round_follows_the_last_after_a_pause(place, monkeypatch):
    monkeypatch.setattr(sweeper, "SWEEP_FOLDERS", 5)
    monkeypatch.setattr(sweeper, "SWEEP_TOGETHER", 5)
    for number in range(20):
        place.begin(content(100, seed=number)).close()
    place.now += 100 * DAY
    steps = 0
    left = len(place.files())
    place.sweeper.step()
    while place.sweeper._round is not None:
        steps += 1
        assert 0 <= left - len(place.files()) <= 2 * 5
        left = len(place.files())
        place.sweeper.step()
    assert place.files() == set()
    assert steps >= 4
    monkeypatch.setattr(sweeper, "SWEEP_PAUSE_SECONDS", 3600.0)
    place.sweep()
    place.begin(content(100)).close()
    place.now += 200 * DAY
    place.sweeper.step()
    assert place.sweeper._round is None
    assert len(place.files()) == 2


def test_strangers_files_and_what_cannot_be_removed_are_left(place):
    sha1 = place.put(content(1_000))
    folder = place.store.path(sha1).parent
    (folder / "notes.txt").write_text("mine")
    (folder / f"{sha1}.something").write_text("mine")
    stuck = folder / f"{sha1}{paths.PARTIAL_MAP}"
    stuck.mkdir()
    place.sweep(1_000)
    assert place.files() == {sha1, "notes.txt", f"{sha1}.something"}
    assert stuck.is_dir()
