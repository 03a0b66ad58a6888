"""Memory that is in use is lent to nobody else, and little of it is kept."""

from __future__ import annotations

import random
import threading

from kachery_p2p.node.buffers import MOST, Buffers
from kachery_p2p.protocol.limits import MAX_RECORD

LENGTH = MAX_RECORD - 5


def test_what_somebody_still_reads_is_not_lent_again() -> None:
    buffers = Buffers()
    rng = random.Random(1)
    held: list[tuple[memoryview, int]] = []
    for turn in range(500):
        view = buffers.take(LENGTH)
        assert len(view) == LENGTH
        view[0] = view[-1] = turn % 256
        # Only a part of it is held on to.
        held.append((view[-1:], turn % 256))
        del view
        while len(held) > rng.randrange(2 * MOST):
            part, mark = held.pop(rng.randrange(len(held)))
            assert part[0] == mark
    assert all(part[0] == mark for part, mark in held)


def test_what_nobody_reads_any_more_is_lent_again() -> None:
    buffers = Buffers()
    assert len({id(buffers.take(LENGTH - turn).obj) for turn in range(50)}) == 1
    assert len(buffers._lent) == 1


def test_no_more_than_a_few_are_kept_and_none_when_it_is_quiet() -> None:
    buffers = Buffers()
    views = [buffers.take(LENGTH) for _ in range(3 * MOST)]
    assert len({id(view.obj) for view in views}) == 3 * MOST
    assert len(buffers._lent) == MOST
    del views
    buffers.forget()
    assert not buffers._lent


def test_what_is_short_holds_no_more_than_it_takes() -> None:
    buffers = Buffers()
    for length in (0, 1, 100_000, MAX_RECORD // 2 - 1):
        view = buffers.take(length)
        assert len(view) == length
        assert len(view.obj) <= 2 * length
    assert not buffers._lent


def test_threads_do_not_get_the_same() -> None:
    buffers, wrong = Buffers(), []

    def use(mark: int) -> None:
        for _ in range(300):
            view = buffers.take(LENGTH)
            view[: 1 << 16] = bytes([mark]) * (1 << 16)
            if bytes(view[: 1 << 16]) != bytes([mark]) * (1 << 16):
                wrong.append(mark)

    threads = [threading.Thread(target=use, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
