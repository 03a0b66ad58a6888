"""A laboratory of real nodes in one process: sockets on loopback, storage in temporary folders."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kachery_p2p.node.config import Config
from kachery_p2p.node.context import Context
from kachery_p2p.node.node import Node
from kachery_p2p.protocol.errors import KacheryError
from tests.patience import patience


class _Anybody:
    """A caller of the local API who may do everything."""

    read_only = False
    name = "somebody"

    def require_write(self) -> None:
        pass


class Live:
    """Stands where the local API's connection stands."""

    def __init__(self) -> None:
        self.caller = _Anybody()
        self.descriptor: int | None = None
        self.sent = bytearray()
        self.told: list[dict[str, Any]] = []

    def progress(self, info: dict[str, Any]) -> None:
        self.told.append(info)

    async def send(self, data: bytes) -> None:
        self.sent += data

    async def send_all(self, data: bytes) -> None:
        self.progress({"size": len(data)})
        await self.send(data)

    async def send_piece(
        self, read: Callable[[], Awaitable[bytes | None]], *, last: bool = False
    ) -> bool:
        data = await read()
        if data is None:
            return False
        await self.send(data)
        return True


async def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait for something that happens by itself; returns the condition's value."""
    begun = time.monotonic()
    while not (value := condition()):
        assert time.monotonic() < begun + patience(), f"never happened: {what or condition}"
        await asyncio.sleep(0.005)
    return value


