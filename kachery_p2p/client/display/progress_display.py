"""The one place on the screen where everything that is loaded and stored right now is shown.

On a terminal it is at the bottom, drawn by rich; what is printed or logged meanwhile goes above it.
In a notebook it is one output of the cell, updated in place; its last state stays there.

Invariants: there is one display per process. Drawing is done by a thread of its own, which also
imports rich, so an event loop waits for neither. When the last transfer has been removed, the
terminal and ``sys.stdout``, ``sys.stderr`` and the logging handlers are as they were; also when the
process ends, and in a forked child.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

from .progress_bars import Bars, html
from .progress_rows import Past, Row, Shown, plain, rows

if TYPE_CHECKING:
    from rich.console import RenderableType

_DRAW_SECONDS: Final = 0.1
_DRAW_NOTEBOOK_SECONDS: Final = 0.25

_log = logging.getLogger("kachery_p2p.progress")


class _Screen(Protocol):
    pause: float
    """Seconds between two drawings."""

    def open(self) -> None: ...
    def draw(self) -> None: ...
    def close(self) -> None: ...


class Display:
    """See the module; :data:`display` is the only one."""

    def __init__(self) -> None:
        self.shown: tuple[Shown, ...] = ()
        """Replaced, never changed, so that it may be read without the lock."""
        self.past = Past()
        self._lock = threading.Lock()
        self._screen: _Screen | None = None
        self._closed: threading.Event | None = None
        """Set when the display that is there now is to go; None: there is none."""

    def add(self, transfer: Shown) -> None:
        """Show a transfer that still goes on, if there is somebody to show it to."""
        with self._lock:
            if transfer.over or transfer in self.shown:
                return
            if self._closed is None:
                kind = _kind_of_screen()
                if kind is None:
                    return
                self._closed = threading.Event()
                # The context says to a notebook which of its cells this belongs to.
                run = contextvars.copy_context().run
                threading.Thread(
                    target=run,
                    args=(self._draw, kind, self._closed),
                    name="kachery-p2p-progress",
                    daemon=True,
                ).start()
            self.shown = (*self.shown, transfer)

    def remove(self, transfer: Shown) -> None:
        """Show it no longer. Harmless if it was not shown."""
        with self._lock:
            if transfer not in self.shown:
                return
            if len(self.shown) == 1:
                if self.past.files:  # then what is drawn last counts it too
                    self.shown, self.past = (), self.past.plus(transfer)
                self._close()
                return
            self.shown = tuple(each for each in self.shown if each is not transfer)
            self.past = self.past.plus(transfer)

    def stop(self) -> None:
        """Leave the screen, whatever still goes on."""
        with self._lock:
            self._close()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Off the screen while something is written there without passing ``sys.stdout``."""
        with self._lock:
            screen = self._screen
            if screen is None or sys.stdout is None or not sys.stdout.isatty():
                yield
                return
            screen.close()
            try:
                yield
            finally:
                screen.open()

    def forget(self) -> None:
        """In a forked child: the thread is gone, and the terminal is the parent's."""
        screen, self._screen = self._screen, None
        self._lock = threading.Lock()
        self._closed, self.shown, self.past = None, (), Past()
        if isinstance(screen, _Terminal):
            screen.restore_streams()

    def rows(self) -> list[Row]:
        """What is to be drawn now."""
        return list(rows(self.shown, self.past))

    def _close(self) -> None:
        if self._closed is not None:
            self._closed.set()
        screen, self._screen, self._closed = self._screen, None, None
        try:
            if screen is not None:
                screen.close()
        except Exception:  # a terminal that has gone away must not break what was loaded
            _log.debug("the progress display could not be closed", exc_info=True)
        finally:
            self.shown, self.past = (), Past()

    def _draw(self, kind: type[_Terminal] | type[_Notebook], closed: threading.Event) -> None:
        try:
            screen: _Screen = kind(self)
            with self._lock:
                if closed.is_set():
                    return
                self._screen = screen
                screen.open()
            while not closed.wait(screen.pause):
                with self._lock:
                    if not closed.is_set():
                        screen.draw()
        except Exception:  # nor must one that cannot be drawn on
            _log.debug("the progress display cannot be drawn", exc_info=True)


