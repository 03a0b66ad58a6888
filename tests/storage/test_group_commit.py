from __future__ import annotations

import threading

import pytest

from kachery_p2p.storage.group_commit import GroupCommit


def test_each_item_is_committed_once_and_before_its_submitter_goes_on():
    committed: list[int] = []
    commits: list[int] = []

    def commit(items: list[int]) -> None:
        commits.append(len(items))
        committed.extend(items)

    group = GroupCommit(commit)
    seen: list[bool] = []

    def work(start: int) -> None:
        for number in range(start, start + 50):
            group.submit(number)
            seen.append(number in committed)

    threads = [threading.Thread(target=work, args=(1000 * t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(seen)
    assert sorted(committed) == sorted(1000 * t + n for t in range(8) for n in range(50))
    assert sum(commits) == 400


def test_who_comes_while_a_commit_runs_shares_the_next():
    running, go_on = threading.Event(), threading.Event()
    commits: list[list[str]] = []

    def commit(items: list[str]) -> None:
        commits.append(items)
        if len(commits) == 1:
            running.set()
            assert go_on.wait(10)

    group = GroupCommit(commit)
    first = threading.Thread(target=group.submit, args=("first",))
    first.start()
    assert running.wait(10)
    others = [threading.Thread(target=group.submit, args=(name,)) for name in "abc"]
    for thread in others:
        thread.start()
    while len(group._next.items) < 3:
        threading.Event().wait(0.001)
    go_on.set()
    for thread in [first, *others]:
        thread.join()
    assert [sorted(items) for items in commits] == [["first"], ["a", "b", "c"]]


def test_an_error_reaches_all_who_shared_it_and_nobody_else():
    def commit(items: list[int]) -> None:
        if 13 in items:
            raise OSError("the disk is gone")

    group = GroupCommit(commit)
    group.submit(1)
    with pytest.raises(OSError, match="gone"):
        group.submit(13)
    group.submit(2)


def test_who_commits_for_others_is_relieved_after_its_own_commit():
    """Others came without end while the first one led, and it committed for all of them."""
    last = 50
    led_by: list[tuple[int, list[int]]] = []
    threads: list[threading.Thread] = []

    def commit(items: list[int]) -> None:
        led_by.append((int(threading.current_thread().name), list(items)))
        if items[-1] < last:
            # Somebody is there already whenever a commit ends.
            new = items[-1] + 1
            threads.append(threading.Thread(target=group.submit, args=(new,), name=str(new)))
            threads[-1].start()
            while new not in group._next.items:
                threading.Event().wait(0.0001)

    group = GroupCommit(commit)
    threads.append(threading.Thread(target=group.submit, args=(1,), name="1"))
    threads[0].start()
    while len(led_by) < last:
        threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    assert led_by == [(number, [number]) for number in range(1, last + 1)]
