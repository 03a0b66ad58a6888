"""Listings of folders as values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.files import directory
from kachery_p2p.protocol.files.directory import Directory, FileEntry, name_problem, parse

SHA1 = "ab" * 20

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
    lambda name: name_problem(name) is None
)
entries = st.builds(
    FileEntry,
    sha1=st.binary(min_size=20, max_size=20).map(bytes.hex),
    size=st.integers(0, limits.MAX_FILE),
    manifest=st.none() | st.just(SHA1),
    executable=st.booleans(),
)


def _folder(files: dict[str, FileEntry], dirs: dict[str, Directory]) -> Directory:
    return Directory(files, {name: each for name, each in dirs.items() if name not in files})


folders = st.recursive(
    st.builds(_folder, st.dictionaries(names, entries, max_size=3), st.just({})),
    lambda inner: st.builds(
        _folder,
        st.dictionaries(names, entries, max_size=3),
        st.dictionaries(names, inner, max_size=3),
    ),
    max_leaves=6,
)


@given(folders)
def test_what_is_written_is_read_the_same(folder: Directory) -> None:
    data = folder.to_json()
    again = parse(data)
    assert again == folder
    assert again.to_json() == data
    paths = [path for path, _ in folder.walk()]
    assert len(set(paths)) == len(paths)
    for path, entry in folder.walk():
        assert folder.at(path) == entry
    for path in folder.folders():
        assert isinstance(folder.at(path), Directory)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_listing_or_bad_input(data: bytes) -> None:
    try:
        parse(data)
    except BadInput:
        return
    assert isinstance(json.loads(data), dict)


@given(folders)
def test_the_order_of_a_folder_is_no_part_of_it(folder: Directory) -> None:
    turned = Directory(dict(reversed(folder.files.items())), dict(reversed(folder.dirs.items())))
    assert turned.to_json() == folder.to_json()


def test_the_listing_of_a_known_folder_is_this_one() -> None:
    """So the URI of a folder is the same in all versions."""
    folder = Directory(
        {
            "é.txt": FileEntry(SHA1, 3),
            "b": FileEntry(SHA1, 20_000_001, "cd" * 20, True),
        },
        {"sub": Directory(), "a": Directory({"x": FileEntry(SHA1, 0)})},
    )
    wanted = (
        '{"dirs":{"a":{"dirs":{},"files":{"x":{"sha1":"SHA1","size":0}}},'
        '"sub":{"dirs":{},"files":{}}},'
        '"files":{"b":{"executable":true,"manifest":"CDCD","sha1":"SHA1","size":20000001},'
        '"é.txt":{"sha1":"SHA1","size":3}}}'
    )
    assert folder.to_json().decode() == wanted.replace("SHA1", SHA1).replace("CDCD", "cd" * 20)


def test_a_listing_that_kachery_wrote_is_read() -> None:
    value = {
        "files": {"a b.mda": {"size": 7, "sha1": SHA1}, "old": {"size": 1, "md5": "00" * 16}},
        "dirs": {"d": {"files": {}, "dirs": {}}, "unread": {}},
    }
    found = parse(json.dumps(value, indent=4).encode())
    assert found.files == {"a b.mda": FileEntry(SHA1, 7), "old": FileEntry(None, 1)}
    assert found.at("d") == found.at("unread") == Directory()
    assert found.at("nope") is found.at("a b.mda/x") is None
    assert found.at("") is found


def _with(name: Any, kind: str = "files") -> bytes:
    inside: dict[str, Any] = {"sha1": SHA1, "size": 1} if kind == "files" else {}
    return json.dumps({kind: {name: inside}}).encode()


@pytest.mark.parametrize("kind", ["files", "dirs"])
@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc/passwd", "../x", "a/b", "a\0b", "x" * 256, "é" * 128, "\ud800"]
)
def test_a_name_that_is_no_entry_of_a_folder_is_refused(name: str, kind: str) -> None:
    with pytest.raises(BadInput, match="folder listing"):
        parse(_with(name, kind))


@pytest.mark.parametrize(
    "name", ["a\nb", "x" * 255, "é" * 127, "~", "-rf", "a\\b", "...", "%20", "con"]
)
def test_an_odd_name_that_file_systems_take_is_taken(name: str) -> None:
    assert list(parse(_with(name)).walk()) == [(name, FileEntry(SHA1, 1))]


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"files": []},
        {"dirs": {"d": 1}},
        {"files": {"x": {"sha1": 1}}},
        {"files": {"x": {"sha1": SHA1.upper(), "size": 1}}},
        {"files": {"x": {"sha1": SHA1 + "\n", "size": 1}}},
        {"files": {"x": {"sha1": SHA1, "size": -1}}},
        {"files": {"x": {"sha1": SHA1, "size": 1 << 60}}},
        {"files": {"x": {"sha1": SHA1, "size": 1, "manifest": "../x"}}},
        {"files": {"x": {"sha1": SHA1}}, "dirs": {"x": {}}},
    ],
)
def test_what_is_no_listing_is_refused(value: Any) -> None:
    with pytest.raises(BadInput):
        parse(json.dumps(value).encode())


@pytest.mark.parametrize("depth", [limits.MAX_DIRECTORY_DEPTH, 5_000, 300_000])
def test_a_listing_that_is_too_deep_is_refused(depth: int) -> None:
    data = b'{"dirs":{"d":' * depth + b"{}" + b"}}" * depth
    with pytest.raises(BadInput, match="deep"):
        parse(data)
    assert parse(data[13 * (depth - 255) : len(data) - 2 * (depth - 255)])


def test_a_listing_of_too_many_or_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Directory({f"{n}": FileEntry(SHA1, 1) for n in range(11)})
    monkeypatch.setattr(directory, "MAX_DIRECTORY_ENTRIES", 10)
    with pytest.raises(BadInput, match="more than 10 entries"):
        folder.to_json()
    monkeypatch.setattr(directory, "MAX_DIRECTORY_LISTING", 100)
    with pytest.raises(BadInput, match="more than 100"):
        parse(b" " * 101)


@pytest.mark.parametrize(
    ("one", "other"),
    [("A.txt", "a.TXT"), ("é", "e\N{COMBINING ACUTE ACCENT}"), ("straße", "STRASSE")],
)
def test_twins_are_named(one: str, other: str) -> None:
    folder = Directory({one: FileEntry(SHA1), "b": FileEntry(SHA1)}, {other: Directory()})
    ((first, second),) = folder.twins()
    assert {first, second} == {one, other}
    assert not list(Directory({"a": FileEntry(SHA1), "b": FileEntry(SHA1)}).twins())
