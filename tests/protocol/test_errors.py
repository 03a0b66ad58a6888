"""The error tree and its one table to and from the wire."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import errors
from kachery_p2p.protocol.errors import BY_CODE, KacheryError, from_wire, to_wire
from kachery_p2p.protocol.limits import MAX_HEADER
from kachery_p2p.protocol.links import frames

from .links.muxes import decoded


def all_classes(kind: type[KacheryError] = KacheryError) -> list[type[KacheryError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in all_classes(child))]


CLASSES = [
    kind
    for kind in all_classes()
    if kind is KacheryError or kind.__module__ == errors.__name__  # the root has its public name
]

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=20,
)


def test_a_reason_that_is_a_sentence_has_one_full_stop() -> None:
    inner = errors.Unreachable(what="x", reason="no")
    text = str(errors.Unreachable(what="y", reason=f"through z: {inner}"))
    assert ".." not in text
    assert text.count("Check the network") == 1
    assert text.startswith("Cannot reach y: through z: Cannot reach x: no. Check")
    assert "wait ...." in str(errors.Unreachable(what="y", reason="wait ..."))


def test_codes_are_unique() -> None:
    repeated = [code for code, times in Counter(kind.code for kind in CLASSES).items() if times > 1]
    assert not repeated
    assert set(BY_CODE) == {kind.code for kind in CLASSES}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_docstring_of_the_module_lists_every_class(kind: type[KacheryError]) -> None:
    assert errors.__doc__ is not None
    assert f" {kind.__name__}" in f" {errors.__doc__}"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_sentence_is_whole_when_the_named_fields_are_given(kind: type[KacheryError]) -> None:
    fields = {name: f"<{name}>" for name in kind.field_names()}
    sentence = str(kind(**fields))
    assert fields
    assert sentence.count("?") == kind.text.count("?")
    assert all(value in sentence for value in fields.values())


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_leaving_a_field_out_never_costs_the_error_itself(kind: type[KacheryError]) -> None:
    assert "?" in str(kind())


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_survives_the_wire_and_a_pickle(kind: type[KacheryError]) -> None:
    error = kind(**{name: f"a {name}" for name in kind.field_names()})
    for copy in (from_wire(*to_wire(error)), pickle.loads(pickle.dumps(error))):
        assert type(copy) is kind
        assert copy.fields == error.fields
        assert str(copy) == str(error)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_exit_statuses_are_what_a_shell_can_see(kind: type[KacheryError]) -> None:
    assert 1 <= kind.exit_status <= 130


def test_a_foreign_exception_crosses_as_an_internal_error() -> None:
    code, fields = to_wire(ZeroDivisionError("by zero"))
    assert code == "internal"
    assert fields == {"reason": "ZeroDivisionError: by zero"}


def test_an_unknown_code_becomes_a_remote_error_that_says_it() -> None:
    error = from_wire("from-the-future", {"colour": "green"})
    assert type(error) is errors.RemoteError
    assert "from-the-future" in str(error)
    assert "green" in str(error)


@pytest.mark.parametrize("name", ["self", "cls", "code", "fields", "args", "text", ""])
def test_a_field_may_have_any_name(name: str) -> None:
    error = from_wire("busy", {name: "value", "limit": 5})
    assert type(error) is errors.Busy
    assert error.code == "busy"
    assert error.fields[name] == "value"


def test_text_that_is_no_unicode_can_still_be_sent() -> None:
    code, fields = to_wire(errors.BadPath(path="caf\udce9", reason="gone"))
    assert fields["path"].encode("utf-8") == b"caf\\udce9"
    assert code == "bad-path"


def nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: dict[str, dict[str, Any]] = {
    "a long text": {"limit": "x" * 60_000},
    "many texts": {str(number): "x" * 2_000 for number in range(500)},
    "bytes, which grow when written out": {"limit": [b"\x00" * 600] * 100},
    "a long key": {"limit": {b"\x00" * 50_000: 1}},
    "deep": {"limit": nested(900)},
    "wide and deep": {"limit": [[["y" * 50] * 100] * 100] * 100},
    "many numbers": {"limit": [[[1] * 100] * 100] * 5},
    "a huge number": {"limit": 10**300},
}


@pytest.mark.parametrize("fields", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_fields_are_cut_so_that_the_error_can_be_passed_on(fields: dict[str, Any]) -> None:
    error = from_wire("busy", fields)
    assert type(error) is errors.Busy
    assert len(str(error)) < 3 * errors.MAX_FIELDS_CHARS
    header = frames.encode_header(frames.End(1, *to_wire(error)))
    assert len(header) < MAX_HEADER


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.sampled_from(sorted(BY_CODE)), st.dictionaries(st.text(), plain))
def test_whatever_comes_becomes_an_error_that_can_be_passed_on(
    code: str, fields: dict[str, Any]
) -> None:
    error = from_wire(code, fields)
    assert isinstance(error, KacheryError)
    assert str(error)
    again = decoded(frames.encode_header(frames.Bye(*to_wire(error))))
    assert isinstance(again, frames.Bye)
    assert type(from_wire(again.code, again.fields)) is type(error)


def test_what_another_node_says_is_never_our_own_fault():
    for code, kind in errors.BY_CODE.items():
        error = errors.from_peer(code, {"reason": "because"})
        ours = errors.LocalError | errors.InternalError | errors.Cancelled
        assert not isinstance(error, ours)
        if not issubclass(kind, ours):
            assert type(error) is kind


def test_the_error_of_a_failed_task_ends_with_the_traceback_if_there_is_one():
    fields = {"function": "pump.1", "node": "lab", "reason": "ValueError: no water"}
    bare = errors.TaskFailed(**fields)
    error = errors.TaskFailed(**fields, traceback="Traceback: line 5")
    assert str(error) == f"{bare}\n\nOn that node:\nTraceback: line 5"
    assert str(errors.TaskFailed(**fields, traceback="")) == str(bare)
    assert error.fields["traceback"] == "Traceback: line 5"
    for copy in (from_wire(*to_wire(error)), pickle.loads(pickle.dumps(error))):
        assert str(copy) == str(error)
