"""For whom a node keeps things, and how much: pure decisions."""

from __future__ import annotations

import pytest

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.keepers.offer import KeepOffer, keeper_key
from kachery_p2p.protocol.limits import MAX_FILE, MAX_KEEP_FOR, MAX_KEPT_EACH

ALICE, BOB = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("offer", "size", "used", "things", "why"),
    [
        (KeepOffer(), 1, 0, 0, "does not keep anything"),
        (KeepOffer(frozenset({BOB})), 1, 0, 0, "does not keep anything"),
        (KeepOffer(frozenset({ALICE})), 1, 0, 0, ""),
        (KeepOffer(None), MAX_FILE, MAX_FILE, 0, ""),
        (KeepOffer(None, 100), 100, 0, 0, ""),
        (KeepOffer(None, 100), 60, 40, 0, ""),
        (KeepOffer(None, 100), 61, 40, 0, "61 bytes more would pass the 100 bytes"),
        (KeepOffer(None, 100), 0, 200, 0, "would pass"),
        (KeepOffer(None), 1, 0, MAX_KEPT_EACH, "things for this node already"),
    ],
)
def test_what_is_taken_fits_and_is_for_whom_it_was_offered(
    offer: KeepOffer, size: int, used: int, things: int, why: str
) -> None:
    reason = offer.why_not(ALICE, size, used, things)
    assert why in reason
    assert bool(why) is bool(reason)


def test_an_offer_that_can_never_work_is_refused() -> None:
    assert KeepOffer.made(None, 5) == KeepOffer(None, 5)
    assert KeepOffer.made([], None) == KeepOffer()
    for nodes, limit in ((["x"], None), ([ALICE], 0), ([ALICE], MAX_FILE + 1)):
        with pytest.raises(BadInput):
            KeepOffer.made(nodes, limit)
    with pytest.raises(BadInput, match="names more than"):
        KeepOffer.made([f"{number:064x}" for number in range(MAX_KEEP_FOR + 1)], None)


def test_each_node_finds_its_keepers_under_a_key_of_its_own() -> None:
    secret = bytes(32)
    keys = {keeper_key(node).blinded(secret) for node in (None, ALICE, BOB)}
    assert len(keys) == 3
