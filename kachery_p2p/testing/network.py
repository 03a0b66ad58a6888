"""Several nodes, a channel that they are on, and its proxy, in one with-statement."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import shutil
import string
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from kachery_p2p.client import nodes as client
from kachery_p2p.embedded import private_folder
from kachery_p2p.local import places
from kachery_p2p.protocol.errors import BadInput, DeadlineExceeded, KacheryError

from .background import Background
from .daemons import Daemon, free_port
from .gossip import settled, until
from .inside import InsideNode
from .links import Line
from .nodes import AnyNode

PROXY = "proxy"
"""The label of the node that the others reach one another through."""
_LINK_SECONDS = 30.0
_SETTLE_SECONDS = 2.0


class Network:
    """Nodes ``A``, ``B``, ... and ``proxy`` on one channel; ``with`` or ``async with``.

    >>> with Network(2) as network:
    ...     with network["A"].at():
    ...         uri = kc.store_text("some text")
    ...     with network["B"].at():
    ...         assert kc.load_text(uri) == "some text"
    ...     network.cut("B")

    When such a block ends, what was stored in it is known to the proxy, so that others find it
    (:meth:`settle`; unless the link is cut).

    The first node owns the channel. None listens unless told to, so all meet through the proxy. They
    run in this process, on a thread of their own, or each in a process of its own, as daemons do.
    """

    def __init__(
        self,
        nodes: int | Sequence[str] = 2,
        *,
        channel: str = "lab",
        roles: str | Mapping[str, str] = "all",
        processes: bool = False,
        listening: Sequence[str] = (),
        lines: bool = True,
        folder: Path | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            nodes: how many, or their labels.
            channel: its name.
            roles: what the owner grants each node, or each by its label (those not named: all).
            processes: real daemons (Linux). They take a second to start, and can be killed.
            listening: labels of nodes that listen too, so that others may link to them directly.
            lines: False: nothing between a node and the proxy; links cannot be cut or slowed.
            folder: the nodes' folders are made here and left; None: somewhere, and deleted.

        Raises:
            BadInput
        """
        labels = _labels(nodes) if isinstance(nodes, int) else list(nodes)
        if not labels or len(set(labels) | {PROXY}) != len(labels) + 1:
            raise BadInput(
                what=f"nodes={nodes!r}",
                reason=f"at least one label, each once, and none is {PROXY!r}",
            )
        self.channel = channel
        self.document = ""
        """The channel's document as text, for more nodes to join."""
        self.nodes: dict[str, AnyNode] = {}
        """By label; the proxy is among them."""
        self._labels = labels
        self._roles = roles
        self._processes = processes
        self._listening = listening
        self._with_lines = lines
        self._lines: dict[str, Line] = {}
        self._given_folder = folder
        self._folder = folder or Path()
        self._background: Background | None = None

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start everything, or undo it; returns when every node has its link to the proxy.

        Raises what the nodes raise, and DeadlineExceeded: no link within 30 s."""
        if self._background is not None:
            raise BadInput(what="this Network", reason="it runs already")
        self._folder = self._given_folder or private_folder()
        self._background = Background("kachery-p2p-network")
        atexit.register(self.stop)
        try:
            self._start_all()
            self._background.run(self._meet())
            for node in self.nodes.values():
                node.after = self._settle_if_linked
        except BaseException:
            self.stop()
            raise
        return self

    def _start_all(self) -> None:
        self.nodes = self._make_all()
        if not self._processes:
            for node in self.nodes.values():
                node.start()
            return
        # Most of a daemon's start is Python's own: let them start side by side.
        self._in_background(self._start_side_by_side(list(self.nodes.values())))

    def _make_all(self) -> dict[str, AnyNode]:
        return {label: self._make(label) for label in (PROXY, *self._labels)}

    async def _start_side_by_side(self, nodes: list[AnyNode]) -> None:
        # All of them end, however the others fare: then each is known to whoever stops them.
        ends = await asyncio.gather(*(node.astart() for node in nodes), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    def _in_background(self, work: Any) -> Any:
        if self._background is None:
            work.close()
            raise BadInput(what="this Network", reason="it does not run; enter it with 'with'")
        return self._background.run(work)

    def _make(self, label: str, *, listen: bool = False) -> AnyNode:
        line = None
        if self._with_lines and label != PROXY:
            assert self._background is not None
            line = self._lines[label] = Line()
            self._background.run(line.start())
        listens = listen or label == PROXY or label in self._listening
        address = f"127.0.0.1:{free_port()}" if listens else None
        if not self._processes:
            assert self._background is not None
            return InsideNode(
                self._background,
                self._folder,
                label,
                listen=address,
                proxy=label == PROXY,
                http_proxy=None if line is None else line.url,
            )
        daemon = Daemon(self._folder, label, listen=address, proxy=label == PROXY)
        if line is not None:
            for name in [name for name in daemon.env if name.lower() == "no_proxy"]:
                del daemon.env[name]
            daemon.env |= {"ws_proxy": line.url, "wss_proxy": line.url}
        return daemon

    async def _meet(self) -> None:
        """Make the channel, have all join it, wait until they are linked."""
        proxy, first = self.nodes[PROXY], self.nodes[self._labels[0]]
        with places.talking_to(first.target()):
            await client.achannel_create(
                self.channel,
                [f"{proxy.url}#{proxy.node_id}"],
                roles=self._granted(first.label),
            )
            for label in self._labels[1:]:
                await self._admit(self.nodes[label], self._granted(label))
            self.document = await client.achannel_export(self.channel)
        with places.talking_to(proxy.target()):
            await client.achannel_join(self.document, roles="none")
        for label in self._labels[1:]:
            with places.talking_to(self.nodes[label].target()):
                await client.achannel_join(self.document)
        for label in self._labels:
            await self._linked(self.nodes[label])

    def _granted(self, label: str) -> str:
        return self._roles if isinstance(self._roles, str) else self._roles.get(label, "all")

    async def _admit(self, node: AnyNode, roles: str) -> None:
        await client.achannel_add_node(self.channel, node.node_id, label=node.label, roles=roles)

    async def _linked(self, node: AnyNode) -> None:
        """Wait until a node and the proxy share the channel, seen from both ends."""
        proxy = self.nodes[PROXY]
        for here, there in ((node, proxy), (proxy, node)):
            with places.talking_to(here.target()):
                if not await until(partial(_shares, self.channel, there.node_id), _LINK_SECONDS):
                    raise DeadlineExceeded(
                        what=f"The link of node {node.label!r} to the proxy ({await _why()})",
                        seconds=_LINK_SECONDS,
                    )

    def stop(self) -> None:
        """Stop everything and delete what was private to it; processes are killed. Nothing if it does
        not run."""
        background, self._background = self._background, None
        if background is None:
            return
        atexit.unregister(self.stop)
        with contextlib.ExitStack() as stack:
            if self._given_folder is None:
                stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            stack.callback(background.close)
            for line in self._lines.values():
                stack.callback(background.run, line.close())
            # The last callback runs first: leaves, then the proxy, then the lines.
            for node in self.nodes.values():
                stack.callback(node.close if isinstance(node, Daemon) else node.stop)
            self._lines = {}

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        work = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            await asyncio.to_thread(self.stop)
            raise

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    # --- its nodes -------------------------------------------------------------------------------

    def __getitem__(self, label: str) -> AnyNode:
        return self.nodes[label]

    def __iter__(self) -> Iterator[AnyNode]:
        """The nodes without the proxy, the owner first."""
        return iter([self.nodes[label] for label in self._labels])

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def proxy(self) -> AnyNode:
        """The node that the others reach one another through."""
        return self.nodes[PROXY]

    def add(self, label: str, *, roles: str = "all", listen: bool = False) -> AnyNode:
        """One more node on the channel; returns when it has its link to the proxy.

        Raises:
            BadInput: the label is taken.
        """
        if label in self.nodes:
            raise BadInput(what=f"node {label!r}", reason="there is one with this label already")
        self._in_background(asyncio.sleep(0))
        node = self.nodes[label] = self._make(label, listen=listen)
        self._labels.append(label)
        node.start()

        async def join() -> None:
            with places.talking_to(self.nodes[self._labels[0]].target()):
                await self._admit(node, roles)
                self.document = await client.achannel_export(self.channel)
            with places.talking_to(node.target()):
                await client.achannel_join(self.document)
            await self._linked(node)

        self._in_background(join())
        node.after = self._settle_if_linked
        return node

    # --- its links -------------------------------------------------------------------------------

    def cut(self, label: str, *, silently: bool = False) -> None:
        """Cut a node off from the others until :meth:`restore`.

        Its links break at once, and it can make no new ones. ``silently``: nothing passes any more and
        nobody is told, as when somebody pulls a plug further away.
        """
        line = self._line(label)
        self._do(lambda: line.cut(silently=silently))

    def restore(self, label: str) -> None:
        """Let a node's link work again. It finds its way back by itself; :meth:`wait_linked` waits."""
        self._do(self._line(label).restore)

    def slow(self, label: str, bytes_per_second: float | None = None, delay: float = 0.0) -> None:
        """Slow a node's link down, or with no more than a label: not any more.

        Args:
            bytes_per_second: at most this, each way.
            delay: seconds by which everything comes later, each way.
        """
        if (bytes_per_second is not None and bytes_per_second <= 0) or delay < 0:
            raise BadInput(
                what=f"slow({label!r}, {bytes_per_second}, {delay})",
                reason="a rate is above 0 bytes per second, a delay at least 0 seconds; to stop "
                "everything, use cut()",
            )
        line = self._line(label)
        self._do(lambda: line.slow(bytes_per_second, delay))

    def wait_linked(self, *labels: str) -> None:
        """Wait until these nodes (none named: all) have their links to the proxy. Raises
        DeadlineExceeded after 30 s."""
        for label in labels or self._labels:
            self._in_background(self._linked(self.nodes[label]))

    async def await_linked(self, *labels: str) -> None:
        """As :meth:`wait_linked`, in async code."""
        await asyncio.to_thread(self.wait_linked, *labels)

    def settle(self, *labels: str) -> None:
        """Wait until the proxy knows all that these nodes (none named: all) announce. Only stores of
        other programs and threads need this. Raises DeadlineExceeded after 30 s."""
        for label in labels or self._labels:
            self._in_background(self._settled(self.nodes[label], _LINK_SECONDS))

    async def asettle(self, *labels: str) -> None:
        """As :meth:`settle`, in async code."""
        await asyncio.to_thread(self.settle, *labels)

    def _settle_if_linked(self, label: str) -> None:
        line = self._lines.get(label)
        cut = line is not None and line.is_cut
        if self._background is not None and label != PROXY and not cut:
            # Slow, or stopped in the block: then others learn of it when they can.
            with contextlib.suppress(KacheryError):
                self._in_background(self._settled(self.nodes[label], _SETTLE_SECONDS))

    async def _settled(self, node: AnyNode, patience: float) -> None:
        told = partial(settled, self.channel, node.node_id, self.proxy.target())
        with places.talking_to(node.target()):
            if not await until(told, patience):
                raise DeadlineExceeded(
                    what=f"Telling the proxy what node {node.label!r} has", seconds=patience
                )

    def _line(self, label: str) -> Line:
        line = self._lines.get(label)
        if line is None:
            raise BadInput(
                what=f"the link of node {label!r}",
                reason="links that can be cut and slowed are those of "
                f"{', '.join(self._lines) or 'a running Network with lines=True'}",
            )
        return line

    def _do(self, function: Any) -> None:
        assert self._background is not None
        self._background.do(function)

    def __repr__(self) -> str:
        return f"<Network {self.channel!r}: {', '.join(self.nodes) or 'not started'}>"


def _labels(count: int) -> list[str]:
    """A, B, ..., Z, N27, N28, ..."""
    letters = string.ascii_uppercase
    return [letters[i] if i < len(letters) else f"N{i + 1}" for i in range(count)]


async def _shares(channel: str, node: str) -> bool:
    info = await client.anode_info()
    return any(link["node"] == node and channel in link["channels"] for link in info["links"])


async def _why() -> str:
    """What a node says of its links to bootstrap nodes."""
    info = await client.anode_info()
    rows = [f"{x['url']} is {x['state']}: {x['error'] or 'no error'}" for x in info["bootstraps"]]
    return "; ".join(rows) or "it has no bootstrap node"
