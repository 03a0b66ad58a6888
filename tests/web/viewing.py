"""Links to views, made on the nodes of a :class:`Lab` as the client makes them."""

from __future__ import annotations

import json
from hashlib import sha1
from typing import Any

from kachery_p2p.protocol.files.directory import Directory, FileEntry
from kachery_p2p.protocol.files.view_pack import make_pack
from tests.node.harness import Lab


def pack_of(files: dict[str, bytes]) -> bytes:
    """The pack of a view, whose files are named by their paths."""
    top = Directory({}, {})
    for path, data in files.items():
        folder = top
        *above, name = path.split("/")
        for each in above:
            folder = folder.dirs.setdefault(each, Directory({}, {}))
        folder.files[name] = FileEntry(sha1(data).hexdigest(), len(data))
    return make_pack(top, {sha1(data).hexdigest(): data for data in files.values()}, "view")


async def view_link(
    lab: Lab,
    files: dict[str, str],
    data: Any = None,
    *,
    reads: tuple[str, ...] = (),
    appends: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
    pack: bytes | None = None,
    **options: Any,
) -> str:
    """A link of A's to a view with these files."""
    made = pack or pack_of({path: text.encode() for path, text in files.items()})
    hash, _ = await lab.store("A", made)
    contents = [{"uri": uri, "may_append": uri in appends} for uri in (*appends, *reads)]
    view = {
        "title": "Tuesday",
        "data": json.dumps(data).encode(),
        "contents": contents,
        "tasks": list(tasks),
    }
    link = await lab.call("A", "share.create", uri=f"sha1://{hash}/view", view=view, **options)
    return str(link["link"])
