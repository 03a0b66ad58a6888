"""Kachery URIs: the names by which people pass content on.

The forms, the second column being what :class:`KacheryUri` makes of them::

    sha1://<40 hex>/<label>[?manifest=<40 hex>]      kind 'sha1': a file
    sha1://<40 hex>[.<extension>][/<label>]          the same; the extension is dropped
    sha1://<40 hex>/<label>?chunkOf=<40 hex>~<start>~<end>
                                                     a file that is a part of another one
    sha1dir://<40 hex>[.<label>][/<path>]            kind 'sha1dir': a file in a listed folder
    feed://<64 hex>[/<subfeed>]                      kind 'feed': a feed, or one subfeed of it

Invariants: every :class:`KacheryUri` that exists is valid and normalised (hashes in lower case),
and ``parse_uri(str(u)) == u``. Only the hash says what the content is; the label is for people.

Labels stay readable: only spaces, ``?``, ``#`` and control characters are percent-encoded, and a ``%``
where the decoder would otherwise take it for one of these; everything else that older users have in
theirs is left as it is. A raw space or ``#`` in an old label is accepted. The name of a
subfeed was always quoted as :func:`urllib.parse.quote` does it, and is so here.

Unknown query keys are ignored, as they always were; a known key with a bad value is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, cast
from urllib.parse import quote, unquote

from . import limits
from .errors import BadUri
from .json_values import one

Kind = Literal["sha1", "sha1dir", "feed"]

_ALGORITHMS: Final[dict[str, str]] = {"sha1": "sha1", "sha1dir": "sha1", "feed": "ed25519"}
_DIGITS: Final[dict[str, int]] = {"sha1": 40, "sha1dir": 40, "feed": 64}
_HEX: Final = frozenset("0123456789abcdef")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
# What the encoder below writes, and nothing else: so "%41" in an old label stays "%41".
_ENCODED: Final = re.compile(r"%(?:[01][0-9A-F]|7F|20|23|25|3F|C2%[89][0-9A-F])", re.IGNORECASE)
_TO_ENCODE: Final = re.compile(
    rf"[ ?#\x00-\x1f\x7f-\x9f]|%(?={_ENCODED.pattern[1:]})", re.IGNORECASE
)
_SHOWN_CHARS: Final = 200


class ChunkOf(NamedTuple):
    """Bytes ``start <= i < end`` of the file ``sha1``."""

    sha1: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class KacheryUri:
    """One URI, taken apart.

    Attributes:
        kind: 'sha1', 'sha1dir' or 'feed'.
        algorithm: 'sha1', or 'ed25519' for feeds, whose id is a public key.
        hash: lower-case hex digits, 40 of them (64 for feeds).
        label: the name for people, '' if there is none; at most ``limits.MAX_FILE_LABEL`` characters.
        manifest: sha1 of the file's manifest.
        chunk_of: what this file is a part of.
        path: the path inside a 'sha1dir', the subfeed of a 'feed', else ''.

    Raises:
        BadUri: the fields do not make a URI; the error says which and why.
    """

    kind: Kind
    algorithm: str
    hash: str
    label: str = ""
    manifest: str | None = None
    chunk_of: ChunkOf | None = None
    path: str = ""

    @property
    def filename(self) -> str:
        """The label, under the name that it had in kachery_client."""
        return self.label

    def emit_uri(self) -> str:
        """Its text, under the name that this had in kachery_client."""
        return str(self)

    def __post_init__(self) -> None:
        shown = f"{self.kind}://{self.hash}/{self.label}"
        if self.kind not in _DIGITS:
            raise _bad(shown, _unknown_scheme(str(self.kind)))
        if self.algorithm != _ALGORITHMS[self.kind]:
            raise _bad(shown, f"the algorithm of {self.kind}:// is not {self.algorithm!r}")
        noun = "feed id" if self.kind == "feed" else "hash"
        # The dataclass is frozen for everybody else; this is where its fields become normal.
        object.__setattr__(self, "hash", _hex(shown, noun, self.hash, _DIGITS[self.kind]))
        if self.manifest is not None:
            manifest = _hex(shown, "manifest", self.manifest, 40)
            object.__setattr__(self, "manifest", manifest)
        if self.chunk_of is not None:
            object.__setattr__(self, "chunk_of", _checked_chunk(shown, self.chunk_of))
        if self.kind == "feed" and (self.label or self.manifest or self.chunk_of):
            raise _bad(shown, "a feed has no label, manifest or chunkOf")
        if self.kind == "sha1" and self.path:
            raise _bad(shown, "only sha1dir:// and feed:// have a path")
        _check_text(shown, "label", self.label, limits.MAX_FILE_LABEL)
        if self.kind == "sha1dir" and "/" in self.label:
            raise _bad(shown, "the label of a sha1dir:// has no slash")
        _check_text(shown, "path", self.path, limits.MAX_URI)

    def __str__(self) -> str:
        label = _encode(self.label)
        path = quote(self.path) if self.kind == "feed" else _encode(self.path)
        text = f"{self.kind}://{self.hash}"
        if self.kind == "sha1dir" and label:
            text += f".{label}"
        tail = label if self.kind == "sha1" else path
        if tail:
            text += f"/{tail}"
        query = []
        if self.manifest is not None:
            query.append(f"manifest={self.manifest}")
        if self.chunk_of is not None:
            query.append("chunkOf={}~{}~{}".format(*self.chunk_of))
        return text + ("?" + "&".join(query) if query else "")


def parse_uri(uri: str) -> KacheryUri:
    """Take a URI apart. The line's end that it has when it was read from a file does not count.

    Raises:
        BadUri: it is none; ``error.fields['reason']`` says precisely why.
    """
    if not isinstance(uri, str):
        raise _bad(repr(uri), f"it is {one(uri)}, not a str")
    if len(uri) > limits.MAX_URI:
        raise _bad(uri, f"it has {len(uri)} characters, more than the {limits.MAX_URI} allowed")
    uri = uri.rstrip("\r\n")
    control = _CONTROL.search(uri)
    if control:
        raise _bad(uri, f"control character {control[0]!r} at position {control.start()}")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        raise _bad(uri, "it does not begin with 'sha1://', 'sha1dir://' or 'feed://'")
    kind = scheme.lower()
    if kind not in _DIGITS:
        raise _bad(uri, _unknown_scheme(scheme))
    location, _, query = rest.partition("?")
    host, _, tail = location.partition("/")
    digits, _, extension = host.partition(".")
    manifest, chunk_of = _parse_query(uri, query)
    label = {"sha1": tail, "sha1dir": extension}.get(kind, "")
    try:
        return KacheryUri(
            kind=cast(Kind, kind),
            algorithm=_ALGORITHMS[kind],
            hash=digits,
            label=_decode(label),
            manifest=manifest,
            chunk_of=chunk_of,
            path=_decode_path(uri, kind, tail),
        )
    except BadUri as error:
        raise _bad(uri, error.fields["reason"]) from None


def build_uri(
    uri_object: KacheryUri | None = None,
    *,
    sha1: str | None = None,
    label: str = "",
    manifest: str | None = None,
) -> str:
    """The text of a URI, from a :class:`KacheryUri` or from its parts.

    Args:
        uri_object: a parsed URI; then nothing else may be given.
        sha1: 40 hex digits.
        label: the name for people; characters that would end it are percent-encoded.
        manifest: 40 hex digits.

    Raises:
        BadUri: the parts make no URI.
    """
    if uri_object is not None:
        if sha1 is not None or label or manifest is not None:
            raise _bad(str(uri_object), "give either a KacheryUri or its parts, not both")
        if not isinstance(uri_object, KacheryUri):
            raise _bad(repr(uri_object), f"it is {one(uri_object)}, not a KacheryUri")
        return str(uri_object)
    if sha1 is None:
        raise _bad(f"sha1://?/{label}", "neither a KacheryUri nor sha1= was given")
    return str(KacheryUri(kind="sha1", algorithm="sha1", hash=sha1, label=label, manifest=manifest))


def _bad(uri: str, reason: str) -> BadUri:
    shown = uri if len(uri) <= _SHOWN_CHARS else uri[:_SHOWN_CHARS] + "..."
    return BadUri(uri=shown, reason=reason)


def _unknown_scheme(scheme: str) -> str:
    return f"unknown scheme {scheme[:40]!r}; known are sha1, sha1dir and feed"


def _hex(uri: str, noun: str, value: str, wanted: int) -> str:
    """``value`` in lower case, if it is ``wanted`` hex digits."""
    if not isinstance(value, str):
        raise _bad(uri, f"the {noun} is {one(value)}, not a str")
    # Not str.lower() first: that would turn a few non-ASCII letters into ASCII ones.
    for position, digit in enumerate(value):
        if digit not in _HEX and not (digit.isascii() and digit.lower() in _HEX):
            raise _bad(uri, f"the {noun} has {digit!r} at position {position}, no hex digit")
    if len(value) != wanted:
        raise _bad(uri, f"the {noun} has {len(value)} digits, it needs {wanted}")
    return value.lower()


def _check_text(uri: str, noun: str, text: str, most: int) -> None:
    if not isinstance(text, str):
        raise _bad(uri, f"the {noun} is {one(text)}, not a str")
    if len(text) > most:
        raise _bad(uri, f"the {noun} has {len(text)} characters, more than the {most} allowed")
    surrogate = _SURROGATE.search(text)
    if surrogate:
        at = surrogate.start()
        raise _bad(uri, f"the {noun} is not valid text: {surrogate[0]!r} at position {at}")


def _checked_chunk(uri: str, chunk: ChunkOf) -> ChunkOf:
    sha1, start, end = chunk
    if not 0 <= start < end <= limits.MAX_FILE:
        raise _bad(uri, f"chunkOf says bytes {start} to {end}, which is no range")
    return ChunkOf(_hex(uri, "chunkOf", sha1, 40), start, end)


def _parse_query(uri: str, query: str) -> tuple[str | None, ChunkOf | None]:
    found: dict[str, str] = {}
    for item in query.split("&"):
        key, _, value = item.partition("=")
        if key in found:
            raise _bad(uri, f"it says {key}= twice")
        if key in ("manifest", "chunkOf"):
            found[key] = value
    chunk = found.get("chunkOf")
    return found.get("manifest"), None if chunk is None else _parse_chunk(uri, chunk)


def _parse_chunk(uri: str, text: str) -> ChunkOf:
    match = re.fullmatch(r"([^~]*)~([0-9]{1,19})~([0-9]{1,19})", text)
    if match is None:
        raise _bad(uri, "chunkOf is not <40 hex digits>~<start>~<end>")
    return ChunkOf(match[1], int(match[2]), int(match[3]))


def _decode_path(uri: str, kind: str, tail: str) -> str:
    if kind == "feed":
        try:
            return unquote(tail, errors="strict")
        except UnicodeDecodeError:
            raise _bad(uri, "what is percent-encoded in it is not UTF-8") from None
    return "" if kind == "sha1" else _decode(tail)


def _encode(text: str) -> str:
    return _TO_ENCODE.sub(lambda m: "".join(f"%{byte:02X}" for byte in m[0].encode()), text)


def _decode(text: str) -> str:
    return _ENCODED.sub(lambda m: bytes.fromhex(m[0].replace("%", "")).decode(), text)
