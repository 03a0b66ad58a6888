"""Nodes inside this process, on a loop of their own: quick to start, and they share its fate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kachery_p2p.embedded import Node
from kachery_p2p.local import places
from kachery_p2p.protocol.errors import BadInput

from .background import Background
from .nodes import AnyNode

if TYPE_CHECKING:
    from kachery_p2p.node.config import Config
    from kachery_p2p.node.links.dialling import Rules
    from kachery_p2p.node.links.transport import Transport
    from kachery_p2p.node.node import Node as InnerNode


class _DialerBy:
    """All that it dials goes through one HTTP proxy."""

    def __init__(self, http_proxy: str) -> None:
        self._http_proxy = http_proxy

    async def dial(self, url: str, *, knock: str = "") -> Transport:
        from kachery_p2p.node.links import transport

        return await transport.dial(url, http_proxy=self._http_proxy, knock=knock)

    async def dial_member(self, url: str, rules: Rules, *, knock: str = "") -> Transport:
        from kachery_p2p.node.links.dialling import dial_member

        return await dial_member(url, rules, http_proxy=self._http_proxy, knock=knock)


class _InHome(Node):
    """A node whose socket is where a daemon with this home would have it."""

    def __init__(self, home: Path, http_proxy: str | None, **options: Any) -> None:
        super().__init__(
            storage_dir=home / "kachery-storage",
            state_dir=home / "state" / "kachery-p2p",
            **options,
        )
        self._runtime = home / "run" / "kachery-p2p"
        self._http_proxy = http_proxy

    def _config(self, folder: Path) -> Config:
        return replace(super()._config(folder), runtime_dir=self._runtime, durable=False)

    def _make(self, config: Config) -> InnerNode:
        from kachery_p2p.node.node import Node as InnerNode

        return InnerNode(
            config, dialer=None if self._http_proxy is None else _DialerBy(self._http_proxy)
        )


class InsideNode(AnyNode):
    """A node on the loop of ``background``."""

    def __init__(
        self,
        background: Background,
        folder: Path,
        label: str,
        *,
        listen: str | None = None,
        proxy: bool = False,
        http_proxy: str | None = None,
    ) -> None:
        super().__init__(folder, label)
        self._background = background
        self._node = _InHome(self.home, http_proxy, label=label, listen=listen, proxy=proxy)
        self._where: places.Target | None = None
        self._listen = listen

    @property
    def url(self) -> str:
        """The address at which other nodes reach it; it must listen."""
        return f"ws://{self._listen}"

    def start(self) -> Self:
        """Start it, or start it again on the same folders. Returns when it answers."""
        self._background.run(self._node.start())
        self.node_id = self._node.node_id
        self._where = places.Target(self.socket, self._background.thread)
        return self

    def target(self) -> places.Target:
        return self._where or super().target()

    def stop(self) -> None:
        """Stop it in order; returns when it is gone. Nothing if it is stopped."""
        self._background.run(self._node.stop())

    def kill(self) -> None:
        """Raises BadInput: what is in this process cannot end without it."""
        raise BadInput(
            what=f"kill() of node {self.label!r}",
            reason="it runs in this process; use Network(processes=True), or cut() or stop()",
        )
