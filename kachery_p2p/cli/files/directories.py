"""Folders and standard input from the shell: what ``ls`` lists of them, and what ``store`` and
``load`` do for them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Awaitable, Callable

from kachery_p2p.cli.output import Output, columns, size_text
from kachery_p2p.client import sync
from kachery_p2p.client.display.progress import Progress
from kachery_p2p.client.files import stores
from kachery_p2p.client.folders import directories
from kachery_p2p.client.session import portal
from kachery_p2p.protocol.errors import BadInput, BadPath, NotFound
from kachery_p2p.protocol.uri import parse_uri


def store_standard_input(name: str | None, channel: str | None, progress: Progress) -> str:
    """Store all that comes on standard input; the URI. Raises BadPath: it is closed."""
    if sys.stdin is None:
        raise BadPath(path="standard input", reason="it is closed")
    store = functools.partial(
        stores.astore_stream, sys.stdin.fileno(), name, channel=channel, progress=progress
    )
    return portal.run(store, name="store_stream")


def folder_load(
    uri: str,
    dest: str | None,
    several: bool,
    channel: str | None,
    progress: Progress,
    force: bool,
) -> Callable[[], Awaitable[str | None]]:
    """What loads a folder. Raises BadInput: nobody said where to."""
    if dest is None:
        raise BadInput(what=uri, reason="it is a folder; say where to with --dest DIR")
    if several:
        parsed = parse_uri(uri)
        name = parsed.path.rstrip("/").rpartition("/")[2] or parsed.label.lstrip(".") or parsed.hash
        dest = os.path.join(dest, name)
    return functools.partial(
        directories.aload_dir, uri, dest, replace=force, channel=channel, progress=progress
    )


def list_folders(
    output: Output, uris: tuple[str, ...], recursive: bool, with_uris: bool, channel: str | None
) -> None:
    """What is in folders that were stored, or in one folder of them. Raises NotFound: nobody has the
    listing."""
    for uri in uris:
        entries = sync.list_dir(uri, recursive=recursive, channel=channel, progress=output.bar)
        if entries is None:
            raise NotFound(what=uri, detail="its listing is not here, and nobody reachable has it")
        rows = [
            (
                "?" if entry.size is None else size_text(entry.size),
                *((entry.uri,) if with_uris else ()),
                entry.name + ("/" if entry.is_dir else "*" if entry.executable else ""),
            )
            for entry in entries
        ]
        lines = columns(rows) if rows else []
        if len(uris) > 1:
            lines = [f"{uri}:", *(f"  {line}" for line in lines)]
        output.result({"uri": uri, "entries": [entry._asdict() for entry in entries]}, lines)
