"""Files by content: the async API. The sync twins are in :mod:`.sync`.

A ``store_*`` returns a URI that names the content by its hash; any node of a common channel loads it
with that (:mod:`.stores`). A ``load_*`` looks in the local storage first, then asks the local
node, which fetches from the network (:mod:`.loads`). It returns None when everybody reachable
was asked and nobody has the content, and raises an error that says what else was the matter
otherwise.

Everywhere: ``basename`` is the label in the URI and no part of the content; ``channel`` (a name or
id) limits a store or a load to one channel; ``progress`` is as :mod:`.display.progress` says.
"""

from __future__ import annotations

from .loads import afind_file, aload_bytes, aload_file, aload_json, aload_npy, aload_pkl, aload_text
from .stores import (
    alink_file,
    astore_bytes,
    astore_file,
    astore_json,
    astore_npy,
    astore_pkl,
    astore_text,
)

__all__ = [
    "afind_file",
    "alink_file",
    "aload_bytes",
    "aload_file",
    "aload_json",
    "aload_npy",
    "aload_pkl",
    "aload_text",
    "astore_bytes",
    "astore_file",
    "astore_json",
    "astore_npy",
    "astore_pkl",
    "astore_text",
]
