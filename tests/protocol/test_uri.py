"""Kachery URIs: what is read, what is written, and what an error says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import BadUri
from kachery_p2p.protocol.uri import ChunkOf, KacheryUri, build_uri, parse_uri

SHA1 = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
FEED = "ab" * 32

hashes = st.text("0123456789abcdef", min_size=40, max_size=40)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
awkward = st.text("%2530?F#cC8 /.\n\x85a", max_size=12)
labels = texts | awkward


@pytest.mark.parametrize(
    ("text", "label", "manifest"),
    [
        (f"sha1://{SHA1}", "", None),
        (f"sha1://{SHA1}/", "", None),
        (f"sha1://{SHA1}.txt", "", None),
        (f"sha1://{SHA1}.txt/file.txt", "file.txt", None),
        (f"sha1://{SHA1}/file.txt", "file.txt", None),
        (f"SHA1://{SHA1.upper()}/File.TXT", "File.TXT", None),
        (f"sha1://{SHA1}/a b/c d.dat", "a b/c d.dat", None),
        (f"sha1://{SHA1}/100%.txt", "100%.txt", None),
        (f"sha1://{SHA1}/a%20b.txt", "a b.txt", None),
        (f"sha1://{SHA1}/a#1.txt", "a#1.txt", None),
        (f"sha1://{SHA1}/a%3Fb%23c%0A", "a?b#c\n", None),
        (f"sha1://{SHA1}/x.nwb?manifest={OTHER}", "x.nwb", OTHER),
        (f"sha1://{SHA1}/x.nwb?manifest={OTHER.upper()}&later=1", "x.nwb", OTHER),
        (f"sha1://{SHA1}?manifest={OTHER}", "", OTHER),
    ],
)
def test_every_form_in_use_is_read(text: str, label: str, manifest: str | None) -> None:
    uri = parse_uri(text)
    assert uri == KacheryUri("sha1", "sha1", SHA1, label, manifest)


def test_a_space_is_written_as_percent_20_and_read_either_way() -> None:
    encoded = f"sha1://{SHA1}/a%20b%2520c.txt"
    for text in (f"sha1://{SHA1}/a b%2520c.txt", encoded):
        assert parse_uri(text).label == "a b%20c.txt"
        assert str(parse_uri(text)) == encoded
    assert build_uri(sha1=SHA1, label="a b%20c.txt") == encoded


def test_older_code_finds_its_attributes() -> None:
    uri = parse_uri(uri=f"sha1://{SHA1}/file.txt")
    assert (uri.algorithm, uri.hash, uri.filename) == ("sha1", SHA1, "file.txt")
    assert build_uri(uri_object=uri) == build_uri(uri) == f"sha1://{SHA1}/file.txt"


def test_a_chunk_uri_says_what_it_is_a_chunk_of() -> None:
    text = f"sha1://{SHA1}?chunkOf={OTHER}~20000000~40000000"
    uri = parse_uri(text)
    assert uri.chunk_of == ChunkOf(OTHER, 20_000_000, 40_000_000)
    assert str(uri) == text


@pytest.mark.parametrize(
    ("text", "label", "path"),
    [
        (f"sha1dir://{SHA1}", "", ""),
        (f"sha1dir://{SHA1}.my.data", "my.data", ""),
        (f"sha1dir://{SHA1}.data/a/b c.txt", "data", "a/b c.txt"),
        (f"sha1dir://{SHA1}/a", "", "a"),
    ],
)
def test_folder_uris_have_a_label_and_a_path(text: str, label: str, path: str) -> None:
    uri = parse_uri(text)
    assert (uri.kind, uri.algorithm, uri.hash) == ("sha1dir", "sha1", SHA1)
    assert (uri.label, uri.path, str(uri)) == (label, path, text.replace(" ", "%20"))


def test_feed_uris_are_recognised_by_kind() -> None:
    assert parse_uri(f"feed://{FEED}").kind == "feed"
    uri = parse_uri(f"feed://{FEED}/main")
    assert (uri.hash, uri.path, str(uri)) == (FEED, "main", f"feed://{FEED}/main")


@pytest.mark.parametrize(
    ("tail", "path"),
    [("a%20b/c", "a b/c"), ("a b", "a b"), ("100%", "100%"), ("a%2520b", "a%20b"), ("%c3%a9", "é")],
)
def test_the_name_of_a_subfeed_is_quoted_as_it_always_was(tail: str, path: str) -> None:
    uri = parse_uri(f"feed://{FEED}/{tail}")
    assert uri.path == path
    assert parse_uri(str(uri)) == uri
    # In a folder's paths and in labels, only what must be quoted is.
    assert parse_uri(f"sha1dir://{SHA1}/a%20b%41").path == "a b%41"
    with pytest.raises(BadUri, match="not UTF-8"):
        parse_uri(f"feed://{FEED}/%ff")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"sha1://{SHA1[:-1]}/x", "the hash has 39 digits, it needs 40"),
        (f"sha1://{SHA1}0", "the hash has 41 digits"),
        ("sha1://", "the hash has 0 digits"),
        (f"sha1://{SHA1[:-1]}g/x", "'g' at position 39"),
        (f"sha1://{SHA1[:-1]}é", "'é' at position 39"),
        (f"sha1://{SHA1[:-1]}\N{KELVIN SIGN}", "at position 39"),
        (f"feed://{SHA1}", "the feed id has 40 digits, it needs 64"),
        (f"feed://{FEED}?manifest={OTHER}", "a feed has no"),
        (f"md5://{SHA1}", "unknown scheme 'md5'"),
        ("https://example.org/file", "unknown scheme 'https'"),
        ("/home/me/file.txt", "does not begin with"),
        ("", "does not begin with"),
        (f"sha1://{SHA1}/x?manifest={OTHER[1:]}", "the manifest has 39 digits"),
        (f"sha1://{SHA1}/x?manifest=", "the manifest has 0 digits"),
        (f"sha1://{SHA1}/x?manifest={OTHER}&manifest={OTHER}", "manifest= twice"),
        (f"sha1://{SHA1}/x?chunkOf={OTHER}~5~5", "bytes 5 to 5"),
        (f"sha1://{SHA1}/x?chunkOf={OTHER}~5", "chunkOf is not"),
        (f"sha1://{SHA1}/x?chunkOf={OTHER}~-1~5", "chunkOf is not"),
        (f"sha1://{SHA1}/x\ny", f"control character '\\n' at position {len(SHA1) + 9}"),
        (f"sha1://{SHA1}/\ud800", "not valid text"),
        (f"sha1://{SHA1}/" + "x" * 1001, "the label has 1001 characters, more than the 1000"),
        (f"sha1://{SHA1}/" + "x" * limits.MAX_URI, "more than the 4000 allowed"),
        (b"sha1://" + SHA1.encode(), "it is a bytes, not a str"),
        (None, "it is a NoneType, not a str"),
    ],
)
def test_the_error_names_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(BadUri) as caught:
        parse_uri(text)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 700


def test_build_takes_parts_or_a_uri_but_not_both() -> None:
    assert build_uri(sha1=SHA1.upper(), label="file.txt") == f"sha1://{SHA1}/file.txt"
    assert build_uri(sha1=SHA1) == f"sha1://{SHA1}"
    built = build_uri(sha1=SHA1, label="what?\t.txt", manifest=OTHER)
    assert built == f"sha1://{SHA1}/what%3F%09.txt?manifest={OTHER}"
    with pytest.raises(BadUri, match="not both"):
        build_uri(parse_uri(built), label="x")
    with pytest.raises(BadUri, match="neither"):
        build_uri(label="x")
    with pytest.raises(BadUri, match="39 digits"):
        build_uri(sha1=SHA1[1:])
    with pytest.raises(BadUri, match="1001 characters"):
        build_uri(sha1=SHA1, label="x" * 1001)


@settings(max_examples=150, deadline=None)
@given(sha1=hashes, label=labels, manifest=st.none() | hashes)
def test_any_label_survives_the_way_through_a_uri(
    sha1: str, label: str, manifest: str | None
) -> None:
    text = build_uri(sha1=sha1, label=label, manifest=manifest)
    uri = parse_uri(text)
    assert (uri.hash, uri.label, uri.manifest) == (sha1, label, manifest)
    assert str(uri) == text
    assert text.isprintable() or not label.isprintable()


@settings(max_examples=100, deadline=None)
@given(label=labels.filter(lambda text: "/" not in text), path=labels)
def test_folder_and_feed_paths_survive_too(label: str, path: str) -> None:
    folder = KacheryUri("sha1dir", "sha1", SHA1, label, path=path)
    assert parse_uri(str(folder)) == folder
    feed = KacheryUri("feed", "ed25519", FEED, path=path)
    assert parse_uri(str(feed)) == feed
    assert str(feed).isascii()


@settings(max_examples=150, deadline=None)
@given(st.text() | labels.map(lambda tail: f"sha1://{SHA1}{tail}"))
def test_any_text_is_a_uri_or_a_bad_uri(text: str) -> None:
    try:
        uri = parse_uri(text)
    except BadUri:
        return
    assert parse_uri(str(uri)) == uri


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_the_end_of_the_line_that_it_was_read_from_does_not_count(end: str) -> None:
    uri = f"sha1://{'ab' * 20}/a.txt"
    assert parse_uri(uri + end) == parse_uri(uri)
    for wrong in (f"{end}{uri}", f"sha1://{'ab' * 20}/a{end}b"):
        with pytest.raises(BadUri):
            parse_uri(wrong)
