"""What a task function takes, as read from its Python signature."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from kachery_p2p.client.tasks.signatures import signature_of
from kachery_p2p.protocol.limits import MAX_PARAMETER_DEFAULT, MAX_TASK_PARAMETERS
from kachery_p2p.protocol.tasks.signature import TaskParameter, TaskSignature


def test_types_defaults_and_choices_are_those_of_the_function() -> None:
    def count(
        *,
        text: str,
        most: int = 1000,
        share: Annotated[float, "0 to 1"] = 0.5,
        strict: bool = False,
        how: Literal["exact", "any case"] = "exact",
        maybe: Literal[1, 2] | None = None,
        number: float | None = None,
        data: np.ndarray,
        rest: dict[str, int] | None = None,
    ) -> int:
        """Counts words
        in a text.

        And more of it.
        """
        return 0

    found = signature_of(count)
    assert found == TaskSignature(
        "Counts words in a text.",
        [
            TaskParameter("text", "text", True),
            TaskParameter("most", "integer", False, "1000"),
            TaskParameter("share", "number", False, "0.5"),
            TaskParameter("strict", "boolean", False, "false"),
            TaskParameter("how", "json", False, '"exact"', ['"exact"', '"any case"']),
            TaskParameter("maybe", "json", False, "null", ["1", "2"]),
            TaskParameter("number", "number", False, "null"),
            TaskParameter("data", "array", True),
            TaskParameter("rest", "json", False, "null"),
        ],
        False,
    )


def test_what_cannot_be_told_is_left_open() -> None:
    def plain(text, most=3, *, sentinel=object(), **more):  # type: ignore[no-untyped-def]  # noqa: B008
        pass

    def unknown(a: Missing, b: str) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    found = signature_of(plain)
    assert found is not None
    assert found.more
    assert found.parameters == [
        TaskParameter("text", "json", True),
        TaskParameter("most", "integer", False, "3"),
        TaskParameter("sentinel", "json", False),
    ]
    later = signature_of(unknown)
    assert later is not None
    assert [each.type for each in later.parameters] == ["json", "text"]
    assert signature_of(functools.partial(plain, 1)) is not None


@pytest.mark.parametrize("default", ["x" * 1000, float("nan"), {1: object()}, b"x"])
def test_a_default_that_is_long_or_no_json_is_not_said(default: Any) -> None:
    def function(a: str = default) -> None: ...

    found = signature_of(function)
    assert found is not None
    assert not found.parameters[0].required
    assert found.parameters[0].default is None


def test_a_signature_is_bounded() -> None:
    source = ", ".join(f"argument_{n}=''" for n in range(MAX_TASK_PARAMETERS + 5))
    names: dict[str, Any] = {}
    exec(f"def many(*, {source}): ''' {'é' * 5_000} '''", names)
    found = signature_of(names["many"])
    assert found is not None
    assert len(found.parameters) == MAX_TASK_PARAMETERS
    assert found.more
    assert len(found.about) == 200
    wide = {f"a{n}": "é" * (MAX_PARAMETER_DEFAULT // 6) for n in range(MAX_TASK_PARAMETERS)}
    exec("def wide(*, " + ", ".join(f"{k * 30}={v!r}" for k, v in wide.items()) + "): 0", names)
    found = signature_of(names["wide"])
    assert found is None or found.size <= 8_000
