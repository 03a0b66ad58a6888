"""What a content names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.files import contents
from kachery_p2p.protocol.files.contents import named_in

A, B, C, D = (letter * 40 for letter in "abcd")


def test_a_directory_names_the_files_in_it_and_in_the_folders_below() -> None:
    listing = {
        "files": {"x": {"size": 1, "sha1": A}, "odd": {"size": 1}, "worse": 5},
        "dirs": {"sub": {"files": {"y": {"size": 2, "sha1": B, "manifest": C}}, "dirs": {}}},
    }
    assert named_in(json.dumps(listing).encode()) == {A: False, B: False, C: False}


def test_a_value_names_the_uris_in_it_and_their_manifests() -> None:
    value = {"out": [f"sha1://{A}/x?manifest={B}", "sha1://short", "text"], "in": f"sha1dir://{C}"}
    assert named_in(json.dumps(value).encode()) == {A: False, B: False, C: True}
    assert named_in(json.dumps(f"sha1://{D}/y").encode()) == {D: False}


def test_what_is_too_much_is_refused_before_it_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_PINS", 1)
    with pytest.raises(BadInput, match="more than 1 files"):
        named_in(json.dumps([f"sha1://{A}", f"sha1://{B}"]).encode())


@given(st.binary() | st.just(b"[" * 100_000))
def test_anything_else_names_nothing(data: bytes) -> None:
    assert isinstance(named_in(data), dict)
