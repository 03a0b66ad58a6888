"""Packs of views: the files of a folder in one file, each with the hash by which it is verified."""

from __future__ import annotations

from hashlib import sha1

import pytest

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.files.directory import Directory, FileEntry, parse
from kachery_p2p.protocol.files.view_pack import MAGIC, check_view, make_pack
from kachery_p2p.protocol.limits import MAX_VIEW

INDEX, SCRIPT = b"<p>index</p>", b"script()"


def entry(data: bytes) -> FileEntry:
    return FileEntry(sha1(data).hexdigest(), len(data))


def folder() -> Directory:
    return Directory({"index.html": entry(INDEX)}, {"js": Directory({"a.js": entry(SCRIPT)}, {})})


CONTENTS = {sha1(data).hexdigest(): data for data in (INDEX, SCRIPT)}


def test_a_pack_has_its_listing_and_then_the_files() -> None:
    pack = make_pack(folder(), CONTENTS, "view")
    line, _, rest = pack.partition(b"\n")
    size = int(line.removeprefix(MAGIC))
    assert parse(rest[:size]).to_json() == folder().to_json()
    assert rest[size:] == INDEX + SCRIPT
    assert make_pack(folder(), CONTENTS, "view") == pack


def test_what_is_not_what_the_listing_says_is_refused() -> None:
    for wrong in (b"script!!", b"script() "):
        with pytest.raises(BadInput, match=r"a\.js"):
            make_pack(folder(), CONTENTS | {sha1(SCRIPT).hexdigest(): wrong}, "view")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Directory({"a.html": entry(INDEX)}, {}), "index.html"),
        (Directory({}, {"index.html": folder()}), "index.html"),
        (Directory({"index.html": FileEntry(None, 3)}, {}), "hashes"),
        (Directory({"index.html": FileEntry("ab" * 20)}, {}), "sizes"),
        (Directory({"index.html": FileEntry("ab" * 20, MAX_VIEW + 1)}, {}), "at most"),
    ],
)
def test_a_folder_that_is_no_view_says_why(found: Directory, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        check_view(found, "view")
