"""The newest messages of logs, in memory: what is served from there fits into one part."""

from __future__ import annotations

import pytest

from kachery_p2p.node.feeds.newest_messages import NewestMessages
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.feeds.feed import Head, Run, Slice
from kachery_p2p.protocol.feeds.messages import FeedPart
from kachery_p2p.protocol.limits import MAX_SLICE_RUNS

LOG = (bytes(32), bytes(20))


def head(size: int) -> Head:
    return Head(*LOG, size, bytes(32), 0, bytes(64))


def runs(count: int) -> Slice:
    return Slice(0, [Run(1, n, None) for n in range(count)], [b"x"] * count)


def part(slice: Slice) -> FeedPart:
    plain = codec.plain(FeedPart(True, 0, slice.start, slice.runs, [], [], None))
    return codec.convert(FeedPart, plain)


@pytest.mark.parametrize("count", [1, MAX_SLICE_RUNS])
def test_what_fits_into_one_part_is_served(count: int) -> None:
    newest = NewestMessages()
    newest.remember(LOG, runs(count), head(count))
    served = newest.serve(LOG, 0)
    assert served is not None
    assert len(part(served.slice).runs) == count


def test_what_was_appended_one_by_one_and_does_not_fit_is_read_from_disk() -> None:
    newest = NewestMessages()
    slice = runs(MAX_SLICE_RUNS + 1)
    with pytest.raises(ProtocolViolation):
        part(slice)
    newest.remember(LOG, slice, head(MAX_SLICE_RUNS + 1))
    assert newest.serve(LOG, 0) is None
    assert not newest.ends_at(LOG, MAX_SLICE_RUNS + 1)
