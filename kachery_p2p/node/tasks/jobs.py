"""Jobs: what was asked of the backends of this node, and who waits to hear of it.

A :class:`Job` lives from the request to its end; everybody who waits for it has a :class:`Watcher`. A
:class:`Backend` is a local process that offered functions and takes jobs. The rules of the queue are in
:mod:`.queue`.

Bounds: a watcher holds one update, into which later ones are merged until it is heard; of what
a function prints in between, the newest ``MAX_TASK_LOG`` bytes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kachery_p2p.node.parties import Party, on_behalf_of
from kachery_p2p.protocol.errors import BadInput, NoBackend
from kachery_p2p.protocol.limits import MAX_LABEL
from kachery_p2p.protocol.tasks.messages import (
    ENDS,
    TaskOffer,
    TaskState,
    TaskUpdate,
    make_update,
    update_bytes,
)
from kachery_p2p.protocol.tasks.signature import TaskSignature
from kachery_p2p.protocol.tasks.task import TaskType

_JOB_BYTES = 1_000
"""Bytes of memory, about, of a job that has ended, beside what it ended with."""


def merge(old: TaskUpdate | None, new: TaskUpdate) -> TaskUpdate:
    """What somebody has to hear who has not heard ``old`` yet."""
    if old is None:
        return new
    return make_update(
        new.state,
        place=new.place,
        fraction=old.fraction if new.fraction is None else new.fraction,
        message=new.message or old.message,
        log=old.log + new.log,
        reason=new.reason,
        traceback=new.traceback,
        result=new.result,
    )


class Step(NamedTuple):
    """How far a function says that it has come: 0 to 1, and in words."""

    fraction: float | None = None
    message: str = ""

    def after(self, update: TaskUpdate) -> Step:
        """What is to be told to who asks after this update."""
        if update.state != "running":
            return NO_STEP
        fraction = self.fraction if update.fraction is None else update.fraction
        return Step(fraction, update.message or self.message)


NO_STEP = Step()


class Watcher:
    """Somebody who waits for a job: another node's stream, or a local call. ``within``: the job whose
    function does, if it runs here."""

    def __init__(self, job: Job, within: Job | None = None) -> None:
        self.job = job
        self.within = within
        self._update: TaskUpdate | None = None
        self._ready = asyncio.Event()

    def put(self, update: TaskUpdate) -> None:
        self._update = merge(self._update, update)
        self._ready.set()

    async def next(self) -> TaskUpdate:
        """What is new, once there is anything."""
        await self._ready.wait()
        self._ready.clear()
        update, self._update = self._update, None
        assert update is not None
        return update


@dataclass(eq=False)
class Backend:
    """A local process that runs functions."""

    id: bytes
    functions: Mapping[str, TaskType]
    channels: frozenset[bytes]
    slots: int
    label: str
    returned: frozenset[bytes] = frozenset()
    """Actions that it still runs from before this node was started."""
    codes: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints of what its functions do."""
    signatures: Mapping[str, TaskSignature] = field(default_factory=dict)
    """What its functions take, as far as it says so."""
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    ready: set[Job] = field(default_factory=set)
    """Actions that a slot is kept for until their requester says that they may begin."""
    granted: deque[Job] = field(default_factory=deque)
    """Jobs that it gets when it asks next."""
    running: dict[bytes, Job] = field(default_factory=dict)
    cancels: list[bytes] = field(default_factory=list)
    gone: bool = False

    def suits(self, job: Job) -> bool:
        return job.channel in self.channels and self.functions.get(job.function) == job.type

    @property
    def load(self) -> int:
        return len(self.ready) + len(self.granted) + len(self.running)


