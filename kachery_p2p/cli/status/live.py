"""The live dashboard: a screen of its own, drawn anew every second until ``q`` or Ctrl-C.

When the node goes away the last picture stays, with the reason above it; when it is back it goes on.
However it ends, the terminal is left as it was found.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any, Final

from rich.console import Console
from rich.live import Live

from kachery_p2p.cli.output import clean
from kachery_p2p.client.nodes import anode_status
from kachery_p2p.protocol.errors import KacheryError

from .view import View

_REFRESH_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 5.0
"""A node that takes longer to say how it is is said not to answer."""
_KEYS_READ: Final = 1_024


def watch(*, ascii: bool) -> None:
    """Show it until somebody quits.

    Raises:
        KacheryError: there is nothing to show, since the first look failed.
    """
    ended_by = asyncio.run(_watch(ascii=ascii))
    if ended_by is not None:
        os.kill(os.getpid(), ended_by)


class _Dashboard:
    """What is known, and the screen that shows it."""

    def __init__(self, live: Live, status: dict[str, Any], *, ascii: bool) -> None:
        self._live = live
        self._status = status
        self._before: dict[str, Any] | None = None
        self._problem = ""
        self._ascii = ascii

    def tell(self, status: dict[str, Any]) -> None:
        same = status["node"]["started_at"] == self._status["node"]["started_at"]
        self._before = self._status if same else None
        self._status = status
        self._problem = ""
        self.draw()

    def complain(self, problem: str) -> None:
        self._before = None
        self._problem = clean(problem)
        self.draw()

    def draw(self) -> None:
        view = View(
            self._status,
            self._before,
            now=time.time(),
            height=self._live.console.height,
            problem=self._problem,
            footer=f"q quits   {time.strftime('%T')}",
            ascii=self._ascii,
        )
        self._live.update(view, refresh=True)


async def _watch(*, ascii: bool) -> int | None:
    """Returns the signal that ended it, if one did that was not Ctrl-C."""
    status = await anode_status()
    loop = asyncio.get_running_loop()
    quitting = loop.create_future()

    def quit(number: int | None) -> None:
        if not quitting.done():
            quitting.set_result(number)

    console = Console(highlight=False)
    live = Live(
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, quit, None if number == signal.SIGINT else number)
            stack.callback(loop.remove_signal_handler, number)
        stack.enter_context(_keys(lambda: quit(None)))
        stack.enter_context(live)
        dashboard = _Dashboard(live, status, ascii=ascii)
        dashboard.draw()
        loop.add_signal_handler(signal.SIGWINCH, dashboard.draw)
        stack.callback(loop.remove_signal_handler, signal.SIGWINCH)
        looking = asyncio.create_task(_look_for_ever(dashboard))
        await asyncio.wait([quitting, looking], return_when=asyncio.FIRST_COMPLETED)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    if not quitting.done():
        looking.result()  # a bug: let it be seen
    ended_by: int | None = quitting.result()
    return ended_by


async def _look_for_ever(dashboard: _Dashboard) -> None:
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                status = await anode_status()
        except KacheryError as error:
            dashboard.complain(f"{error} This goes on when the node is back.")
        except TimeoutError:
            dashboard.complain(f"The node has not answered for {_ANSWER_SECONDS:g} s; see its log.")
        else:
            dashboard.tell(status)


@contextlib.contextmanager
def _keys(quit: Callable[[], None]) -> Iterator[None]:
    """Hear single keys, unseen; the terminal is afterwards as it was."""
    loop = asyncio.get_running_loop()
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def read() -> None:
        try:
            keys = os.read(fd, _KEYS_READ)
        except OSError:
            keys = b""
        if not keys or b"q" in keys or b"Q" in keys:
            quit()

    try:
        tty.setcbreak(fd)
        changed = termios.tcgetattr(fd)
        # Ctrl-Z would leave whoever pressed it on this screen, without a cursor.
        changed[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(fd, termios.TCSADRAIN, changed)
        loop.add_reader(fd, read)
        yield
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
