"""JSON in the one form in which equal values have equal texts: what values of a node are kept under."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def canonical_json(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Keys sorted, no spaces, letters as they are. ``default`` as json.dumps has it.

    Raises:
        TypeError, ValueError, RecursionError: it is no JSON value.
    """
    return json.dumps(
        value,
        separators=(",", ":"),
        sort_keys=True,
        allow_nan=False,
        ensure_ascii=False,
        default=default,
    )