class _Terminal:
    """The bottom lines of the terminal that is standard error."""

    pause = _DRAW_SECONDS

    def __init__(self, of: Display) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._of = of
        self._bars = Bars()
        self._make = Live
        self._live: Live | None = None
        self._streams: tuple[Any, Any] = (None, None)
        self._handlers: list[tuple[logging.StreamHandler[Any], Any]] = []

    def open(self) -> None:
        self._streams = (sys.stdout, sys.stderr)
        self._live = self._make(
            console=self._console,
            auto_refresh=False,
            transient=True,
            # What goes into a file or a pipe must go on going there.
            redirect_stdout=_same_terminal(sys.stdout, sys.stderr),
            get_renderable=self._rendered,
        )
        self._live.start(refresh=True)
        self._redirect_handlers()

    def _rendered(self) -> RenderableType:
        return self._bars.render(self._of.rows())

    def draw(self) -> None:
        assert self._live is not None
        self._live.refresh()

    def close(self) -> None:
        assert self._live is not None
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream not in self._streams:
                    stream.flush()  # the line that somebody has begun
            self._live.stop()
        finally:
            self.restore_streams()

    def restore_streams(self) -> None:
        """Undo what :meth:`open` did to the process, without writing anything."""
        for handler, stream in self._handlers:
            handler.stream = stream  # setStream() would write what is pending
        self._handlers = []
        for name, mine in zip(("stdout", "stderr"), self._streams, strict=True):
            if getattr(getattr(sys, name), "rich_proxied_file", None) is mine:
                setattr(sys, name, mine)

    def _redirect_handlers(self) -> None:
        """Handlers keep the stream that they were made with: the log would be drawn over the bar."""
        replaced = {
            id(mine): new
            for mine, new in zip(self._streams, (sys.stdout, sys.stderr), strict=True)
            if mine is not new
        }
        loggers = [logging.root, *logging.root.manager.loggerDict.values()]
        for each in loggers:
            for handler in getattr(each, "handlers", ()):
                if isinstance(handler, logging.StreamHandler) and id(handler.stream) in replaced:
                    self._handlers.append((handler, handler.stream))
                    handler.setStream(replaced[id(handler.stream)])


class _Notebook:
    """One output of the notebook cell that was running when it began.

    Not rich's own way of drawing there: that takes a widget, which not every front end has, and
    which swallows what the cell prints meanwhile.
    """

    pause = _DRAW_NOTEBOOK_SECONDS

    def __init__(self, of: Display) -> None:
        self._of = of
        self._handle: Any = None

    def open(self) -> None:
        from IPython import display as ipython

        if self._handle is None:
            show: Any = ipython.display
            self._handle = show(self._drawn(), raw=True, display_id=True)

    def draw(self) -> None:
        self._handle.update(self._drawn(), raw=True)

    def close(self) -> None:
        self.draw()

    def _drawn(self) -> dict[str, str]:
        found = self._of.rows()
        return {"text/html": html(found), "text/plain": "\n".join(map(plain, found))}


def _kind_of_screen() -> type[_Terminal] | type[_Notebook] | None:
    """Where a person would see it; None: nowhere."""
    if "IPython" in sys.modules and _in_notebook():
        return _Notebook
    stream = sys.stderr
    if stream is None or os.environ.get("TERM") in ("dumb", "unknown"):
        return None
    if hasattr(stream, "rich_proxied_file"):
        return None  # somebody else's live display is there
    try:
        return _Terminal if stream.isatty() else None
    except ValueError:  # it is closed
        return None


def _in_notebook() -> bool:
    ask = getattr(sys.modules["IPython"], "get_ipython", None)
    return ask is not None and hasattr(ask(), "kernel")


def _same_terminal(one: Any, other: Any) -> bool:
    try:
        same = os.fstat(one.fileno()).st_rdev == os.fstat(other.fileno()).st_rdev
        return same and bool(one.isatty())
    except (AttributeError, OSError, ValueError):
        return False


display: Final = Display()
os.register_at_fork(after_in_child=display.forget)
atexit.register(display.stop)
