"""What a local caller asks for, and how it ended: the values that :mod:`.requests` works with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.tasks.messages import TaskState, TaskUpdate, make_update
from kachery_p2p.protocol.tasks.result import TaskResult
from kachery_p2p.protocol.tasks.task import Payload, TaskType, task_key

from .jobs import NO_STEP, Step
from .run import Run

RequestState = TaskState | Literal["looking", "no backend yet"]
Tell = Callable[[RequestState, TaskUpdate, str, str], None]
"""Called with a state, what is new, and the id and label of the node that it comes from."""


@dataclass(eq=False)
class Request:
    """What a local caller asks for. ``deadline``, ``backend_deadline`` and ``since`` are of the loop's
    clock, ``at`` is Unix time."""

    task: bytes
    function: str
    type: TaskType
    kwargs: bytes
    channel: bytes | None
    deadline: float | None
    backend_deadline: float
    retries: int
    cached: bool
    since: float
    at: float
    tell: Tell
    state: RequestState = "looking"
    node: str = ""
    label: str = ""
    reason: str = ""
    step: Step = NO_STEP
    where: bytes | None = None
    run: Run | None = None
    refusal: KacheryError | None = None
    returning: tuple[str, float] | None = None
    """The node that was lost while it ran it, and until when it may be back."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    work: asyncio.Task[Outcome] | None = None
    """What sees it through, whether or not its caller is still there."""
    looked: bool = False
    """Whether this node has looked who has the result."""
    within: bytes | None = None
    """The run here whose function asks for it, and waits for it."""
    attempt: bytes = b""
    """The id under which nodes know it now: a run that is repeated is another task to them."""

    def __post_init__(self) -> None:
        self.attempt = self.task

    @property
    def key(self) -> bytes:
        return task_key(self.function, self.kwargs)

    @property
    def may_be_known(self) -> bool:
        """Whether a result that somebody has will do."""
        return self.type == "pure-calculation" and self.cached

    def say(self, update: TaskUpdate) -> None:
        self.reason = update.reason
        self.state = update.state
        self.step = self.step.after(update)
        self.tell(self.state, update, self.node, self.label)

    def repeat(self) -> None:
        """Tell a caller that comes anew how it stands."""
        told = make_update("queued", **self.step._asdict())
        self.tell(self.state, told, self.node, self.label)

    def wait(self) -> None:
        """Nobody is there who could run it."""
        self.node = self.label = ""
        self.state = "no backend yet"
        self.step = NO_STEP
        self.tell(self.state, TaskUpdate("queued"), "", "")


class Outcome(msgspec.Struct, frozen=True):
    """How a request ended: "finished", "failed", "cancelled" or "unknown"."""

    state: str
    payload: Payload | None = None
    reason: str = ""
    traceback: str = ""
    cached: bool = False
    node: str = ""
    timestamp: int = 0


CANCELLED: Final = Outcome("cancelled", reason="its requester cancelled it")


def outcome_of(result: TaskResult, *, cached: bool) -> Outcome:
    """The outcome that a result is. ``cached``: it was there before."""
    return Outcome(
        "finished",
        result.payload,
        cached=cached,
        node=result.node.hex(),
        timestamp=result.timestamp,
    )
