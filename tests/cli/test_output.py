"""What people see."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.cli.output import (
    Output,
    clean,
    columns,
    json_text,
    quoted,
    show_error,
    show_error_json,
    size_text,
)
from kachery_p2p.cli.tasks.commands import plain
from kachery_p2p.protocol.errors import BadInput, TaskFailed


@settings(deadline=None, max_examples=100)
@given(st.text())
def test_clean_text_is_printable_and_on_one_line(text: str) -> None:
    assert clean(text).isprintable()
    if text.isprintable():
        assert clean(text) == text


def test_columns_stand_below_one_another() -> None:
    assert columns([("a", "bb", "c"), ("aaa", "b\n", "")]) == ["a    bb   c", "aaa  b\\n"]
    assert columns([]) == []


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("lab", "lab"),
        ("my lab", '"my lab"'),
        ("bob's lab", '"bob\'s lab"'),
        ("", '""'),
        ("$HOME", "'$HOME'"),
        ("a`id`", "'a`id`'"),
        ("what!", "'what!'"),
        ('the "lab"', "'the \"lab\"'"),
        ("back\\slash", "'back\\slash'"),
        ("a;rm -rf b", '"a;rm -rf b"'),
        ("*", '"*"'),
        ("-lab", "-lab"),
        ("två\nlab", "'två\\nlab'"),
    ],
)
def test_a_name_in_a_command_that_is_proposed_is_one_word(name: str, word: str) -> None:
    """What somebody called a channel or a member is pasted into a shell, and runs nothing there."""
    assert quoted(name) == word
    assert shlex.split(quoted(name)) == [clean(name)]


@given(st.text())
def test_any_name_is_one_word_that_means_the_name(name: str) -> None:
    assert shlex.split(quoted(name)) == [clean(name)]
    # In an interactive shell these begin something in double quotes.
    if quoted(name).startswith('"'):
        assert not set(quoted(name)[1:-1]) & set('"$`\\!')


def test_sizes_are_in_the_unit_that_fits() -> None:
    sizes = (0, 999, 1000, 999_949, 999_950, 1_500_000, 20_000_000, 3 * 10**9, 3 * 10**18)
    assert [size_text(n) for n in sizes] == [
        "0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "1.5 MB", "20.0 MB", "3.0 GB",
        "3000000.0 TB",
    ]  # fmt: skip


def test_a_traceback_from_elsewhere_stands_below_the_error_line_by_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = "Traceback:\n  File \x1b[2J\nValueError: no"
    show_error(TaskFailed(function="f.1", node="ab", reason="no", traceback=told))
    first, *below = capsys.readouterr().err.splitlines()
    assert first.startswith("kachery-p2p: Task function 'f.1' failed on node ab: no.")
    assert below == ["  Traceback:", "    File \\x1b[2J", "  ValueError: no"]


def strictly(text: str) -> object:
    """What a reader of JSON gets that knows no NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


def test_json_is_json_also_of_what_it_has_no_numbers_for(
    capfd: pytest.CaptureFixture[str],
) -> None:
    nan, inf = float("nan"), float("inf")
    assert strictly(json_text({"a": [nan, (1.5, -inf)], "b": {"c": inf}})) == {
        "a": [None, [1.5, None]],
        "b": {"c": None},
    }
    assert strictly(json_text({nan: 1})) == {"null": 1}
    output = Output()
    output.json = True
    output.result(nan, [])
    show_error_json(BadInput(what="x", reason="y", number=nan))
    out, err = capfd.readouterr()
    assert strictly(out) is None
    assert strictly(err)["error"]["fields"]["number"] is None  # type: ignore[index]


def test_results_of_numpy_are_json() -> None:
    import numpy as np

    value = {"a": np.array([1, np.nan]), "n": np.float32("nan"), "i": np.int64(3), "l": [np.inf]}
    assert strictly(json_text(plain(value))) == {
        "a": [1.0, None], "n": None, "i": 3, "l": [None],
    }  # fmt: skip
