"""The fingerprint of a task function's code: what changes it and what does not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from kachery_p2p.client.tasks.code import fingerprint, next_id

BEFORE = """
import functools
FACTOR = 2
NAMES = {"a", "b", "c"}

class Model:
    def predict(self, x):
        return FACTOR * x

def helper(x):
    return Model().predict(x)

def logged(function):
    @functools.wraps(function)
    def call(**kwargs):
        return function(**kwargs)
    return call

@logged
def calculate(*, x, more=1):
    \"\"\"What it does.\"\"\"
    return [helper(each) + more for each in x if each not in {"p", "q", "r"}]
"""


def of(text: str) -> str:
    space: dict[str, Any] = {"__name__": "script"}
    exec(compile(text, "script.py", "exec"), space)
    return fingerprint(space["calculate"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+ more", "- more"),
        ("more=1", "more=2"),
        ("FACTOR = 2", "FACTOR = 3"),
        ("return FACTOR * x", "return FACTOR * x + 1"),
        ("return Model().predict(x)", "return Model().predict(x) or 0"),
        ("return function(**kwargs)", "return function(**kwargs) or None"),
        ('"p", "q"', '"p", "s"'),
    ],
)
def test_whatever_changes_what_it_does_changes_it(old: str, new: str) -> None:
    assert old in BEFORE
    assert of(BEFORE.replace(old, new)) != of(BEFORE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def helper", "\n\n# A comment.\ndef helper"),
        ("What it does.", "What it does, at more length."),
        ("NAMES = ", "UNUSED = 1\nNAMES = "),
        ("class Model", "def unused():\n    return 1\n\nclass Model"),
    ],
)
def test_nothing_else_does(old: str, new: str) -> None:
    assert old in BEFORE
    assert of(BEFORE.replace(old, new)) == of(BEFORE)


def test_it_is_the_same_in_every_process() -> None:
    code = "from tests.client.tasks.test_code import BEFORE, of; print(of(BEFORE))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert found == {of(BEFORE) + "\n"}


@pytest.mark.parametrize("function", [print, dict, len, type("C", (), {"__call__": print})()])
def test_what_has_no_code_of_python_has_one_as_well(function: Any) -> None:
    assert fingerprint(function) == fingerprint(function)


def test_the_next_id_counts_on() -> None:
    assert next_id("count.1") == "count.2"
    assert next_id("count.9") == "count.10"
    assert next_id("count") == "count.2"
    assert next_id("v1.x") == "v1.x.2"
