"""``store``, ``link``, ``load``, ``cat`` and ``find``: files by content, from the shell.

``store`` and ``link`` print one line per file (with ``--json`` one JSON object per line), as soon as
that file is done: what was printed is stored, even if a later file fails.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from kachery_p2p.cli.output import Output, columns, pass_output, with_output, write
from kachery_p2p.cli.user_path import UserPath
from kachery_p2p.client import sync
from kachery_p2p.client.display.progress import ProgressFunction, Transfer
from kachery_p2p.local import places
from kachery_p2p.protocol.errors import BadInput, KacheryError, NotFound, from_wire
from kachery_p2p.protocol.limits import CAT_PIECE
from kachery_p2p.protocol.uri import parse_uri

_CHANNEL_HELP = "Only over this channel (name or id); default: all."


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--basename", help="Name in the URI; default: the file's own. For one PATH only.")
@click.option("--channel", help="Provide it on this channel only; default: on all.")
@with_output
@pass_output
def store(
    output: Output, paths: tuple[str, ...], basename: str | None, channel: str | None
) -> None:
    """Copy files into the storage and print their URIs.

    \b
    Example:
      kachery-p2p store results.csv
      uri=$(kachery-p2p store --channel lab big.dat)
    """
    _one_basename(basename, paths)
    with _all(output, "storing", paths) as moving:
        for path in paths:
            tell = _part_of(moving) if len(paths) > 1 else output.bar
            uri = sync.store_file(path, basename, channel=channel, progress=tell)
            output.result({"path": path, "uri": uri}, [uri])


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--basename", help="Name in the URI; default: the file's own. For one PATH only.")
@with_output
@pass_output
def link(output: Output, paths: tuple[str, ...], basename: str | None) -> None:
    """Make files available where they are, without copying them, and print their URIs.

    The files must stay as they are: a file that changes is no longer available under its URI.

    \b
    Example:
      kachery-p2p link /data/recording-*.dat
    """
    _one_basename(basename, paths)
    with _all(output, "linking", paths) as moving:
        for path in paths:
            tell = _part_of(moving) if len(paths) > 1 else output.bar
            uri = sync.link_file(path, basename, progress=tell)
            output.result({"path": path, "uri": uri}, [uri])


def _one_basename(basename: str | None, paths: tuple[str, ...]) -> None:
    if basename is not None and len(paths) > 1:
        raise BadInput(what="--basename", reason="it names one file, and there are several")


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # whoever reads the file will say what is the matter with it
        return 0


def _all(output: Output, what: str, paths: tuple[str, ...]) -> Transfer:
    """One bar for all of several files; one file has its own."""
    moving = Transfer(what, f"{len(paths)} files", output.bar, total=sum(map(_size, paths)))
    if len(paths) > 1:
        moving.begin()
    return moving


def _part_of(moving: Transfer) -> ProgressFunction:
    """What is told of one file, as a part of all of them."""
    before = moving.done
    return lambda info: moving.tell(before + info["done"])


@click.command()
@click.argument("uri")
@click.option("--dest", type=UserPath(), help="Copy it to this file, or into this folder.")
@click.option("--channel", help=_CHANNEL_HELP)
@with_output
@pass_output
def load(output: Output, uri: str, dest: str | None, channel: str | None) -> None:
    """Fetch a file and print its path, in the storage or at --dest.

    Do not write to a path in the storage. Exit status 8: nobody reachable has it.

    \b
    Example:
      kachery-p2p load sha1://9797.../data.csv --dest data.csv
      wc -l $(kachery-p2p load sha1://9797.../data.csv)
    """
    path = sync.load_file(uri, dest, channel=channel, progress=output.bar)
    if path is None:
        raise _not_found(uri)
    output.result({"path": path, "uri": uri}, [path])


@click.command()
@click.argument("uri")
@click.option("--start", type=click.IntRange(min=0), default=0, help="First byte; default: 0.")
@click.option("--end", type=click.IntRange(min=0), help="Byte after the last; default: the end.")
@click.option("--channel", help=_CHANNEL_HELP)
@with_output
@pass_output
def cat(output: Output, uri: str, start: int, end: int | None, channel: str | None) -> None:
    """Write a file's bytes, or a range of them, to standard output.

    If the URI has ?manifest=, only what is asked for travels. The bytes are raw with --json, too.

    \b
    Example:
      kachery-p2p cat sha1://9797.../data.csv | head
      kachery-p2p cat --start 1000 --end 2000 'sha1://9797.../big.dat?manifest=31ab...'
    """
    if end is not None and end < start:
        raise BadInput(what="byte range", reason=f"{start} to {end} is no range within a file")
    # On one terminal, the bar and the content would be drawn over one another.
    apart = sys.stdout is not None and not sys.stdout.isatty()
    total = None if end is None else end - start
    name = parse_uri(uri).label if "://" in uri else os.path.basename(uri)
    with Transfer("reading", name, output.bar and apart, total=total) as moving:
        moving.begin()
        while True:
            stop = start + CAT_PIECE if end is None else min(start + CAT_PIECE, end)
            data = sync.load_bytes(uri, start, stop, channel=channel, progress=False)
            if data is None:
                raise _not_found(uri)
            write(data)
            moving.tell(moving.done + len(data))
            if start + len(data) < stop or stop == end:
                return
            start = stop


@click.command()
@click.argument("uri")
@with_output
@pass_output
def find(output: Output, uri: str) -> None:
    """Say who has a file, without fetching it.

    Prints one line per place: 'here PATH', or 'direct' or 'relayed' with node, label and channel.
    Exit status 8: nobody reachable has it.

    \b
    Example:
      kachery-p2p find sha1://9797.../data.csv
    """
    found = sync.find_file(uri)
    lines = [] if found["local"] is None else [f"here  {found['local']}"]
    lines += columns(
        [
            (
                "direct" if holder["direct"] else "relayed",
                holder["node"],
                holder["label"] or "-",
                holder["channel"],
            )
            for holder in found["holders"]
        ]
    )
    output.result(found, lines)
    if not lines:
        raise _nobody(uri, found)


def _not_found(uri: str) -> KacheryError:
    """Why a load came back empty-handed."""
    folder = places.offline_dir()
    if folder is not None:
        return NotFound(what=uri, detail=f"offline mode: only {folder} was looked in")
    return _nobody(uri, sync.find_file(uri))


def _nobody(uri: str, found: dict[str, Any]) -> KacheryError:
    if found["code"]:
        # "Not found" would be wrong: somebody could not be asked, or refused.
        return from_wire(found["code"], found["fields"])
    return NotFound(what=uri, detail=found["detail"] or "nobody to ask")


COMMANDS: tuple[click.Command, ...] = (store, link, load, cat, find)
