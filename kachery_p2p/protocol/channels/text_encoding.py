"""Channel documents as text: what ``channel export`` prints and people paste into mails.

ASCII armour, in the manner of PGP and PEM: a line that begins, base64 in lines of 64, a line that
ends. The name in the first line is for people and is ignored on the way back. Inside is the pair
(signed document, secret or nothing); the secret is there for open channels only, whose unlisted
nodes could not get it otherwise.

Reading tolerates what mail programs do: text before and after, quoting, blanks, CRLF, rewrapping.
It verifies nothing: the bytes go through channel.parse.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from textwrap import wrap
from typing import Annotated, Final

from msgspec import Meta, Struct

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.document import SECRET_BYTES
from kachery_p2p.protocol.errors import BadChannelDocument, ProtocolViolation
from kachery_p2p.protocol.limits import MAX_CHANNEL_DOCUMENT

_BEGIN: Final = "-----BEGIN KACHERY CHANNEL"
_END: Final = "-----END KACHERY CHANNEL"
_DASHES: Final = "-----"
_LINE: Final = 64
_MAX_TEXT: Final = 4 * MAX_CHANNEL_DOCUMENT
"""Characters: base64 adds a third, quoting and chatter the rest."""

_QUOTING: Final = re.compile(r"[\s>]+")


class _Inside(Struct, array_like=True, forbid_unknown_fields=True):
    signed: bytes
    secret: Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)] | None


def to_text(name: str, signed: bytes, secret: bytes | None) -> str:
    """Armoured text, ending with a newline."""
    # Non-ASCII letters, and dashes that would look like the end of the line, are only for the eye.
    shown = re.sub(r"-{2,}", "-", name.encode("ascii", "replace").decode()).strip("-")
    lines = wrap(b64encode(codec.pack([signed, secret])).decode(), _LINE)
    return "\n".join([f"{_BEGIN} {shown}{_DASHES}", *lines, f"{_END}{_DASHES}", ""])


def from_text(text: str) -> tuple[bytes, bytes | None]:
    """The signed document and the secret that may be with it, out of armoured text.

    Raises:
        BadChannelDocument: there is no armour, or what is inside is damaged.
    """
    if len(text) > _MAX_TEXT:
        raise BadChannelDocument(reason=f"longer than {_MAX_TEXT} characters")
    _, begin, rest = text.partition(_BEGIN)
    _, dashes, rest = rest.partition(_DASHES)
    inside, end, _ = rest.partition(_END)
    if not (begin and dashes and end):
        raise BadChannelDocument(reason=f"no text between '{_BEGIN} ...' and '{_END}{_DASHES}'")
    try:
        data = b64decode(_QUOTING.sub("", inside), validate=True)
        content = codec.decode(_Inside, data)
    except (binascii.Error, ValueError) as error:
        raise BadChannelDocument(reason=f"the text is damaged: {error}") from error
    except ProtocolViolation as error:
        reason = f"the text is damaged: {error.fields['reason']}"
        raise BadChannelDocument(reason=reason) from error
    return content.signed, content.secret