@dataclass
class Lab:
    """Nodes by name. The proxy is ``P``; channel ids by channel name."""

    root: Path
    nodes: dict[str, Node] = field(default_factory=dict)
    configs: dict[str, Config] = field(default_factory=dict)
    channels: dict[str, bytes] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def id(self, name: str) -> str:
        return self.nodes[name].context.node_id

    async def start(
        self,
        name: str,
        *,
        adjust: Callable[[Context], Context] = lambda context: context,
        **options: Any,
    ) -> Node:
        folder = self.root / name
        config = Config(
            state_dir=folder / "state",
            storage_dir=folder / "storage",
            runtime_dir=folder / "run",
            label=name,
            durable=False,
            **options,
        )
        node = Node(config, adjust=adjust)
        await node.start()
        self.nodes[name], self.configs[name] = node, config
        return node

    async def stop(self, name: str) -> None:
        await self.nodes.pop(name).stop()

    async def restart(self, name: str, **changes: Any) -> Node:
        """Stop and start again, on the same port if it listens."""
        config = self.configs[name]
        if name in self.nodes:
            if config.listen is not None:
                changes.setdefault("listen", self.nodes[name].listening)
            await self.stop(name)
        options = {
            key: getattr(config, key) for key in ("listen", "proxy", "tls_cert", "tls_key")
        } | changes
        return await self.start(name, **options)

    async def call(self, name: str, method: str, /, **params: Any) -> Any:
        return await self.live(name, Live(), method, **params)

    async def live(self, name: str, live: Live, method: str, /, **params: Any) -> Any:
        calls = self.nodes[name].api.calls
        return await calls.run(method, params, live)  # type: ignore[arg-type]

    async def channel(
        self,
        name: str,
        members: dict[str, str],
        *,
        owner: str = "A",
        proxy: str = "P",
        wanted: dict[str, str] | None = None,
        wait: bool = True,
        **options: Any,
    ) -> bytes:
        """Make a channel of ``members`` {node: granted roles}, and have them all join it."""
        scheme = "wss" if self.configs[proxy].tls_cert else "ws"
        url = f"{scheme}://{self[proxy].listening}#{self.id(proxy)}"
        wanted = wanted or {}
        made = await self.call(
            owner,
            "channel.create",
            name=name,
            bootstraps=[url],
            roles=members.get(owner, "all"),
            **options,
        )
        for member, roles in members.items():
            if member == owner:
                continue
            # The proxy is a member already, with the role of one.
            method = "channel.set-roles" if member == proxy else "channel.add-node"
            roles = f"{roles},proxy" if member == proxy else roles
            await self.call(owner, method, channel=name, node=self.id(member), label=member,
                            roles=roles)  # fmt: skip
        text = await self.export(owner, name)
        if owner in wanted:
            await self.call(owner, "channel.join", document=text, roles=wanted[owner])
        for member in {proxy: "none"} | members:
            if member != owner:
                roles = wanted.get(member, "none" if member == proxy else "all")
                await self.call(member, "channel.join", document=text, roles=roles)
        self.channels[name] = bytes.fromhex(made["id"])
        if wait:
            for member in members:
                if member != proxy:
                    await self.linked(member, name, proxy)
        return self.channels[name]

    async def export(self, owner: str, channel: str) -> str:
        return str((await self.call(owner, "channel.export", channel=channel))["text"])

    async def linked(self, name: str, channel: str, proxy: str = "P") -> None:
        """Wait until a node and a proxy share a channel, seen from both."""
        key = self.channels[channel]
        here, there = self[name].network, self[proxy].network
        await until(
            lambda: here.links_to(self.id(proxy), key) and there.links_to(self.id(name), key),
            f"{name} linked with {proxy} on {channel}",
        )

    async def announced(self, name: str, channel: str = "lab", proxy: str = "P") -> None:
        """Wait until the proxy knows all that a node announces."""
        key, me = self.channels[channel], self[name].context.key.public
        mine, index = self[name].announcer, self[proxy].availability.index

        def known() -> bool:
            epoch, head, pending = mine.state(key)
            return not pending and index.digest(key).get(me, (epoch, 0)) == (epoch, head)

        await mine.scanned.wait()
        await until(known, f"{name}'s announcements on {channel} known to {proxy}")

    async def store(
        self, name: str, data: bytes, *, channel: str | None = None, tell: str | None = "lab"
    ) -> tuple[str, str | None]:
        """Store bytes on a node; (sha1, manifest). Waits until ``tell``'s proxy knows."""
        stored = await self.call(name, "store", data=data, channel=channel)
        if tell is not None:
            await self.announced(name, tell)
        return stored["sha1"], stored["manifest"]

    async def load(self, name: str, sha1: str, manifest: str | None = None, **more: Any) -> Any:
        return await self.call(name, "load", sha1=sha1, manifest=manifest, **more)

    def bytes_of(self, name: str, sha1: str) -> bytes:
        """What lies in a node's storage, and nothing if nothing does."""
        store = self[name].store
        blob = store.find(sha1)
        return b"" if blob is None else store.read(blob, 0, blob.size)

    async def error(self, name: str, sha1: str, manifest: str | None = None, **more: Any) -> Any:
        """The error with which a load ends; it must."""
        try:
            result = await asyncio.wait_for(self.load(name, sha1, manifest, **more), patience())
        except KacheryError as error:
            return error
        raise AssertionError(f"it was loaded: {result}")

    async def stop_all(self) -> None:
        # Leaves first, so that no one spends its last seconds redialling a proxy that has gone.
        for name in sorted(self.nodes, key=lambda name: name == "P"):
            await self.nodes[name].stop()


@contextlib.asynccontextmanager
async def laboratory(
    *leaves: str, listening: tuple[str, ...] = (), channel: bool = True, **options: Any
) -> AsyncIterator[Lab]:
    """A proxy ``P`` and leaves, by default A and B, on the channel ``lab`` with all roles."""
    root = Path(tempfile.mkdtemp(prefix="kp", dir="/tmp"))
    lab = Lab(root)
    names = leaves or ("A", "B")
    try:
        await lab.start("P", listen="127.0.0.1:0", proxy=True, **options)
        for name in names:
            await lab.start(name, listen="127.0.0.1:0" if name in listening else None)
        if channel:
            await lab.channel("lab", dict.fromkeys(names, "all"), owner=names[0])
        yield lab
    finally:
        await lab.stop_all()
        shutil.rmtree(root)


__all__ = ["Lab", "Live", "laboratory", "patience", "until"]
