"""Channel documents as text."""

from base64 import b64encode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.text_encoding import from_text, to_text
from kachery_p2p.protocol.errors import BadChannelDocument

SECRET = bytes(32)
TEXT = to_text("lab", b"document" * 40, SECRET)


def armoured(inside: object) -> str:
    data = b64encode(codec.pack(inside)).decode()
    return f"-----BEGIN KACHERY CHANNEL x-----\n{data}\n-----END KACHERY CHANNEL-----\n"


@example(name="-", data=b"", secret=None)
@example(name="lab-", data=b"x", secret=SECRET)
@settings(deadline=None, max_examples=60)
@given(
    name=st.text(max_size=100), data=st.binary(max_size=500), secret=st.sampled_from([None, SECRET])
)
def test_there_and_back_under_any_name(name: str, data: bytes, secret: bytes | None) -> None:
    text = to_text(name, data, secret)
    assert text.isascii()
    assert from_text(text) == (data, secret)


def test_the_text_looks_like_armour() -> None:
    first, *lines, last = TEXT.splitlines()
    assert first == "-----BEGIN KACHERY CHANNEL lab-----"
    assert last == "-----END KACHERY CHANNEL-----"
    assert {len(line) for line in lines[:-1]} == {64}


@pytest.mark.parametrize(
    "mangle",
    [
        lambda t: "\n\n  " + t + "  \n",
        lambda t: t.replace("\n", "\r\n"),
        lambda t: "".join(f"> {line}\n" for line in t.splitlines()),
        lambda t: "".join(f">> > {line}\r\n" for line in t.splitlines()),
        lambda t: "Dear all,\n\nhere it is:\n" + t + "--\nCheers\n",
        lambda t: "\n".join(f"    {line}  " for line in t.splitlines()),
        lambda t: t.replace("\n", "\n\n"),
        lambda t: t.rstrip(),
        lambda t: t.replace("lab-----\n", "lab-----"),
    ],
)
def test_what_mail_programs_do_is_tolerated(mangle: object) -> None:
    assert from_text(mangle(TEXT)) == (b"document" * 40, SECRET)  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        TEXT[:-40],
        TEXT[40:],
        TEXT.replace("BEGIN", "START"),
        TEXT.replace("\n", "\n!", 2),
        TEXT.replace("\n", "\né", 2),
        "\n".join(TEXT.splitlines()[:1] + TEXT.splitlines()[2:]),
        armoured([b"x"]),
        armoured([b"x", None, 1]),
        armoured([b"x", b"short"]),
        armoured(["x", None]),
        armoured({"signed": b"x"}),
    ],
)
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(BadChannelDocument):
        from_text(text)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60), st.text(max_size=200))
def test_arbitrary_text_gives_the_one_error_or_nothing_unexpected(name: str, inside: str) -> None:
    text = f"-----BEGIN KACHERY CHANNEL{name}-----{inside}-----END KACHERY CHANNEL-----"
    with pytest.raises(BadChannelDocument):
        from_text(text)


def test_the_length_is_limited_before_anything_is_searched() -> None:
    with pytest.raises(BadChannelDocument, match="longer than"):
        from_text(TEXT + "x" * 5_000_000)
