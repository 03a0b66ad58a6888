"""What a node under test can do, in whichever way it runs."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from kachery_p2p.local import places

_CALL_SECONDS = 120
_PACKAGE = Path(__file__).absolute().parent.parent


class AnyNode(abc.ABC):
    """A node with a home of its own, ``folder/label``: its storage, its state and its socket.

    ``async`` tests use :meth:`astart`, :meth:`astop`, :meth:`akill` and :meth:`arestart`, which do not
    keep their loop waiting.
    """

    run_program: ClassVar[Callable[..., subprocess.CompletedProcess[str]]] = staticmethod(
        subprocess.run
    )
    """What programs are run by, the command line among them, which starts daemons. Who has a way that
    costs less puts it here; it takes what :func:`subprocess.run` takes."""

    def __init__(self, folder: Path, label: str) -> None:
        self.label = label
        self.home = folder / label
        self.home.mkdir(parents=True, exist_ok=True)
        self.storage = self.home / "kachery-storage"
        self.node_id = ""
        """Known once it was started."""
        self.after: Callable[[str], None] | None = None
        """Called with the label at the end of each block of :meth:`at` that ends well."""
        self.env = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("KACHERY", "XDG_"))
            },
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "XDG_STATE_HOME": str(self.home / "state"),
        }
        """The environment of programs that shall use this node; for ``subprocess``."""
        if _PACKAGE.parent.name not in ("site-packages", "dist-packages"):
            self.env["PYTHONPATH"] = str(_PACKAGE.parent)

    @property
    def socket(self) -> Path:
        """Its local API."""
        return self.home / "run" / "kachery-p2p" / places.SOCKET_NAME

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """The address at which other nodes reach it; it must listen."""

    @abc.abstractmethod
    def start(self) -> Self:
        """Start it, or start it again on the same folders. Returns when it answers."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Stop it in order; returns when it is gone."""

    @abc.abstractmethod
    def kill(self) -> None:
        """End it at once, without a word to anybody; returns when it is gone."""

    def restart(self) -> None:
        """Stop it in order and start it again, with the same address if it listens."""
        self.stop()
        self.start()

    def at(self) -> contextlib.AbstractContextManager[None]:
        """In this block, the functions of kachery_p2p talk to this node: those that this thread or
        asyncio task calls, and tasks that are started in the block."""
        return self._at()

    @contextlib.contextmanager
    def _at(self) -> Iterator[None]:
        with places.talking_to(self.target()):
            yield
        if self.after is not None:
            self.after(self.label)

    def target(self) -> places.Target:
        """Where it answers, for :func:`kachery_p2p.local.places.talking_to`."""
        return places.Target(self.socket)

    async def astart(self) -> None:
        """As :meth:`start`."""
        await asyncio.to_thread(self.start)

    async def astop(self) -> None:
        """As :meth:`stop`."""
        await asyncio.to_thread(self.stop)

    async def akill(self) -> None:
        """As :meth:`kill`."""
        await asyncio.to_thread(self.kill)

    async def arestart(self) -> None:
        """As :meth:`restart`."""
        await asyncio.to_thread(self.restart)

    # --- other programs --------------------------------------------------------------------------

    def cli(
        self, *arguments: str, check: bool = True, stdin: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``kachery-p2p ARGUMENTS`` with its environment; ``env`` is added to that.

        Raises AssertionError if the command fails, unless ``check`` is False."""
        done = self._run(["-m", "kachery_p2p.cli", *arguments], stdin, env)
        if check and done.returncode != 0:
            raise AssertionError(f"{arguments}: {done.returncode}\n{done.stderr}")
        return done

    def python(self, code: str, *arguments: str, stdin: str | None = None) -> str:
        """Run Python code with its environment and return what it printed. Raises AssertionError if
        it fails."""
        done = self._run(["-c", code, *arguments], stdin, {})
        if done.returncode != 0:
            raise AssertionError(done.stderr)
        return done.stdout

    def _run(
        self, command: list[str], stdin: str | None, env: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        return self.run_program(
            [*self._prefix(command), sys.executable, *command],
            env={**self.env, **env},
            cwd=self.home,
            text=True,
            capture_output=True,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            timeout=_CALL_SECONDS,
        )

    def _prefix(self, command: list[str]) -> list[str]:
        """What a command is run by, if not directly."""
        return []

    def info(self) -> dict[str, Any]:
        """What ``kachery-p2p info`` says of it."""
        described: dict[str, Any] = json.loads(self.cli("info", "--json").stdout)
        return described

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label} {self.node_id[:8]}>"
