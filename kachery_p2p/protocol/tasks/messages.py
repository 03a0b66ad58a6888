"""What nodes say to one another about tasks.

``task.run`` is a stream. Its parameters are a :class:`TaskRun`, with the canonical arguments if they
are short; if not, the requester's first frame has a :class:`TaskKwargs` as meta and them as body.
Every further one has a :class:`TaskWord`. The backend's node sends frames with a :class:`TaskUpdate`
as meta and no body, and ends the stream after the update that tells how it ended. A pure calculation
or a query begins when a slot is free. An action does not: its update is "ready" then, and the word
"go" lets it begin.

``task.offers`` is answered with :class:`TaskOfferPage`, ``task.result`` with
:class:`TaskResultReply`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from kachery_p2p.protocol.limits import (
    MAX_FUNCTION_ID,
    MAX_LABEL,
    MAX_TASK_BACKENDS,
    MAX_TASK_FUNCTIONS,
    MAX_TASK_KWARGS,
    MAX_TASK_LOG,
    MAX_TASK_MESSAGE,
    MAX_TASK_OFFERS,
    MAX_TASK_REASON,
    MAX_TASK_SLOTS,
    MAX_TASK_TRACEBACK,
    MAX_TASK_UPDATE,
    MAX_TASKS_QUEUED,
    SHORT_TASK_KWARGS,
)
from kachery_p2p.protocol.method import Method

from .result import TaskResult
from .signature import TaskSignature
from .task import TASK_TYPES, FunctionId, TaskId, TaskKey, TaskType

TASK_RUN = "task.run"
TASK_OFFERS = "task.offers"
TASK_RESULT = "task.result"

TaskState = Literal[
    "queued", "ready", "running", "finished", "failed", "cancelled", "unknown", "absent"
]
"""``absent``: the node knows nothing of the task, so it never began there."""
ENDS: Final[frozenset[TaskState]] = frozenset(
    ("finished", "failed", "cancelled", "unknown", "absent")
)
"""After update of one of these no more comes."""

_Slots = Annotated[int, Meta(ge=0, le=MAX_TASK_SLOTS * MAX_TASK_BACKENDS)]
_Queued = Annotated[int, Meta(ge=0, le=MAX_TASKS_QUEUED)]
_OFFER_BYTES: Final = 64
_CUT: Final = "[...]\n"


class TaskRun(Struct, frozen=True, forbid_unknown_fields=True):
    """Run a function. ``task`` is 16 random bytes that name this request: repeating it runs nothing
    anew. ``again``: it may have been sent to this node before.

    ``look``: of a pure calculation, a result that somebody has will do, and the requester has not
    looked for one: the node does, before it runs anything. ``kwargs``: the arguments, if they have at
    most ``SHORT_TASK_KWARGS`` bytes; None: they follow.
    """

    channel: bytes
    task: TaskId
    function: FunctionId
    type: TaskType
    again: bool
    look: bool = False
    kwargs: Annotated[bytes, Meta(max_length=SHORT_TASK_KWARGS)] | None = None


class TaskKwargs(Struct, frozen=True, array_like=True):
    """The body is the canonical arguments, ``size`` bytes."""

    size: Annotated[int, Meta(ge=2, le=MAX_TASK_KWARGS)]


class TaskWord(Struct, frozen=True, array_like=True):
    """From the requester. ``go``: the action that is ready may begin."""

    word: Literal["go", "cancel"]


class TaskUpdate(Struct, frozen=True, array_like=True):
    """From the backend's node: how a task stands, and what it said since the update before.

    ``place``: how many are before it in the queue. ``fraction``: done, 0 to 1, if the function tells.
    ``log``: what it printed, in UTF-8. ``reason`` and ``traceback``: why it failed, or why nothing is
    known. A ``result`` is there when it finished, and only then; ``found``: it was there before, and
    may be another node's. :func:`make_update` keeps the bounds.

    Raises:
        ValueError: a result is missing or in the wrong place, or everything together is too much.
    """

    state: TaskState
    place: _Queued = 0
    fraction: Annotated[float, Meta(ge=0, le=1)] | None = None
    message: Annotated[str, Meta(max_length=MAX_TASK_MESSAGE)] = ""
    log: Annotated[bytes, Meta(max_length=MAX_TASK_LOG)] = b""
    reason: Annotated[str, Meta(max_length=MAX_TASK_REASON)] = ""
    traceback: Annotated[str, Meta(max_length=MAX_TASK_TRACEBACK)] = ""
    result: TaskResult | None = None
    found: bool = False

    def __post_init__(self) -> None:
        if (self.state == "finished") != (self.result is not None):
            raise ValueError("a result is there when the task finished, and only then")
        if self.fraction is not None and not 0 <= self.fraction <= 1:
            raise ValueError("a fraction is 0 to 1")
        if (size := update_bytes(self)) > MAX_TASK_UPDATE:
            raise ValueError(f"{size} bytes of texts and result: more than {MAX_TASK_UPDATE}")


def update_bytes(update: TaskUpdate) -> int:
    """Bytes of all that is in an update."""
    texts = (update.message, update.reason, update.traceback)
    return len(update.log) + sum(map(_bytes_of, texts)) + _result_bytes(update.result)


class TaskOffers(Struct, frozen=True, forbid_unknown_fields=True):
    """What do you run on this channel? ``function``: that one only. ``after``: those whose ids come
    after this one, in the order of code points; the first page is after ``""``."""

    channel: bytes
    function: FunctionId | None = None
    after: Annotated[str, Meta(max_length=MAX_FUNCTION_ID)] = ""


class TaskOffer(Struct, frozen=True, array_like=True):
    """A function of a node: ``slots`` of all backends that have it, how many of them are ``running``
    something, how many tasks are ``queued`` for it. ``allowed``: on the node's allow list. ``backend``:
    the labels of these backends, for people. ``signature``: what it takes, if its backend says so."""

    function: FunctionId
    type: TaskType
    slots: _Slots
    running: _Slots
    queued: _Queued
    allowed: bool
    backend: Annotated[str, Meta(max_length=MAX_LABEL)] = ""
    signature: TaskSignature | None = None


class TaskOfferPage(Struct, frozen=True):
    """Sorted by function. ``more``: ask again for what comes after the last one."""

    offers: Annotated[list[TaskOffer], Meta(max_length=MAX_TASK_FUNCTIONS)]
    more: bool


class TaskResultQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """``task.result``: of which task."""

    channel: bytes
    key: TaskKey


class TaskResultReply(Struct, frozen=True):
    """The signed result, or None if there is none that may be given on the channel."""

    result: TaskResult | None


def make_update(
    state: TaskState,
    *,
    place: int = 0,
    fraction: float | None = None,
    message: str = "",
    log: bytes = b"",
    reason: str = "",
    traceback: str = "",
    result: TaskResult | None = None,
) -> TaskUpdate:
    """News that is within its bounds, of whatever a function said.

    Message and reason lose their ends; the log and the traceback their beginnings, since what counts
    stands last there. Half a surrogate pair is written out. A fraction that is none is left out.

    Raises:
        ValueError: a result is missing or in the wrong place.
    """
    if fraction is not None and not 0 <= fraction <= 1:
        fraction = None
    message = sendable(message)[:MAX_TASK_MESSAGE]
    reason = sendable(reason)[:MAX_TASK_REASON]
    log = log[-MAX_TASK_LOG:]
    left = (
        MAX_TASK_UPDATE - len(log) - _bytes_of(message) - _bytes_of(reason) - _result_bytes(result)
    )
    traceback = _last_part(sendable(traceback), MAX_TASK_TRACEBACK, left)
    place = min(max(place, 0), MAX_TASKS_QUEUED)
    return TaskUpdate(state, place, fraction, message, log, reason, traceback, result)


def make_page(query: TaskOffers, offers: Iterable[TaskOffer]) -> TaskOfferPage:
    """What of a node's offers answers a query: as many as fit a header.

    Entries of one function (of several types) stay together.
    """
    wanted = sorted(
        (offer for offer in offers
         if offer.function > query.after and query.function in (None, offer.function)),
        key=lambda offer: (offer.function, offer.type),
    )  # fmt: skip
    page: list[TaskOffer] = []
    left = MAX_TASK_OFFERS
    for offer in wanted:
        left -= _OFFER_BYTES + _bytes_of(offer.function) + _bytes_of(offer.backend)
        left -= 0 if offer.signature is None else offer.signature.size
        full = left < 0 or len(page) >= MAX_TASK_FUNCTIONS - len(TASK_TYPES)
        if full and page and page[-1].function != offer.function:
            return TaskOfferPage(page, True)
        page.append(offer)
    return TaskOfferPage(page, False)


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _result_bytes(result: TaskResult | None) -> int:
    if result is None:
        return 0
    payload: Any = result.payload
    return len(payload.data or b"") + len(payload.uri or "") + _bytes_of(result.function)


def sendable(text: str) -> str:
    """Text that can travel: half of a surrogate pair, as in a file name that is no UTF-8, becomes what
    Python writes for it (``\\udce9``)."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _last_part(text: str, most_chars: int, most_bytes: int) -> str:
    if len(text) <= most_chars and _bytes_of(text) <= most_bytes:
        return text
    text = text[len(_CUT) - most_chars :]
    tail = text.encode("utf-8")[len(_CUT) - most_bytes :] if most_bytes > len(_CUT) else b""
    return _CUT + tail.decode("utf-8", "ignore") if tail else ""


METHODS: Final = (
    Method(
        TASK_RUN,
        "stream",
        TaskRun,
        "any member -> provider (end to end): run a function",
        "request-tasks",
    ),
    Method(
        TASK_OFFERS,
        "request",
        TaskOffers,
        "any member -> provider (end to end): which functions it runs",
        "request-tasks",
    ),
    Method(
        TASK_RESULT,
        "request",
        TaskResultQuery,
        "any member -> holder (end to end): a signed result",
        "request-files",
    ),
)
