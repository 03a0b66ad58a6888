"""What people import: every function in both forms, under both names."""

from __future__ import annotations

import inspect

import pytest

import kachery_client
import kachery_p2p as kc

PUBLIC = [name for name in dir(kc) if name in kc.__all__ or name[0] != "_"]
FUNCTIONS = {name: getattr(kc, name) for name in PUBLIC if inspect.isfunction(getattr(kc, name))}
ASYNC = {name for name, function in FUNCTIONS.items() if inspect.iscoroutinefunction(function)}
PLAIN = {
    "_kachery_storage_dir", "_kachery_temp_dir", "_run_task",
    "alist_files", "aload_many", "astore_many", "build_uri", "check_signed_message", "list_files",
    "load_many", "parse_uri", "store_many", "task_backend", "task_cancelled", "task_progress",
    "taskfunction",
}  # fmt: skip
"""Functions that ask no node, so that there is nothing to wait for, an async context manager, and
iterators of both kinds."""


def test_every_name_that_is_promised_is_there_and_once() -> None:
    assert len(kc.__all__) == len(set(kc.__all__))
    for name in kc.__all__:
        assert hasattr(kc, name)


def test_who_imports_everything_keeps_pythons_own_open() -> None:
    assert "open" in PUBLIC
    assert "open" not in kc.__all__


def test_every_sync_function_has_an_async_twin_and_vice_versa() -> None:
    assert {f"a{name}" for name in set(FUNCTIONS) - ASYNC - PLAIN} == ASYNC
    assert len(ASYNC) > 20


@pytest.mark.parametrize("name", sorted(ASYNC))
def test_twins_have_the_same_signature(name: str) -> None:
    twin = FUNCTIONS[name[1:]]
    assert inspect.signature(twin) == inspect.signature(FUNCTIONS[name])
    assert not inspect.iscoroutinefunction(twin)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_public_function_is_documented_and_annotated(name: str) -> None:
    function = FUNCTIONS[name]
    doc = inspect.getdoc(function)
    assert doc
    assert len(doc.split()) > 4
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - PLAIN - ASYNC))
def test_the_doc_of_a_sync_function_does_not_tell_to_await_it(name: str) -> None:
    assert f"await {name}(" not in (inspect.getdoc(FUNCTIONS[name]) or "")


def test_public_classes_are_documented() -> None:
    for name in kc.__all__:
        value = getattr(kc, name)
        if inspect.isclass(value):
            assert inspect.getdoc(value)


def test_the_old_names_still_work() -> None:
    assert kc.store_object is kc.store_json
    assert kc.load_object is kc.load_json


def test_kachery_client_is_the_same_thing() -> None:
    assert set(kachery_client.__all__) == set(kc.__all__)
    for name in kc.__all__:
        assert getattr(kachery_client, name) is getattr(kc, name)
