"""What nodes say about tasks: it fits a header, and everything else is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import codec, limits
from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.links import frames
from kachery_p2p.protocol.tasks import messages as task_messages
from kachery_p2p.protocol.tasks.messages import (
    ENDS,
    TaskKwargs,
    TaskOffer,
    TaskOfferPage,
    TaskOffers,
    TaskResultQuery,
    TaskResultReply,
    TaskRun,
    TaskState,
    TaskUpdate,
    TaskWord,
    make_page,
    make_update,
)
from kachery_p2p.protocol.tasks.result import TaskResult, sign_result
from kachery_p2p.protocol.tasks.task import TASK_TYPES, Payload

CHANNEL, TASK, KEY = b"c" * 32, b"t" * 16, b"k" * 32
SIGNER = NodeKey(b"\x02" * 32)


def result_of(data: bytes = b"5", function: str = "count.1") -> TaskResult:
    return sign_result(
        SIGNER, key=KEY, function=function, type="query", timestamp=1_000,
        payload=Payload("bytes", data),
    )  # fmt: skip


OFFER = TaskOffer("count.1", "query", 4, 3, 2, True)
SAMPLES: list[Any] = [
    TaskRun(CHANNEL, TASK, "count.1", "action", False),
    TaskKwargs(2),
    TaskWord("go"),
    TaskUpdate("queued", 3),
    TaskUpdate("running", 0, 0.5, "sorting", b"hello\n"),
    TaskUpdate("failed", reason="it burst", traceback="Traceback"),
    TaskUpdate("finished", result=result_of()),
    TaskOffers(CHANNEL, "count.1", "count.0"),
    OFFER,
    TaskOfferPage([OFFER], False),
    TaskResultQuery(CHANNEL, KEY),
    TaskResultReply(None),
    TaskResultReply(result_of()),
]
QUESTIONS = {"TaskRun", "TaskOffers", "TaskResultQuery"}
STATES: tuple[TaskState, ...] = task_messages.TaskState.__args__  # type: ignore[attr-defined]


def test_the_samples_hold_every_message() -> None:
    own = {
        kind
        for kind in vars(task_messages).values()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__module__ == task_messages.__name__
    }
    assert {type(sample) for sample in SAMPLES} == own


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_every_message_comes_back_as_it_went(sample: Any) -> None:
    assert codec.decode(type(sample), codec.encode(sample)) == sample


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_field_of_another_type_is_a_violation(sample: Any) -> None:
    plain = codec.plain(sample)
    for key in list(plain) if isinstance(plain, dict) else range(len(plain)):
        for wrong in ({"a": [1]}, 1.5, "text" if not isinstance(plain[key], str) else 5):
            changed = plain.copy()
            changed[key] = wrong
            with pytest.raises(ProtocolViolation):
                codec.convert(type(sample), changed)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_questions_refuse_what_they_do_not_know_and_answers_ignore_it(sample: Any) -> None:
    plain = codec.plain(sample)
    if not isinstance(plain, dict):
        assert codec.convert(type(sample), [*plain, "new"]) == sample
    elif type(sample).__name__ in QUESTIONS:
        with pytest.raises(ProtocolViolation):
            codec.convert(type(sample), {**plain, "new": 1})
    else:
        assert codec.convert(type(sample), {**plain, "new": 1}) == sample


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (TaskRun, {"channel": CHANNEL, "task": b"t" * 15, "function": "f", "type": "query",
                   "again": False}),
        (TaskRun, {"channel": CHANNEL, "task": TASK, "function": "f\n", "type": "query",
                   "again": False}),
        (TaskRun, {"channel": CHANNEL, "task": TASK, "function": "f", "type": "code",
                   "again": False}),
        (TaskKwargs, [1]), (TaskKwargs, [limits.MAX_TASK_KWARGS + 1]), (TaskKwargs, []),
        (TaskWord, ["stop"]), (TaskWord, []),
        (TaskUpdate, ["dancing"]), (TaskUpdate, []), (TaskUpdate, ["queued", -1]),
        (TaskUpdate, ["queued", limits.MAX_TASKS_QUEUED + 1]),
        (TaskUpdate, ["running", 0, 1.01]), (TaskUpdate, ["running", 0, -0.01]),
        (TaskUpdate, ["running", 0, float("nan")]), (TaskUpdate, ["running", 0, float("inf")]),
        (TaskUpdate, ["running", 0, None, "x" * 1_001]),
        (TaskUpdate, ["running", 0, None, "", b"x" * 8_001]),
        (TaskUpdate, ["failed", 0, None, "", b"", "x" * 2_001]),
        (TaskUpdate, ["failed", 0, None, "", b"", "", "x" * 16_001]),
        (TaskUpdate, ["failed", 0, None, "", b"", "", "\U0001f600" * 16_000]),
        (TaskUpdate, ["finished"]),
        (TaskUpdate, ["running", 0, None, "", b"", "", "", codec.plain(result_of())]),
        (TaskOffer, ["f", "query", -1, 0, 0, True]), (TaskOffer, ["", "query", 1, 0, 0, True]),
        (TaskOfferPage, {"offers": [codec.plain(OFFER)] * 1_001, "more": False}),
        (TaskResultQuery, {"channel": CHANNEL, "key": b"k"}),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)[:30]),
)  # fmt: skip
def test_what_is_out_of_bounds_is_a_violation(kind: Any, value: Any) -> None:
    with pytest.raises(ProtocolViolation):
        codec.decode(kind, codec.pack(value))


def test_the_arguments_fit_one_frame() -> None:
    assert limits.MAX_TASK_KWARGS <= limits.MAX_BODY


# --- update ----------------------------------------------------------------------------------------

long_text = st.builds(
    lambda text, times: text * times,
    st.text(min_size=1, max_size=5) | st.sampled_from(["a", "é", "\u4e2d", "\U0001f600", "\ud800"]),
    st.integers(0, 20_000),
)


def fits_a_header(update: TaskUpdate) -> None:
    plain = codec.plain(update)
    header = frames.encode_header(frames.Data(1 << 40, plain, frames.SEALED_TAIL, 1 << 20))
    assert len(header) <= limits.MAX_HEADER
    assert codec.convert(TaskUpdate, plain) == update


@given(
    st.sampled_from(sorted(set(STATES) - {"finished"})),
    long_text, long_text, long_text, st.binary(max_size=10), st.integers(0, 2_000),
    st.none() | st.floats(), st.integers(),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_news_of_whatever_a_function_says_can_be_sent(
    state: Any, message: str, reason: str, trace: str, log: bytes, times: int,
    fraction: float | None, place: int,
) -> None:  # fmt: skip
    update = make_update(
        state, place=place, fraction=fraction, message=message, log=log * times, reason=reason,
        traceback=trace,
    )  # fmt: skip
    fits_a_header(update)


@given(long_text, st.binary(max_size=10), st.integers(0, 2_000))
@settings(deadline=None, max_examples=50)
def test_news_of_the_largest_result_can_be_sent(text: str, log: bytes, times: int) -> None:
    result = result_of(b"x" * limits.MAX_INLINE_RESULT, "\U0001f600" * limits.MAX_FUNCTION_ID)
    update = make_update("finished", message=text, log=log * times, reason=text, traceback=text,
                     result=result)  # fmt: skip
    fits_a_header(update)
    assert update.result == result


def test_what_counts_in_a_long_text_is_kept() -> None:
    update = make_update(
        "failed", message="m" + "x" * 2_000, reason="r" + "x" * 3_000, log=b"x" * 9_000 + b"end",
        traceback="\U0001f600" * 20_000 + "ValueError: no",
    )  # fmt: skip
    assert (update.message[0], len(update.message)) == ("m", limits.MAX_TASK_MESSAGE)
    assert (update.reason[0], len(update.reason)) == ("r", limits.MAX_TASK_REASON)
    assert (update.log[-3:], len(update.log)) == (b"end", limits.MAX_TASK_LOG)
    assert update.traceback.startswith("[...]\n\U0001f600")
    assert update.traceback.endswith("\U0001f600ValueError: no")
    short = make_update("failed", message="é", reason="because", log=b"l", traceback="T\ud800")
    expected = TaskUpdate("failed", 0, None, "é", b"l", "because", "T\\ud800")
    assert short == expected


def test_a_result_is_there_when_it_finished_and_only_then() -> None:
    with pytest.raises(ValueError, match="only then"):
        make_update("finished")
    with pytest.raises(ValueError, match="only then"):
        make_update("failed", result=result_of())
    assert make_update("running", fraction=float("nan")).fraction is None
    assert make_update("running", fraction=1.5).fraction is None
    assert make_update("running", fraction=1).fraction == 1


def test_the_ends_are_states() -> None:
    assert set(STATES) - ENDS == {"queued", "ready", "running"}


# --- pages of offers -----------------------------------------------------------------------------

offers_of = st.lists(
    st.builds(
        TaskOffer,
        st.text(st.sampled_from("abc\U0001f600"), min_size=1, max_size=3),
        st.sampled_from(TASK_TYPES),
        st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.booleans(),
    ),
    max_size=20,
    unique_by=lambda offer: (offer.function, offer.type),
)  # fmt: skip


def all_pages(offers: list[TaskOffer], function: str | None = None) -> list[TaskOffer]:
    found: list[TaskOffer] = []
    query = TaskOffers(CHANNEL, function)
    while True:
        page = make_page(query, offers)
        found += page.offers
        if not page.more:
            return found
        query = TaskOffers(CHANNEL, function, page.offers[-1].function)


@given(offers_of, st.integers(100, 600))
def test_the_pages_together_are_everything_once(offers: list[TaskOffer], room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_messages, "MAX_TASK_OFFERS", room)
        order = sorted(offers, key=lambda offer: (offer.function, offer.type))
        assert all_pages(offers) == order
        for name in {offer.function for offer in offers}:
            assert all_pages(offers, name) == [one for one in order if one.function == name]


def test_a_page_fits_a_header_whatever_the_names() -> None:
    names = [f"{number:06}" + "\U0001f600" * 194 for number in range(1_500)]
    short = [f"{number:06}" for number in range(1_500)]
    for these in (names, short):
        offers = [TaskOffer(name, kind, 1_000_000, 1_000_000, 10_000, True)
                  for name in these for kind in TASK_TYPES]  # fmt: skip
        page = make_page(TaskOffers(CHANNEL), offers)
        header = frames.encode_header(frames.Response(1 << 40, codec.plain(page)))
        assert limits.MAX_HEADER // 3 < len(header) <= limits.MAX_HEADER
        assert page.more
        assert codec.decode(TaskOfferPage, codec.encode(page)) == page
        assert all_pages(offers) == sorted(offers, key=lambda one: (one.function, one.type))


def test_nothing_on_offer_is_an_empty_page() -> None:
    assert make_page(TaskOffers(CHANNEL), []) == TaskOfferPage([], False)
    assert make_page(TaskOffers(CHANNEL, "x"), [OFFER]) == TaskOfferPage([], False)


def test_the_largest_result_is_an_answer() -> None:
    reply = TaskResultReply(result_of(b"x" * limits.MAX_INLINE_RESULT, "\U0001f600" * 200))
    header = frames.encode_header(frames.Response(1 << 40, codec.plain(reply)))
    assert len(header) <= limits.MAX_HEADER
