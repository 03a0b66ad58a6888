"""The limits are numbers, each says why, and those that depend on one another agree."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import pkgutil

import pytest

from kachery_p2p.protocol import codec, limits
from kachery_p2p.protocol.feeds.feed import Run, sign_head
from kachery_p2p.protocol.feeds.frontier import TILE_HEIGHT
from kachery_p2p.protocol.identity import NodeKey

PAGES = [
    importlib.import_module(info.name)
    for info in pkgutil.iter_modules(limits.__path__, f"{limits.__name__}.")
]
BODIES = [ast.parse(inspect.getsource(page)).body for page in PAGES]
BODY = [node for body in BODIES for node in body]
NAMES = [node.target.id for node in BODY if isinstance(node, ast.AnnAssign)]  # type: ignore[union-attr]
SELF_EXPLAINING = {
    # Units, and bounds whose name and section say it all.
    "KIB", "MIB", "RECONNECT_FIRST", "RETRY_FIRST", "MAX_MEMBERS", "MAX_BOOTSTRAPS",
    "BLINDED_KEY_BYTES", "MAX_LOCAL_CLIENTS", "DEFAULT_API_PORT", "OVERTAKE_FIRST_SECONDS",
}  # fmt: skip


def documented() -> set[str]:
    found = set()
    for node, after in itertools.chain.from_iterable(map(itertools.pairwise, BODIES)):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_limit_is_a_positive_number(name: str) -> None:
    value = getattr(limits, name)
    assert isinstance(value, int | float)
    assert value > 0


def test_no_limit_is_said_twice() -> None:
    assert len(NAMES) == len(set(NAMES))


def test_every_limit_says_why() -> None:
    assert set(NAMES) - documented() == SELF_EXPLAINING


def test_a_relayed_frame_carries_the_largest_frame_of_the_session_inside() -> None:
    overhead = 4 + 16 + 16  # the length of the headers, and the tags of headers and body
    assert limits.MAX_BODY + limits.MAX_HEADERS + overhead <= limits.MAX_RELAY_TAIL
    others = limits.JOINED_BYTES + limits.MAX_HEADERS + 4 + 16
    assert limits.MAX_RELAY_TAIL + others <= limits.MAX_RECORD


def test_control_frames_pause_long_before_they_cost_a_link() -> None:
    assert limits.MAX_CONTROL_BYTES >= 4 * limits.CONTROL_PAUSE_BYTES
    assert limits.CONTROL_PAUSE_BYTES >= 4 * limits.MAX_HEADER
    # Announcements that nobody has heard of yet are no reason to drop anybody.
    assert limits.GOSSIP_PUSHES * limits.MAX_HEADER <= limits.MAX_CONTROL_BYTES


def test_a_record_of_any_length_fits_the_deadline_of_a_slow_road() -> None:
    assert limits.MAX_RECORD / limits.WRITE_STALL_SECONDS < 42_000
    assert limits.MIN_BODY / limits.WRITE_STALL_SECONDS < 2_500


def test_the_credit_lets_at_least_a_few_of_the_largest_frames_travel() -> None:
    assert limits.STREAM_CREDIT >= 4 * (limits.MAX_BODY + limits.FRAME_OVERHEAD)
    assert limits.CIRCUIT_CREDIT >= 3 * (limits.MAX_RELAY_TAIL + limits.FRAME_OVERHEAD)


def test_blocks_divide_pieces_and_pieces_divide_segments() -> None:
    assert limits.MAX_BODY % limits.BLOCK == 0
    assert limits.MIN_BODY % limits.BLOCK == 0
    assert limits.SEGMENT % limits.MAX_BODY == 0
    assert limits.MIN_BODY % limits.MIN_FRAGMENT == 0


def test_a_silent_link_is_pinged_before_it_is_dead() -> None:
    assert 2 * limits.PING_SECONDS < limits.DEAD_SECONDS
    assert limits.LOOKUP_SECONDS < limits.REQUEST_SECONDS < limits.STALL_SECONDS


def test_lists_may_hold_what_the_messages_need() -> None:
    needed = (
        limits.MAX_MEMBERS, limits.MAX_DIGEST_ORIGINS, limits.MAX_QUERY_KEYS,
        limits.MAX_ANSWER_NODES, limits.MAX_HOLDERS, limits.MAX_LINKS, limits.MAX_SLICE_RUNS,
        limits.MAX_FEED_WRITERS,
    )  # fmt: skip
    assert max(needed) <= limits.MAX_LIST_ITEMS


def test_the_largest_message_of_a_feed_fits_a_frame_and_all_runs_of_one_its_header() -> None:
    assert limits.MAX_FEED_MESSAGE <= limits.MAX_SLICE <= limits.MAX_BODY
    assert limits.MAX_RUN_BYTES <= limits.MAX_SLICE
    run = len(codec.encode(Run(limits.MAX_RUN, 2**63 - 1, bytes(32))))
    signed = sign_head(NodeKey(bytes(32)), bytes(20), 1 << 40, bytes(32), 2**63 - 1)
    head = len(codec.encode(signed))
    proofs = 2 * 40 * (32 + 2)  # the peaks at its start, and the right-hand proof at its end
    assert limits.MAX_SLICE_RUNS * run + head + proofs < limits.MAX_HEADER - 1_000


def test_a_tile_is_a_power_of_two_and_the_tree_of_a_feed_is_whole_tiles_high() -> None:
    assert 1 << TILE_HEIGHT == limits.TILE
    assert limits.MAX_FEED_MESSAGES == 1 << 5 * TILE_HEIGHT
