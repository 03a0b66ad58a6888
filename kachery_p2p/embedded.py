"""A node of one's own: a whole node inside an asyncio program, without a daemon.

>>> async def main():
...     async with kachery_p2p.Node(label="me") as node:
...         with node.as_current():
...             uri = await kachery_p2p.astore_text("some text")

The node answers on a Unix socket in a private folder, so that everything that talks to a daemon talks
to it too: in ``with node.as_current():`` all functions of this package do.

Invariants: ``start`` leaves the node running, or nothing behind; ``stop`` leaves no task, no socket and
no folder that nobody asked for. Importing this module imports no part of the node.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .client import nodes
from .local import places
from .protocol.errors import BadInput, DaemonNotRunning

if TYPE_CHECKING:
    from .node.config import Config
    from .node.node import Node as InnerNode

_LONGEST_FOLDER = 90
"""Characters that leave room for the socket's name within what the system allows (107)."""


def private_folder() -> Path:
    """A new folder that only this user may enter, short enough for the path of a socket in it."""
    folder = tempfile.mkdtemp(prefix="kp")
    if len(folder) > _LONGEST_FOLDER:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="kp", dir="/tmp")
    return Path(folder)


class Node:
    """A node that runs on the event loop that enters it; ``async with Node(...) as node:``.

    Inside ``with node.as_current():`` the functions of this package that begin with ``a`` talk to
    it, from this task and those it starts. (Their sync twins do so from other threads; on the node's
    own thread they would wait for ever, and say so instead.)
    """

    def __init__(
        self,
        *,
        label: str = "",
        storage_dir: str | os.PathLike[str] | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        listen: str | None = None,
        proxy: bool = False,
        public_url: str | None = None,
        api_port: int | None = None,
    ) -> None:
        """Nothing is opened before the node is entered.

        Args:
            label: what members of its channels see.
            storage_dir: where files lie. None: in a folder that is deleted at the end.
            state_dir: its key (who it is), channels, feeds and tasks. None: a new node each time,
                forgotten at the end.
            listen: ``HOST:PORT`` at which other nodes may connect (port 0: any that is free).
            proxy: relay and index for the channels that make this node their proxy; it must listen.
            public_url: the ``ws://`` or ``wss://`` URL that reaches it, if that is not ``listen``.
            api_port: the local API on this TCP port of 127.0.0.1 too.

        Raises:
            BadInput
        """
        if proxy and listen is None:
            raise BadInput(
                what="proxy=True", reason="others must reach it; give listen='HOST:PORT' too"
            )
        self.label = label
        self._given = {
            "storage_dir": None if storage_dir is None else Path(storage_dir).absolute(),
            "state_dir": None if state_dir is None else Path(state_dir).absolute(),
        }
        self._options: dict[str, Any] = {
            "listen": listen,
            "proxy": proxy,
            "public_url": public_url,
            "api_port": api_port,
        }
        self._inner: InnerNode | None = None
        self._target: places.Target | None = None
        self._folder = Path()

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Start it; returns when it answers. ``async with`` does this.

        Raises:
            BadInput, StorageDamaged, StorageFull, DaemonAlreadyRunning: its folders are in use
        """
        if self._inner is not None:
            raise BadInput(what="this Node", reason="it runs already")
        folder = private_folder()
        try:
            inner = self._make(self._config(folder))
            await inner.start()
        except BaseException:
            _delete(folder)
            raise
        self._folder = folder
        self._inner = inner
        self._target = places.Target(inner.config.socket_path, threading.get_ident())
        return self

    def _config(self, folder: Path) -> Config:
        from .node.config import Config

        return Config(
            state_dir=self._given["state_dir"] or folder / "state",
            storage_dir=self._given["storage_dir"] or folder / "storage",
            runtime_dir=folder,
            label=self.label,
            # What is deleted at the end need not survive a power cut.
            durable=self._given["state_dir"] is not None or self._given["storage_dir"] is not None,
            **self._options,
        )

    def _make(self, config: Config) -> InnerNode:
        from .node.node import Node as InnerNode

        return InnerNode(config)

    async def stop(self) -> None:
        """Stop it and delete what was private to it; bounded in time. Nothing if it is stopped."""
        inner, self._inner, self._target = self._inner, None, None
        if inner is None:
            return
        try:
            await inner.stop()
        finally:
            _delete(self._folder)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def wait_stopping(self) -> None:
        """Wait until somebody orders the node to stop (``kc.astop_node()``, say)."""
        await self._running().stopping.wait()

    def _running(self) -> InnerNode:
        if self._inner is None:
            raise DaemonNotRunning(
                reason="this Node does not run (enter it with 'async with' or 'await node.start()')"
            )
        return self._inner

    # --- what it is --------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Between ``start`` and ``stop``."""
        return self._inner is not None

    @property
    def node_id(self) -> str:
        """64 hex digits. Raises DaemonNotRunning before it was started and after it was stopped."""
        return self._running().context.node_id

    @property
    def url(self) -> str | None:
        """What other nodes dial to reach it, or None: it does not listen, or only the user knows
        (``0.0.0.0`` without ``public_url``). Raises as :attr:`node_id`."""
        urls = self._running().context.urls
        return urls[0] if urls else None

    @property
    def storage_dir(self) -> Path:
        """Where its files lie. Raises as :attr:`node_id`."""
        return self._running().config.storage_dir

    @property
    def socket(self) -> Path:
        """Its local API. Raises as :attr:`node_id`."""
        return self._running().config.socket_path

    def as_current(self) -> contextlib.AbstractContextManager[None]:
        """In this block the functions of this package talk to this node, whatever the environment
        says; in this task or thread, and in the tasks that it starts there. Raises as
        :attr:`node_id`."""
        self._running()
        assert self._target is not None
        return places.talking_to(self._target)

    def __repr__(self) -> str:
        state = self.node_id[:8] if self.running else "not running"
        return f"<kachery_p2p.Node {self.label!r} {state}>"

    # --- its channels --------------------------------------------------------------------------------

    async def info(self) -> dict[str, Any]:
        """What :func:`kachery_p2p.anode_info` says of it."""
        with self.as_current():
            return await nodes.anode_info()

    async def create_channel(
        self, name: str, bootstraps: list[str] | None = None, **options: Any
    ) -> str:
        """Make a channel that this node owns; its document, as text for others to join.

        Args:
            bootstraps: as for :func:`kachery_p2p.achannel_create`. None: this node, which must be a
                proxy.
            options: as there.

        Raises:
            BadInput
        """
        if bootstraps is None:
            url = self.url
            if url is None or not self._options["proxy"]:
                raise BadInput(
                    what=f"channel {name!r}",
                    reason="name its bootstraps, or make this node one (listen=, proxy=True)",
                )
            bootstraps = [f"{url}#{self.node_id}"]
        with self.as_current():
            made = await nodes.achannel_create(name, bootstraps, **options)
            return await nodes.achannel_export(made["id"])

    async def join(self, document: str, *, roles: str = "all") -> dict[str, Any]:
        """Join a channel. Raises as :func:`kachery_p2p.achannel_join`."""
        with self.as_current():
            return await nodes.achannel_join(document, roles=roles)

    async def add_node(
        self, channel: str, node: str, *, label: str = "", roles: str = "all"
    ) -> dict[str, Any]:
        """Make a node a member of a channel that this one owns. Raises as
        :func:`kachery_p2p.achannel_add_node`."""
        with self.as_current():
            return await nodes.achannel_add_node(channel, node, label=label, roles=roles)


def _delete(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
