"""What arguments a task function takes, as its backend says: for forms, and for people.

It is a hint and no promise: the function itself decides what it accepts, and nothing is refused on
account of a signature.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from kachery_p2p.protocol.limits import (
    MAX_PARAMETER_CHOICES,
    MAX_PARAMETER_DEFAULT,
    MAX_PARAMETER_NAME,
    MAX_TASK_ABOUT,
    MAX_TASK_PARAMETERS,
)

ParameterType = Literal["text", "integer", "number", "boolean", "array", "json"]
"""``array``: a numpy array, given as the URI of an npy file. ``json``: any value."""

_Name = Annotated[str, Meta(min_length=1, max_length=MAX_PARAMETER_NAME)]
_Json = Annotated[str, Meta(max_length=MAX_PARAMETER_DEFAULT)]


class TaskParameter(Struct, frozen=True, array_like=True):
    """One argument. ``default``: JSON, if it may be left out and that can be said. ``choices``: JSON,
    all values that it takes; empty: any of its type."""

    name: _Name
    type: ParameterType
    required: bool
    default: _Json | None = None
    choices: Annotated[list[_Json], Meta(max_length=MAX_PARAMETER_CHOICES)] = []


class TaskSignature(Struct, frozen=True, array_like=True):
    """``about``: what the function does, in a line. ``more``: it takes other arguments, too."""

    about: Annotated[str, Meta(max_length=MAX_TASK_ABOUT)] = ""
    parameters: Annotated[list[TaskParameter], Meta(max_length=MAX_TASK_PARAMETERS)] = []
    more: bool = False

    @property
    def size(self) -> int:
        """Bytes that it takes in an answer, about."""
        each = (
            len(p.name.encode())
            + len((p.default or "").encode())
            + len("".join(p.choices).encode())
            for p in self.parameters
        )
        return len(self.about.encode()) + sum(each) + 16 * (1 + len(self.parameters))
