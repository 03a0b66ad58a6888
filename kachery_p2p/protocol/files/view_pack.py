"""View packs: the files of a small web application in one file, which a share link opens.

    "kachery-view 1 " <bytes of the listing, in decimal> "\\n" <listing> <contents, as it is walked>

The listing is that of a folder (:mod:`.directory`), so each file in a pack has the SHA-1 by which it
is verified, and the same folder always makes the same pack. One file is one look-up and one pass: a
view of forty files opens as quickly as one of two, and its link stays short.

Invariants of what :func:`make_pack` returns: there is an ``index.html`` at the top, each content has
the size and the hash that the listing says, and all of it has at most ``MAX_VIEW`` bytes.

Non-goals: what is in the files. The page gives them to a frame that can reach nothing
(docs/decisions/026-views.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha1
from typing import Final

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.files.directory import Directory
from kachery_p2p.protocol.limits import MAX_VIEW

INDEX: Final = "index.html"
MAGIC: Final = b"kachery-view 1 "


def check_view(folder: Directory, what: str) -> None:
    """Raise BadInput if a folder is no view; ``what``: its URI or path."""
    entry = folder.files.get(INDEX)
    if entry is None:
        raise BadInput(what=what, reason=f"a view has an {INDEX} at the top of its folder")
    entries = [each for _, each in folder.walk()]
    if any(each.size is None or each.sha1 is None for each in entries):
        raise BadInput(what=what, reason="its listing lacks sizes or hashes; store the folder anew")
    size = sum(each.size or 0 for each in entries)
    if size > MAX_VIEW:
        reason = (
            f"its files have {size} bytes, and a view at most {MAX_VIEW}; "
            "data goes beside it, as the data of view_url()"
        )
        raise BadInput(what=what, reason=reason)


def make_pack(folder: Directory, contents: Mapping[str, bytes], what: str) -> bytes:
    """The pack of a folder; ``contents``: the bytes of each of its files, by the SHA-1 in hex.

    Raises:
        BadInput: the folder is no view, or too large for one.
    """
    check_view(folder, what)
    listing = folder.to_json()
    parts = [b"%s%d\n" % (MAGIC, len(listing)), listing]
    for path, entry in folder.walk():
        data = contents[entry.sha1 or ""]
        if len(data) != entry.size or sha1(data).hexdigest() != entry.sha1:
            raise BadInput(what=what, reason=f"{path!r} is not what its listing says")
        parts.append(data)
    return b"".join(parts)
