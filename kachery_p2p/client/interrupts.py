"""Keeping Ctrl-C out of a block, as kachery_client's ``PreventKeyboardInterrupt`` did."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class PreventKeyboardInterrupt:
    """In this block Ctrl-C does nothing but set ``signal_received`` to the signal and the frame.

    In a thread other than the main one it changes nothing: Ctrl-C does not come there.
    """

    signal_received: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> Self:
        self.signal_received = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> Any:
        self.signal_received = (number, frame)
        print("Ctrl-C is ignored here, for a moment.")
