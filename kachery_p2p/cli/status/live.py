"""The live dashboard: a screen of its own, drawn anew every second until ``q`` or Ctrl-C.

It shows a part of each section where not all fits; the keys that move in a pager show the rest.

When the node goes away the last picture stays, with the reason above it; when it is back it goes on.
However it ends, the terminal is left as it was found.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
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
_KEY: Final = re.compile(rb"\x1b(?:\[[0-9;]*|O)[A-Za-z~]|.", re.DOTALL)
_LINES: Final = {b"j": 1, b"k": -1, b"\x1b[B": 1, b"\x1b[A": -1, b"\x1bOB": 1, b"\x1bOA": -1}
_PAGES: Final = {b" ": 1, b"b": -1, b"\x1b[6~": 1, b"\x1b[5~": -1}
_TO_TOP: Final = (b"g", b"\x1b[H", b"\x1b[1~", b"\x1bOH")
_TO_END: Final = (b"G", b"\x1b[F", b"\x1b[4~", b"\x1bOF")


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
        self._top: int | None = None
        self._view: View | None = None

    def pressed(self, key: bytes) -> None:
        """A key that may move what is shown. The first one shows all from the top, and moving up from
        there shows a part of each section again."""
        if self._view is None:
            return
        room, last = self._view.room, self._view.last_top
        if key in _TO_TOP:
            self._top = None
        elif key in _TO_END:
            self._top = last if last else None
        else:
            by = _LINES.get(key, 0) or room * _PAGES.get(key, 0)
            if by > 0 and last:
                self._top = 0 if self._top is None else min(last, self._top + by)
            elif by < 0 and self._top is not None:
                self._top = max(0, min(self._top, last) + by) if self._top else None
        self.draw()

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
        keys = (
            "q quits, arrows scroll"
            if self._view is not None and self._view.last_top
            else "q quits"
        )
        view = self._view = View(
            self._status,
            self._before,
            now=time.time(),
            height=self._live.console.height,
            problem=self._problem,
            footer=f"{keys}   {time.strftime('%T')}",
            top=self._top,
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
        dashboard = _Dashboard(live, status, ascii=ascii)
        stack.enter_context(_keys(lambda: quit(None), dashboard.pressed))
        stack.enter_context(live)
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
def _keys(quit: Callable[[], None], pressed: Callable[[bytes], None]) -> Iterator[None]:
    """Hear single keys, unseen; the terminal is afterwards as it was. ``q`` and the terminal's end
    quit; each other key is one call of ``pressed``."""
    loop = asyncio.get_running_loop()
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def read() -> None:
        try:
            keys = os.read(fd, _KEYS_READ)
        except OSError:
            keys = b""
        for key in _KEY.findall(keys):
            if key in b"qQ":
                quit()
            else:
                pressed(key)
        if not keys:
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
