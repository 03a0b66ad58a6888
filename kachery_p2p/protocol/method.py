"""What a method is: what nodes ask of one another. Each noun lists its own in ``messages.py``."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec


class Method(NamedTuple):
    """One line of the table of methods.

    ``params``: the type of its parameters; None where they are a plain map. ``between``: who asks whom,
    and for what; "end to end" means that a proxy between the two sees nothing of it. ``who``: the role
    that it takes, which whoever answers checks each time.
    """

    name: str
    how: Literal["request", "stream", "note"]
    params: type[msgspec.Struct] | None
    between: str
    who: str
