"""The keyword arguments that ``load_*`` and ``find_file`` of kachery_p2p 0.8 had, as today's.

Only the sync functions take them: there were no others.
"""

from __future__ import annotations

from typing import Any

from kachery_p2p.protocol.errors import BadInput


def todays(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for the function ``name`` of today.

    ``p2p=False`` is ``local_only=True``, ``from_channel`` is ``channel``; ``from_node`` has no
    meaning, since verified bytes are the same wherever they come from, and several serve at once; nor
    has ``timeout_sec`` of ``find_file``, which ends when everybody reachable has answered.

    Raises:
        BadInput: an older argument and the one of today contradict one another.
    """
    found = dict(arguments)
    found.pop("from_node", None)
    if name == "find_file":
        found.pop("timeout_sec", None)
    for older, today, value in (
        ("p2p", "local_only", not found.get("p2p", True)),
        ("from_channel", "channel", found.get("from_channel")),
    ):
        if older not in found:
            continue
        del found[older]
        if found.setdefault(today, value) != value:
            raise BadInput(what=name, reason=f"{older} and {today} say different things")
    return found
