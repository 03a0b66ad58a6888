"""What a URI calls a file: checked before anything is stored, whatever the file is called."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_p2p as kc
from kachery_p2p.protocol import errors
from tests.daemons import Daemon, at

STORES: dict[str, Callable[[Path, Any], str]] = {
    "store_text": lambda path, label: kc.store_text("text", label),
    "store_bytes": lambda path, label: kc.store_bytes(b"bytes", label),
    "store_json": lambda path, label: kc.store_json({"a": 1}, label),
    "store_npy": lambda path, label: kc.store_npy(np.ones(3), label),
    "store_pkl": lambda path, label: kc.store_pkl((1, 2), label),
    "store_file": kc.store_file,
    "link_file": kc.link_file,
}
BAD = ["x" * 1001, Path("x"), 5, "\udce9", b"x", ["x"]]


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
@pytest.mark.parametrize("label", BAD, ids=lambda label: ascii(label)[:20])
def test_a_label_that_cannot_be_is_refused_before_anything_is_stored(
    folder: Path, tmp_path: Path, store: Callable[[Path, Any], str], label: Any
) -> None:
    path = tmp_path / "a file"
    path.write_text("content")
    with pytest.raises(errors.BadUri, match="label"):
        store(path, label)
    assert not folder.exists()


@pytest.mark.processes
def test_nothing_of_it_is_offered(tmp_path: Path, short_folder: Path) -> None:
    with Daemon(short_folder, "n") as node, at(node):
        for label in BAD:
            with pytest.raises(errors.BadUri):
                kc.store_text("not to be seen", label)  # type: ignore[arg-type]
        assert not list((node.storage / "sha1").iterdir())


def odd_file(folder: Path) -> str:
    path = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.dat")
    Path(path).write_bytes(b"content of it")
    return path


@pytest.mark.parametrize("store", [kc.store_file, kc.link_file])
def test_a_file_whose_name_is_no_utf8_has_a_label_all_the_same(
    folder: Path, tmp_path: Path, store: Callable[[str], str]
) -> None:
    path = odd_file(tmp_path)
    uri = store(path)
    assert kc.parse_uri(uri).label == "caf\ufffd.dat"
    assert kc.load_bytes(uri) == b"content of it"
    assert kc.load_bytes(path) == b"content of it"
    if store is kc.link_file:
        assert kc.load_file(uri) == path


@pytest.mark.processes
def test_a_node_links_such_a_file_too(tmp_path: Path, short_folder: Path) -> None:
    path = odd_file(tmp_path)
    with Daemon(short_folder, "n") as node, at(node):
        uri = kc.link_file(path)
        assert kc.find_file(uri)["local"] == path
        assert kc.load_file(uri) == path
        assert kc.load_bytes(uri) == b"content of it"


@pytest.mark.parametrize("path", [5, None, b"/nowhere", ["a"], "a\0b", Path("no/such")])
def test_what_is_no_path_is_a_bad_path(folder: Path, path: Any) -> None:
    for store in (kc.store_file, kc.link_file):
        with pytest.raises(errors.BadPath):
            store(path)
    assert not folder.exists()


@pytest.mark.parametrize("uri", [5, None, ["sha1://"], "a\0b", object()])
def test_what_is_no_uri_is_a_bad_one(folder: Path, uri: Any) -> None:
    for load in (kc.load_file, kc.load_bytes, kc.load_text, kc.load_json, kc.load_npy, kc.load_pkl):
        with pytest.raises((errors.BadUri, errors.BadPath)):
            load(uri)


def test_odd_buffers_are_stored_and_others_refused(folder: Path) -> None:
    assert kc.load_bytes(kc.store_bytes(memoryview(b"a-b-c")[::2])) == b"abc"
    for data in ("text", 5, None):
        with pytest.raises(errors.BadInput):
            kc.store_bytes(data)  # type: ignore[arg-type]
