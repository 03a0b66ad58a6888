from __future__ import annotations

import hashlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.storage.files.hashing import RunningHash


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 200_000), max_size=12))
def test_it_is_the_sha1_of_all_pieces_in_order(sizes):
    pieces = [random.Random(size).randbytes(size) for size in sizes]
    running = RunningHash()
    for piece in pieces:
        running.update(memoryview(piece))
    assert running.hexdigest() == hashlib.sha1(b"".join(pieces)).hexdigest()
    running.close()
    running.close()
