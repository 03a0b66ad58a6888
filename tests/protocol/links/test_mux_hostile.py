"""Frames that an honest peer does not send: each is refused, and none is a way to more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.errors import (
    Busy,
    ProtocolViolation,
)
from kachery_p2p.protocol.limits import (
    FRAME_OVERHEAD,
    MAX_BODY,
    MAX_RELAY_TAIL,
)
from kachery_p2p.protocol.links import frames, mux
from kachery_p2p.protocol.links.frames import (
    NO_TAIL,
    OPAQUE_TAIL,
    SEALED_TAIL,
    Bye,
    Credit,
    Data,
    End,
    Failure,
    Frame,
    Note,
    Open,
    Ping,
    Pong,
    Request,
    Response,
)
from kachery_p2p.protocol.links.mux import Mux
from kachery_p2p.protocol.links.session import TAG_BYTES
from tests.protocol.links.muxes import HELLO, drain, one

# --- hostile frames ---------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [Ping(1), Request(1, "m", None), Note("t", None), Credit(1, 1)])
def test_nothing_is_heard_before_the_hello(frame: Frame) -> None:
    with pytest.raises(ProtocolViolation):
        one(greeted=False).receive(frame, None, 0.0)


def test_a_peer_may_leave_instead_of_greeting() -> None:
    [bye] = one(greeted=False).receive(Bye("busy", {"limit": "5 links"}), None, 0.0)
    assert isinstance(bye, mux.SaidBye)
    assert isinstance(bye.error, Busy)


def stretched(receiver: Mux) -> Mux:
    """The receiver after a peer opened stream 1 and asked 3, and it opened 2 and asked 4 itself."""
    receiver.receive(Open(1, "m", None, 100), None, 0.0)
    receiver.receive(Request(3, "m", None), None, 0.0)
    assert receiver.open("m", None, credit=1_000) == 2
    assert receiver.request("m", None) == 4
    return receiver


@pytest.mark.parametrize(
    "frame",
    [
        HELLO,
        Open(1, "again", None, 0), Open(3, "again", None, 0), Open(6, "ours", None, 0),
        Open(0, "zero", None, 0), Open(-1, "negative", None, 0), Open(5, "m", None, -1),
        Request(1, "again", None), Request(2, "ours", None), Request(-3, "negative", None),
        Response(6, None), Response(3, None), Response(1, None), Response(-2, None),
        Failure(8, "busy", {}), Failure(5, "busy", {}),
        Data(5, None, NO_TAIL, 0), Data(6, None, NO_TAIL, 0), Data(0, None, NO_TAIL, 0),
        Data(1, None, NO_TAIL, 0),
        Data(2, None, SEALED_TAIL, 1_000), Data(2, None, SEALED_TAIL, MAX_BODY + TAG_BYTES + 1),
        Data(2, None, OPAQUE_TAIL, MAX_RELAY_TAIL + 1), Data(2, None, NO_TAIL, -500),
        Credit(1, 0), Credit(1, -5), Credit(1, 1 << 50), Credit(7, 5), Credit(0, 5), Credit(-1, 5),
        End(5, "", {}), End(6, "", {}), End(0, "", {}),
    ],
    ids=repr,
)  # fmt: skip
def test_what_cannot_be_right_is_a_violation(frame: Frame) -> None:
    with pytest.raises(ProtocolViolation):
        stretched(one()).receive(frame, memoryview(b""), 0.0)


def test_credit_cannot_be_piled_up_without_end() -> None:
    receiver = stretched(one())
    receiver.receive(Credit(1, 1 << 40), None, 0.0)
    with pytest.raises(ProtocolViolation):
        receiver.receive(Credit(1, 1), None, 0.0)


def test_empty_frames_cost_credit_too() -> None:
    receiver = one()
    number = receiver.open("m", None, credit=10 * FRAME_OVERHEAD)
    for _ in range(10):
        receiver.receive(Data(number, None, NO_TAIL, 0), None, 0.0)
    with pytest.raises(ProtocolViolation):
        receiver.receive(Data(number, None, NO_TAIL, 0), None, 0.0)


wide = st.integers(-(1 << 63), (1 << 64) - 1)


ids = st.integers(-2, 12) | wide


texts = st.sampled_from(["", "busy", "m", "protocol-violation"]) | st.text(max_size=5)


anything = st.none() | wide | st.text(max_size=5) | st.lists(st.binary(max_size=4))


fields = st.dictionaries(st.text(max_size=5), anything, max_size=3)


any_frame = st.one_of(
    st.just(HELLO),
    st.builds(Request, ids, texts, anything),
    st.builds(Response, ids, anything),
    st.builds(Failure, ids, texts, fields),
    st.builds(Open, ids, texts, anything, wide),
    st.builds(Data, ids, anything, st.integers(-1, 4), st.integers(-100, 2_000) | wide),
    st.builds(Credit, ids, wide),
    st.builds(End, ids, texts, fields),
    st.builds(Note, texts, anything),
    st.builds(Ping, wide),
    st.builds(Pong, wide),
    st.builds(Bye, texts, fields),
)


@settings(max_examples=200, deadline=None)
@given(st.booleans(), st.lists(any_frame, max_size=30))
def test_arbitrary_frames_are_taken_or_a_violation_and_never_beat_the_credit(
    greeted: bool, received: list[Frame]
) -> None:
    receiver = one(greeted=greeted)
    if greeted:
        stretched(receiver)
    cost = 0
    try:
        for frame in received:
            for event in receiver.receive(frame, memoryview(b""), 0.0):
                if isinstance(event, mux.Received):
                    cost += event.cost
    except ProtocolViolation:
        pass
    assert cost <= 1_000
    for frame in drain(receiver):
        assert len(frames.encode_header(frame)) > 0
