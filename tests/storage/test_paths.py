"""Paths come from good hashes only, and a scan finds what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.storage import paths

SHA1 = "0123456789abcdef0123456789abcdef01234567"


def test_the_layout_is_kacherys():
    assert paths.path_of(Path("/s"), SHA1) == Path(f"/s/sha1/01/23/45/{SHA1}")
    assert paths.path_of(Path("/s"), SHA1, paths.LINK) == Path(f"/s/sha1/01/23/45/{SHA1}.link")


@pytest.mark.parametrize(
    "bad", ["", SHA1[:-1], SHA1 + "0", SHA1.upper(), SHA1 + "\n", "../" + SHA1[3:], None, b"0" * 40]
)
def test_no_path_is_built_from_anything_but_a_hash(bad):
    with pytest.raises(BadInput):
        paths.path_of(Path("/s"), bad)


@given(st.text(max_size=60))
def test_a_name_is_parsed_only_if_it_begins_with_a_hash(name):
    parsed = paths.parse_name(name)
    assert parsed is None or parsed[0] + parsed[1] == name
    assert paths.parse_name(SHA1 + name) == (SHA1, name)


def put(root: Path, name: str, data: bytes = b"x") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_a_scan_finds_blobs_and_links_and_nothing_else(tmp_path):
    other = "ff" * 20
    folder = "sha1/01/23/45"
    put(tmp_path, f"{folder}/{SHA1}", b"12345")
    put(tmp_path, f"sha1/ff/ff/ff/{other}.link", b"{}")
    for suffix in (".tree", ".partial", ".partial.map", ".corrupt-1", ".tmp"):
        put(tmp_path, f"{folder}/{SHA1}{suffix}")
    put(tmp_path, f"{folder}/README")
    put(tmp_path, f"{folder}/{other}")
    put(tmp_path, "sha1/README")
    put(tmp_path, "sha1/zz/README")
    put(tmp_path, "md5/01/23/45/x")
    put(tmp_path, "tmp/1-2-3")
    (tmp_path / folder / (SHA1[:-1] + "8")).mkdir()
    assert list(paths.scan(tmp_path)) == [(SHA1, 5, "blob"), (other, 2, "link")]


def test_a_scan_of_nothing_finds_nothing(tmp_path):
    assert list(paths.scan(tmp_path / "missing")) == []
