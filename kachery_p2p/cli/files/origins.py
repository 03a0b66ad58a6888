"""``origins`` and ``archive``: storage elsewhere that the node stands for, from the shell."""

from __future__ import annotations

import time
from typing import Any

import click

from kachery_p2p.cli.output import (
    Output,
    Several,
    clean,
    pass_output,
    size_text,
    with_output,
)
from kachery_p2p.client import sync


@click.command()
@click.option("--refresh", is_flag=True, help="List what lies in them now, and wait for that.")
@with_output
@pass_output
def origins(output: Output, refresh: bool) -> None:
    """Say which origins and archives the node has, how they are, and what lies in them.

    'daemon set --origin URL --archive URL' changes them. What lies in one is listed once an hour.

    \b
    Example:
      kachery-p2p origins --refresh
    """
    for each in sync.list_origins(refresh=refresh):
        output.result(each, list(_lines(each)))


def _lines(origin: dict[str, Any]) -> list[str]:
    kind = "archive" if origin["archive"] else "origin"
    if origin["own"]:
        kind += ", own things may go once they are there"
    lines = [f"{clean(origin['url'])}  ({kind})"]
    if origin["error"]:
        lines.append(f"  {origin['state']}: {clean(origin['error'])}")
    if origin["listed"] is not None:
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(origin["listed"]))
        held = f"{origin['objects']} files, {size_text(origin['bytes'])}, listed {at}"
        lines.append(f"  {held}" + (", and being listed now" if origin["listing"] else ""))
    elif origin["listing"]:
        lines.append("  being listed for the first time")
    elif not origin["error"]:
        lines.append("  not listed yet")
    if origin["damaged"]:
        lines.append(f"  damaged, and not offered: {origin['damaged']}; the node's log names them")
    return lines


@click.command()
@click.argument("uris", metavar="URI...", nargs=-1)
@click.option("--pinned", is_flag=True, help="All that is pinned and here.")
@click.option("--to", metavar="URL", help="Which archive, if there are several.")
@with_output
@pass_output
def archive(output: Output, uris: tuple[str, ...], pinned: bool, to: str | None) -> None:
    """Put files into the node's archive: a directory, or a task's result, with all that it names.

    Each is read back before it counts. One that is broken off goes on when it is called again.

    \b
    Example:
      kachery-p2p archive sha1://9797.../data.csv
      kachery-p2p archive --pinned
    """
    if bool(uris) == pinned:
        raise click.UsageError("Say which URIs, or --pinned.")
    wanted: tuple[str | None, ...] = (None,) if pinned else uris
    with Several(output, len(wanted)) as several:
        for uri in wanted:
            with several.one():
                report = sync.archive(uri, to=to, progress=output.bar)
                output.result({"uri": uri, **report}, [])
                output.note(
                    f"archived {uri or 'what is pinned'} in {clean(report['archive'])}: "
                    f"{report['files']} put there, {size_text(report['bytes'])}; "
                    f"{report['already']} were there"
                )


COMMANDS: tuple[click.Command, ...] = (origins, archive)
