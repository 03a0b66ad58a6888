"""Manifests load what kachery wrote, write what they load, and refuse everything else."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.files.manifest import Chunk, Manifest, Tree
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK, MAX_FILE, MAX_MANIFEST

A, B, C = ("a" * 40, "b" * 40, "c" * 40)
TREE = {"algorithm": "blake3", "block": BLOCK, "root": "ab" * 32}


def fields(**changes):
    value = {
        "size": 30_000_000,
        "sha1": A,
        "chunks": [
            {"start": 0, "end": MANIFEST_CHUNK, "sha1": B},
            {"start": MANIFEST_CHUNK, "end": 30_000_000, "sha1": C},
        ],
        "tree": TREE,
    }
    value.update(changes)
    return {name: item for name, item in value.items() if item is not ...}


def parse(value) -> Manifest:
    return Manifest.parse(json.dumps(value).encode())


def test_a_manifest_of_old_loads_without_a_tree():
    old = json.dumps(fields(tree=...), indent=4).encode()
    assert Manifest.parse(old) == Manifest(
        30_000_000,
        A,
        (Chunk(0, MANIFEST_CHUNK, B), Chunk(MANIFEST_CHUNK, 30_000_000, C)),
    )


def test_the_tree_is_read():
    assert parse(fields()).tree == Tree("blake3", BLOCK, bytes.fromhex("ab" * 32))


@pytest.mark.parametrize(
    "other", [{"algorithm": "md17"}, {"algorithm": "sha256"}, {"block": 4096}, {"algorithm": ""}]
)
def test_a_tree_of_an_unknown_kind_is_no_tree(other):
    assert parse(fields(tree=TREE | other)).tree is None


def test_unknown_fields_are_ignored():
    more = fields(colour="blue")
    more["chunks"][0]["weight"] = [1]
    assert parse(more) == parse(fields())


def test_the_bytes_are_fixed_and_name_the_manifest():
    manifest = parse(fields())
    text = manifest.to_json()
    assert text == (
        b'{"size":30000000,"sha1":"%s","chunks":[{"start":0,"end":20000000,"sha1":"%s"},'
        b'{"start":20000000,"end":30000000,"sha1":"%s"}],'
        b'"tree":{"algorithm":"blake3","block":65536,"root":"%s"}}'
    ) % (b"a" * 40, b"b" * 40, b"c" * 40, b"ab" * 32)
    assert manifest.name == hashlib.sha1(text).hexdigest()


@given(
    st.lists(st.integers(1, MANIFEST_CHUNK), max_size=20),
    st.none() | st.binary(min_size=32, max_size=32),
)
@settings(deadline=None, max_examples=50)
def test_what_is_written_is_read_back(lengths, root):
    chunks, position = [], 0
    for length in lengths:
        chunks.append(Chunk(position, position + length, hashlib.sha1(b"%d" % length).hexdigest()))
        position += length
    tree = None if root is None else Tree("blake3", BLOCK, root)
    manifest = Manifest(position, A, tuple(chunks), tree)
    assert Manifest.parse(manifest.to_json()) == manifest


def chunk(**changes):
    return fields(size=5, chunks=[{"start": 0, "end": 5, "sha1": B} | changes])


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        5,
        fields(size=...),
        fields(size=-1),
        fields(size=True, chunks=[]),
        fields(size=30_000_000.0),
        fields(size="30000000"),
        fields(size=MAX_FILE + 1),
        fields(size=30_000_001),
        fields(sha1=...),
        fields(sha1="a" * 39),
        fields(sha1="A" * 40),
        fields(sha1="a" * 40 + "\n"),
        fields(sha1=7),
        fields(chunks=...),
        fields(chunks={}),
        fields(chunks=[]),
        fields(chunks=["x"]),
        chunk(start=1),
        chunk(start=False),
        chunk(end=4),
        chunk(end=0),
        chunk(sha1="g" * 40),
        fields(chunks=fields()["chunks"][::-1]),
        fields(size=5, chunks=[{"start": 0, "end": 5, "sha1": B}] * 2),
        fields(tree="blake3"),
        fields(tree={}),
        fields(tree=TREE | {"root": "ab"}),
        fields(tree=TREE | {"root": None}),
        fields(tree=TREE | {"block": True}),
        fields(tree=TREE | {"algorithm": 3}),
    ],
)
def test_a_wrong_field_is_refused(value):
    with pytest.raises(BadInput, match="manifest"):
        parse(value)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"size":' + b"9" * 5000 + b"}", b"{}\x00", b"NaN"],
)
def test_what_is_no_json_object_is_refused(data):
    with pytest.raises(BadInput, match="manifest"):
        Manifest.parse(data)


def test_a_manifest_over_the_limit_is_refused_before_it_is_read():
    with pytest.raises(BadInput, match="more than"):
        Manifest.parse(b" " * (MAX_MANIFEST + 1))


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_no_bytes_break_the_parser(data):
    with pytest.raises(BadInput):
        Manifest.parse(data)
