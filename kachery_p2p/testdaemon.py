"""``TestDaemon`` as the tests of kachery-p2p 0.8's users know it. New tests: :mod:`.testing`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .local import places
from .protocol.errors import BadInput, DaemonNotRunning, KacheryError

if TYPE_CHECKING:
    from .testing.daemons import Daemon

_BOOTSTRAP_SECONDS = 10.0
_SETTLE_SECONDS = 2.0
_HOSTS = ("hostName", "hostname", "host")
_CONFIG_VARIABLE = "KACHERY_P2P_CONFIG_DIR"
"""Nothing here reads it; the programs of older users may."""

_running: list[TestDaemon] = []
"""Those of this process. Where others found one another by multicast, these look here."""


class TestDaemon:
    """A daemon for tests, on this machine only: ``start()``, ``with testEnv(): ...``, ``stop()``.

    The channels are open test channels: daemons that are given the same name share one. Whoever knows
    the name has every right on it, so nothing secret belongs there.
    """

    __test__ = False

    def __init__(
        self,
        *,
        channels: Sequence[str],
        api_port: int,
        storage_dir: str | os.PathLike[str],
        label: str | None = None,
        port: int | None = None,
        websocket_port: int | None = None,
        bootstraps: Sequence[Any] | None = None,
        isbootstrap: bool = False,
        nomulticast: bool = False,
    ) -> None:
        """Nothing is started yet.

        Args:
            channels: names of test channels.
            api_port: of the local API, on 127.0.0.1.
            storage_dir: where files lie; who the node is lies there too.
            label: what other nodes see.
            port: at which other nodes reach it, on 127.0.0.1.
            websocket_port: the same, if there is no ``port``. With both, it listens at ``port``, and
                daemons of this process may name either.
            bootstraps: whom to connect to: ``"localhost:42000"``, dicts or objects with ``hostName``
                (or ``hostname``, ``host``) and ``port``, or other TestDaemons.
            isbootstrap: relay and index for the others.
            nomulticast: do not look for other daemons but ``bootstraps``. (Without bootstraps and with
                this False, the daemons of this process find one another.)

        Raises:
            BadInput: a bootstrap has another form, or is not on this machine.
        """
        self.label = label if label is not None else f"test-{api_port}"
        self.node_id = ""
        """Known once it was started."""
        self._channels = list(channels)
        self._api_port = api_port
        self._storage_dir = Path(storage_dir).absolute()
        self._bootstraps = [_address(each) for each in bootstraps or ()]
        self._finds = bootstraps is None and not nomulticast
        self._is_proxy = isbootstrap or self._finds
        self._port = port or websocket_port
        self._also_called = websocket_port
        self._folder: Path | None = None
        self._daemon: Daemon | None = None

    @property
    def url(self) -> str | None:
        """Where other nodes reach it, or None."""
        return None if self._port is None else f"ws://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it; returns when it is on its channels and linked with its bootstraps, or has tried
        for 10 s. A second start does nothing.

        Raises what 'daemon start' says; Unreachable: nobody answers where a bootstrap should be.
        """
        from .embedded import private_folder
        from .testing.daemons import Daemon, free_port

        if self._daemon is not None:
            return
        if self._port is None and self._is_proxy:
            self._port = free_port()
        self._folder = private_folder()
        self._daemon = Daemon(
            self._folder,
            "daemon",
            listen=None if self._port is None else f"127.0.0.1:{self._port}",
            proxy=self._is_proxy,
            storage_dir=self._storage_dir,
            state_dir=self._storage_dir / "node-state",
            api_port=self._api_port,
        )
        self._daemon.options["label"] = self.label
        try:
            self._daemon.start()
            self.node_id = self._daemon.node_id
            self._join()
        except BaseException:
            self._discard()
            raise
        _running.append(self)

    def _join(self) -> None:
        from kachery_p2p.client.session import portal

        assert self._daemon is not None
        with places.talking_to(self._daemon.target()):
            portal.run(self._ajoin, name="TestDaemon.start")

    async def _ajoin(self) -> None:
        from .client import nodes
        from .testing.channels import identify, loopback_url, open_channel
        from .testing.gossip import until

        ports = {each._also_called: each._port for each in _running}
        urls = [loopback_url(host, ports.get(port) or port) for host, port in self._bootstraps]
        given = [(url, await identify(url, _BOOTSTRAP_SECONDS)) for url in urls]
        for channel in await nodes.aget_channels():  # of an earlier life, with other bootstraps
            await nodes.achannel_leave(channel["id"], force=True)
        for name in self._channels:
            others = [*given, *(self._found(name) if self._finds else [])]
            await nodes.achannel_join(open_channel(name, others or self._itself()))
            await until(_connected, _BOOTSTRAP_SECONDS)
            if others and self._itself():
                await self._become_proxy(name, {url for url, _ in others})

    def _itself(self) -> list[tuple[str, str]]:
        return [(self.url, self.node_id)] if self._is_proxy and self.url is not None else []

    def _found(self, channel: str) -> list[tuple[str, str]]:
        return [pair for each in _running if each._offers(channel) for pair in each._itself()]

    async def _become_proxy(self, channel: str, others: set[str]) -> None:
        """Tell the channel's nodes that we are a proxy too, in the next version of its document."""
        from .client import nodes
        from .testing.channels import with_proxy
        from .testing.gossip import until

        neighbours = [each for each in _running if each.url in others and each._offers(channel)]

        async def agreed() -> bool:
            ours = (await nodes.achannel_show(channel))["version"]
            return all([await each._version(channel) == ours for each in neighbours])

        await until(agreed, _SETTLE_SECONDS)
        text = await nodes.achannel_export(channel)
        for url, node in self._itself():
            text = with_proxy(text, url, node)
        await nodes.achannel_join(text)
        await until(agreed, _SETTLE_SECONDS)

    async def _version(self, channel: str) -> int:
        from .client import nodes

        assert self._daemon is not None
        with places.talking_to(self._daemon.target()):
            version: int = (await nodes.achannel_show(channel))["version"]
            return version

    def _offers(self, channel: str) -> bool:
        return self._is_proxy and channel in self._channels

    def stop(self) -> None:
        """Stop it. Nothing if it does not run."""
        if self._daemon is None:
            return
        try:
            self._daemon.stop()
        finally:
            self._discard()

    def _discard(self) -> None:
        import shutil

        if self in _running:
            _running.remove(self)
        if self._daemon is not None:
            self._daemon.close()
            self._daemon = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def testEnv(self) -> contextlib.AbstractContextManager[Self]:
        """In this block, the functions of this package, in all threads, and the programs that are
        started talk to this daemon: KACHERY_P2P_API_PORT, KACHERY_STORAGE_DIR and the like say so.
        Afterwards they are what they were, and what was stored has been announced."""
        return self._test_env()

    @contextlib.contextmanager
    def _test_env(self) -> Iterator[Self]:
        daemon = self._daemon
        if daemon is None:
            raise DaemonNotRunning(reason="this TestDaemon was not started; call its start()")
        values = {
            places.PORT_VARIABLE: str(self._api_port),
            places.STORAGE_VARIABLE: str(self._storage_dir),
            _CONFIG_VARIABLE: str(self._storage_dir),
            "XDG_RUNTIME_DIR": daemon.env["XDG_RUNTIME_DIR"],
        }
        offline = (places.OFFLINE_VARIABLE, places.OLD_OFFLINE_VARIABLE)
        before = {name: os.environ.get(name) for name in (*values, *offline)}
        try:
            for name in offline:
                os.environ.pop(name, None)
            os.environ.update(values)
            yield self
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        if self._daemon is daemon:
            self._settle(daemon)

    def _settle(self, daemon: Daemon) -> None:
        from kachery_p2p.client.session import portal

        with places.talking_to(daemon.target()), contextlib.suppress(KacheryError):
            portal.run(self._asettle, name="TestDaemon.testEnv")

    async def _asettle(self) -> None:
        from functools import partial

        from .testing.gossip import settled, until

        for name in self._channels:
            for other in _running:
                if other is not self and other._offers(name) and other._daemon is not None:
                    proxy = other._daemon.target()
                    await until(partial(settled, name, self.node_id, proxy), _SETTLE_SECONDS)

    def __repr__(self) -> str:
        state = self.node_id[:8] if self._daemon is not None else "not running"
        return f"<TestDaemon {self.label!r} {state}>"


async def _connected() -> bool:
    """Whether every link that the node wants is there."""
    from .client import nodes

    return all(each["state"] == "connected" for each in (await nodes.anode_info())["bootstraps"])


def _address(bootstrap: Any) -> tuple[str, int]:
    """(host, port) of a bootstrap as people give it. Raises BadInput."""
    if isinstance(bootstrap, TestDaemon):
        host, port = "127.0.0.1", bootstrap._port
    elif isinstance(bootstrap, str):
        host, _, text = bootstrap.removeprefix("ws://").rpartition(":")
        port = int(text) if text.isdigit() else None
    else:
        host = next(filter(None, (_field(bootstrap, name) for name in _HOSTS)), "localhost")
        port = _field(bootstrap, "port")
    if not host or not isinstance(port, int):
        raise BadInput(
            what=f"bootstrap {bootstrap!r}", reason="it must be HOST:PORT, such as localhost:42000"
        )
    from .testing.channels import loopback_url

    loopback_url(host, port)
    return host, port


def _field(bootstrap: Any, name: str) -> Any:
    return bootstrap.get(name) if isinstance(bootstrap, Mapping) else getattr(bootstrap, name, None)
