"""What follows from a change of a channel, done in order, each step on its own, until all are done.

First of all the links are looked at, then whoever was registered: those that cut come first. A step
is done at once, before the call returns; one that fails keeps none of the others from happening and
is done again, after growing pauses, until it succeeds. So steps must be idempotent, take no waiting,
and go by what is in the book now; what takes waiting, such as new announcements, is a
:class:`~.supervision.Job` of its own.

Invariant: a failure of any kind, at any step, leaves no removed member with what another step takes
from it.
"""

from __future__ import annotations

from collections.abc import Callable

from kachery_p2p.node.links.network import Network
from kachery_p2p.node.supervision import Job
from kachery_p2p.protocol.channels.membership import Update

Consequence = Callable[[bytes, Update | None], object]
"""Called with a channel and what changed, None if that is not known. Returns False, or raises, if it is
to be called again."""


class Consequences:
    """``steps`` is read anew each time: parts of the node add to it."""

    def __init__(self, network: Network, steps: list[Consequence]) -> None:
        self._network = network
        self._steps = steps
        self._open: dict[bytes, dict[Consequence, None]] = {}
        self._jobs: dict[bytes, Job] = {}

    def follow(self, channel: bytes, update: Update | None) -> None:
        """A channel changed. Never raises."""
        self._try([self._links, *self._steps], channel, update)
        if channel in self._open:
            job = self._jobs.get(channel)
            if job is None:
                job = Job(
                    self._network.supervisor, self._name(channel), lambda: self._again(channel)
                )
                self._jobs[channel] = job
            job.ask()

    def open(self, channel: bytes) -> bool:
        """Whether something is still to be done again."""
        return channel in self._open

    def _name(self, channel: bytes) -> str:
        return f"applying a change of channel {self._network.name_of(channel)!r}"

    def _links(self, channel: bytes, update: Update | None) -> bool:
        return self._network.reconsider_all()

    def _try(self, steps: list[Consequence], channel: bytes, update: Update | None) -> None:
        supervisor = self._network.supervisor
        failed: dict[Consequence, None] = {}
        for step in steps:
            try:
                good = step(channel, update) is not False
            except Exception as error:  # whatever it is must not keep the next step from happening
                supervisor.failed(self._name(channel), error)
                good = False
            if not good:
                failed[step] = None
        if failed:
            self._open[channel] = failed
        else:
            self._open.pop(channel, None)

    async def _again(self, channel: bytes) -> bool:
        self._try(list(self._open.get(channel, ())), channel, None)
        if channel in self._open:
            return False
        self._jobs.pop(channel, None)
        return True