@dataclass(eq=False)
class Job:
    """One run of a function. ``id``: for an action or a query, that of the requester's task."""

    id: bytes
    function: str
    type: TaskType
    kwargs: bytes
    key: bytes
    channel: bytes
    requester: str
    since: float
    state: TaskState = "queued"
    backend: Backend | None = None
    party: Party = field(default_factory=on_behalf_of.get)
    """On whose account its slot is."""
    slot_since: float = 0.0
    """When (the loop's time) it got that."""
    started: bool = False
    """The function has begun, as far as its backend has said; or, an action, it may have."""
    closing: bool = False
    """Its end is being written down: it must not begin any more."""
    end: TaskUpdate | None = None
    reason: str = ""
    step: Step = NO_STEP
    watchers: dict[Watcher, None] = field(default_factory=dict)
    tasks: set[bytes] = field(default_factory=set)
    """The ids under which it was asked for."""

    @property
    def end_bytes(self) -> int:
        """Bytes, about, of how it ended."""
        end = self.end
        return _JOB_BYTES if end is None else _JOB_BYTES + update_bytes(end)

    def watch(self, within: Job | None = None) -> Watcher:
        """Raises BadInput if it waits for the job ``within`` already, which would wait for it: neither
        would ever end."""
        if within is not None and self._waits_for(within):
            reason = "with these arguments it waits for itself, by way of what it asks for"
            raise BadInput(what=f"task function {self.function!r}", reason=reason)
        watcher = Watcher(self, within)
        self.watchers[watcher] = None
        watcher.put(self.end or make_update(self.state, **self.step._asdict()))
        return watcher

    def _waits_for(self, other: Job) -> bool:
        seen, left = {other.id}, [other]
        while left:
            found = left.pop()
            if found is self:
                return True
            waiting = [each.within for each in found.watchers if each.within is not None]
            left += [each for each in waiting if each.end is None and each.id not in seen]
            seen |= {each.id for each in waiting}
        return False

    def is_same(self, other: Job) -> bool:
        """Whether it is the same function with the same arguments, and of the same node, or a
        calculation of the same channel, which is anybody's there."""
        shared = self.type == "pure-calculation" and self.channel == other.channel
        mine = (self.function, self.type, self.key)
        return mine == (other.function, other.type, other.key) and (
            shared or self.requester == other.requester
        )

    def tell(self, update: TaskUpdate) -> None:
        """To all who wait; an end is remembered for who comes later."""
        if self.end is not None:
            return
        self.state = update.state
        self.step = self.step.after(update)
        if update.state in ENDS:
            self.end = update
            self.reason = update.reason
        for watcher in self.watchers:
            watcher.put(update)


def check_offered(backends: Collection[Backend], job: Job) -> None:
    """Raises BadInput if none of these backends can run a job and one could if it were of another type;
    NoBackend if none could."""
    if any(backend.suits(job) for backend in backends):
        return
    here = [backend for backend in backends if job.channel in backend.channels]
    kinds = [each.functions[job.function] for each in here if job.function in each.functions]
    if kinds:
        raise wrong_type(job.function, job.type, kinds)
    raise NoBackend(function=job.function, detail="no backend of this node offers it")


def wrong_type(function: str, wanted: TaskType, offered: Iterable[TaskType]) -> BadInput:
    """The error of a request for a function that is on offer as something else."""
    kinds = " and ".join(
        sorted({f"{'an' if kind == 'action' else 'a'} {kind}" for kind in offered})
    )
    reason = f"it is offered as {kinds}, and was asked for as {wanted}; give that as its type"
    return BadInput(what=f"task function {function!r}", reason=reason)


def offers_of(
    backends: Iterable[Backend], jobs: Iterable[Job], allowed: Callable[[str], bool]
) -> list[TaskOffer]:
    """What these backends offer together, with its load, sorted by function and type."""
    found: dict[tuple[str, TaskType], list[Backend]] = {}
    for backend in backends:
        for function, kind in backend.functions.items():
            found.setdefault((function, kind), []).append(backend)
    queued = Counter(job.function for job in jobs if job.state == "queued")
    return [
        TaskOffer(
            function,
            kind,
            sum(backend.slots for backend in having),
            sum(backend.load for backend in having),
            queued[function],
            allowed(function),
            ", ".join(sorted({backend.label for backend in having if backend.label}))[:MAX_LABEL],
            next((b.signatures[function] for b in having if function in b.signatures), None),
        )
        for (function, kind), having in sorted(found.items())
    ]
