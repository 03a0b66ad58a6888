"""What ``doctor`` found: one line per thing that was looked at, problems last.

A check is *ok*, a *warning* (it works, but not as it might) or a *problem*. Only problems make the
command fail, with the exit status of the first: the checks go from the near to the far, so that the
first is what the others may come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Final, Literal

from kachery_p2p.cli.output import clean
from kachery_p2p.protocol.errors import BY_CODE, KacheryError, from_wire

State = Literal["ok", "warning", "problem"]
_ORDER: Final[tuple[State, ...]] = ("ok", "warning", "problem")
_ASK: Final = "The node's log says more: node.log in its state folder ('kachery-p2p info')."
_WIDTH: Final = 92
_GLUE: Final = "\0"
_COMMAND: Final = re.compile(r"'(sudo |kachery-p2p |pip |channel |daemon )[^']*'")
_MARGIN: Final = 10
"""Characters before the text: the longest state, and blanks."""


@dataclass(frozen=True)
class Check:
    """``about``: a word or two for what was looked at. ``code``: of the error that it comes to."""

    about: str
    state: State
    text: str
    remedy: str = ""
    code: str = ""

    @property
    def exit_status(self) -> int:
        """0 unless it is a problem."""
        if self.state != "problem":
            return 0
        kind = BY_CODE.get(self.code, KacheryError)
        return kind.exit_status

    def lines(self) -> list[str]:
        """For people; continuation lines stand below the text."""
        told = _wrapped(f"{self.about}: {self.text}", _WIDTH - _MARGIN)
        told += [
            ("-> " if at == 0 else "   ") + part
            for at, part in enumerate(_wrapped(self.remedy, _WIDTH - _MARGIN - 3))
        ]
        return [
            f"{self.state if at == 0 else '':{_MARGIN}}{part}".rstrip()
            for at, part in enumerate(told)
        ]

    def plain(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "about": self.about,
            "state": self.state,
            "text": self.text,
            "remedy": self.remedy,
            "code": self.code,
        }


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of that width, but commands, paths and ids stay whole: they are there to be copied."""
    kept = _COMMAND.sub(lambda found: found[0].replace(" ", _GLUE), clean(text))
    lines = wrap(kept, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_GLUE, " ") for line in lines]


def ok(about: str, text: str) -> Check:
    return Check(about, "ok", text)


def warning(about: str, text: str, remedy: str, code: str = "") -> Check:
    return Check(about, "warning", text, remedy, code)


def problem(about: str, text: str, remedy: str, code: str) -> Check:
    return Check(about, "problem", text, remedy, code)


def split(error: KacheryError) -> tuple[str, str]:
    """An error's sentence, as what is wrong and what to do: the last sentence or two."""
    told, stop, rest = str(error).partition(". ")
    return told + ("." if stop else ""), rest


def failure(about: str, error: KacheryError) -> Check:
    """A problem that an error tells well enough by itself."""
    told, remedy = split(error)
    return problem(about, told, remedy or _ASK, error.code)


def error_of(pair: list[Any]) -> KacheryError:
    """An error as the node's answers have it: ``[code, fields]``."""
    code, fields = pair
    return from_wire(code, fields)


def in_order(checks: Iterable[Check]) -> list[Check]:
    """Problems last, and else as they were made."""
    return sorted(checks, key=lambda check: _ORDER.index(check.state))


def exit_status(checks: Iterable[Check]) -> int:
    return next((check.exit_status for check in checks if check.state == "problem"), 0)


def summary(checks: Iterable[Check]) -> str:
    """The last line."""
    counts = [sum(check.state == state for check in checks) for state in _ORDER]
    if counts[2]:
        return (
            f"{counts[2]} problem{'s' if counts[2] > 1 else ''}: see what to do after the arrows."
        )
    if counts[1]:
        return f"Nothing is broken; {counts[1]} warning{'s' if counts[1] > 1 else ''}."
    return "All is well."
