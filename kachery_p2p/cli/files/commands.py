"""``store``, ``link``, ``load``, ``cat`` and ``find``: files and folders by content, from the shell.

Each prints one line per file (with ``--json`` one JSON object per line), as soon as that file is done:
what was printed is stored, or loaded, even if a later file fails. A file that cannot be is said, the
others are all the same, and the exit status is that of the first that could not.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from kachery_p2p.cli import completions
from kachery_p2p.cli.output import (
    Output,
    Several,
    columns,
    for_shell,
    pass_output,
    with_output,
    write,
)
from kachery_p2p.client import sync
from kachery_p2p.client.display.progress import ProgressFunction, Transfer
from kachery_p2p.client.files import finds, loads
from kachery_p2p.client.files.listings import leads_to_folder
from kachery_p2p.local import places
from kachery_p2p.protocol.errors import (
    BadInput,
    BadPath,
    KacheryError,
    NotFound,
    from_wire,
)
from kachery_p2p.protocol.limits import CAT_PIECE
from kachery_p2p.protocol.uri import parse_uri

from .directories import folder_load, store_standard_input
from .patience import Patience

_Piece = Callable[[int, int], bytes | None]
"""Bytes of one file, from the first to before the other."""

_TIMEOUT_HELP = "Seconds, of each file; default: as long as it comes."
_IGNORE_HELP = (
    "Leave out of folders what has such a name ('*.tmp', '.git'), or path from the top ('cache/*'); "
    "several times for several."
)
_CHANNEL_HELP = "Only over this channel (name or id); default: all."


@click.command()
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, shell_complete=completions.files
)
@click.option(
    "--basename", "--name", help="Name in the URI; default: the file's own. For one PATH only."
)
@click.option("--ignore", multiple=True, metavar="PATTERN", help=_IGNORE_HELP)
@click.option(
    "--channel",
    shell_complete=completions.channels,
    help="Provide it on this channel only; default: on all.",
)
@click.option(
    "--for", "keep_for", metavar="TIME", help="For so long, such as 30d; default: for good."
)
@click.option("--push", is_flag=True, help="Have it kept by another node too, as 'push' does.")
@with_output
@pass_output
def store(
    output: Output,
    paths: tuple[str, ...],
    basename: str | None,
    ignore: tuple[str, ...],
    channel: str | None,
    keep_for: str | None,
    push: bool,
) -> None:
    """Copy files and folders into the storage and print their URIs; with - standard input.

    On a terminal, a URI with ?manifest= is in quotes, as zsh needs them. A file that cannot be stored
    is named, the others are stored all the same, and the exit status says that there was one. A folder
    is stored with all that is in it; what a folder cannot hold, such as a symbolic link, is an error.

    \b
    Example:
      kachery-p2p store results.csv
      uri=$(kachery-p2p store --channel lab big.dat)
      kachery-p2p store --ignore .git --ignore '*.tmp' experiment/
      tar c . | kachery-p2p store - --name experiment.tar
    """
    _one_basename(basename, paths)
    with _all(output, "storing", paths) as moving, Several(output, len(paths)) as several:
        for path in paths:
            with several.one():
                tell = _part_of(moving) if len(paths) > 1 else output.bar
                if path == "-":
                    uri = store_standard_input(basename, channel, tell)
                elif os.path.isdir(path):
                    uri = sync.store_dir(
                        path, basename, ignore=ignore, channel=channel, progress=tell
                    )
                else:
                    uri = sync.store_file(
                        path, basename, channel=channel, keep_for=keep_for, progress=tell
                    )
                # It is stored: its URI is said, even if nobody keeps it.
                output.result({"path": path, "uri": uri}, [for_shell(uri)])
                if push:
                    sync.push(uri, channel=channel, keep_for=keep_for, progress=output.bar)


@click.command()
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, shell_complete=completions.files
)
@click.option("--basename", help="Name in the URI; default: the file's own. For one PATH only.")
@click.option("--ignore", multiple=True, metavar="PATTERN", help=_IGNORE_HELP)
@with_output
@pass_output
def link(
    output: Output, paths: tuple[str, ...], basename: str | None, ignore: tuple[str, ...]
) -> None:
    """Make files and folders available where they are, without copying them, and print their URIs.

    The files must stay as they are: a file that changes is no longer available under its URI.

    \b
    Example:
      kachery-p2p link /data/recording-*.dat
      kachery-p2p link /data/experiment/
    """
    _one_basename(basename, paths)
    with _all(output, "linking", paths) as moving, Several(output, len(paths)) as several:
        for path in paths:
            with several.one():
                tell = _part_of(moving) if len(paths) > 1 else output.bar
                if os.path.isdir(path):
                    uri = sync.store_dir(path, basename, ignore=ignore, link=True, progress=tell)
                else:
                    uri = sync.link_file(path, basename, progress=tell)
                output.result({"path": path, "uri": uri}, [for_shell(uri)])


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
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@click.option(
    "--dest",
    type=click.Path(),
    help="Copy it to this file, or into this folder; NAME/ is a folder, and is made if need be. "
    "Several go into a folder.",
)
@click.option("--force", is_flag=True, help="Replace whatever file is there.")
@click.option(
    "--no-clobber", is_flag=True, help="Replace no file, not even the one that --dest names."
)
@click.option("--channel", shell_complete=completions.channels, help=_CHANNEL_HELP)
@click.option("--timeout", type=click.FloatRange(min=0), help=_TIMEOUT_HELP)
@with_output
@pass_output
def load(
    output: Output,
    uris: tuple[str, ...],
    dest: str | None,
    force: bool,
    no_clobber: bool,
    channel: str | None,
    timeout: float | None,
) -> None:
    """Fetch files and folders and print their paths, in the storage or at --dest.

    Do not write to a path in the storage. A file that --dest names is replaced, and keeps its mode. In
    a folder the name is the URI's, and another file of that name is not replaced, unless you say
    --force. With - the URIs are the lines of standard input. Exit status 8: nobody reachable has it;
    of several, the others are loaded all the same.

    A folder needs --dest, which becomes the folder (of several, a folder of that name in it). Files
    that are right there already are left alone, so a load that was interrupted goes on.

    \b
    Example:
      kachery-p2p load sha1://9797.../data.csv --dest data.csv
      kachery-p2p load sha1dir://5ac1....experiment --dest experiment
      wc -l $(kachery-p2p load sha1://9797.../data.csv)
      kachery-p2p load --dest folder/ - < uris.txt
    """
    if force and no_clobber:
        raise BadInput(what="--force and --no-clobber", reason="they say the opposite; give one")
    if dest == "-":
        reason = "that is standard output, which 'cat' writes to; a file of that name is ./-"
        raise BadInput(what="--dest -", reason=reason)
    replace = True if force else False if no_clobber else None
    several = len(uris) > 1 or uris == ("-",)
    if several and dest is not None and not (os.path.isdir(dest) or dest.endswith(os.sep)):
        raise BadInput(what=f"--dest {dest}", reason="several files need a folder: end it with /")
    with Several(output, 2 if several else 1) as each:
        for uri in _named(uris):
            with each.one():
                patience = Patience(timeout, f"Loading {uri}", "load_file")
                if uri.lower().startswith("sha1dir:") and patience.run(
                    functools.partial(leads_to_folder, uri, channel)
                ):
                    load_one = folder_load(uri, dest, several, channel, output.bar, force)
                else:
                    load_one = functools.partial(
                        loads.aload_file,
                        uri,
                        dest,
                        channel=channel,
                        progress=output.bar,
                        replace=replace,
                    )
                path = patience.run(load_one)
                if path is None:
                    raise _not_found(uri)
                output.result({"path": path, "uri": uri}, [path])


def _named(uris: tuple[str, ...]) -> Iterator[str]:
    """What was named on the command line; for ``-``, each line of standard input as it comes."""
    for uri in uris:
        if uri != "-":
            yield uri
            continue
        if sys.stdin is None:
            raise BadPath(path="standard input", reason="it is closed")
        for line in sys.stdin:
            if line.strip():
                yield line.strip().strip("'")


@click.command()
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@click.option("--start", type=click.IntRange(min=0), default=0, help="First byte; default: 0.")
@click.option("--end", type=click.IntRange(min=0), help="Byte after the last; default: the end.")
@click.option("--channel", shell_complete=completions.channels, help=_CHANNEL_HELP)
@click.option("--timeout", type=click.FloatRange(min=0), help=_TIMEOUT_HELP)
@with_output
@pass_output
def cat(
    output: Output,
    uris: tuple[str, ...],
    start: int,
    end: int | None,
    channel: str | None,
    timeout: float | None,
) -> None:
    """Write the bytes of files, one after the other, or a range of one, to standard output.

    If the URI has ?manifest=, only what is asked for travels. The bytes are raw with --json, too.

    \b
    Example:
      kachery-p2p cat sha1://9797.../data.csv | head
      kachery-p2p cat --start 1000 --end 2000 'sha1://9797.../big.dat?manifest=31ab...'
    """
    if end is not None and end < start:
        raise BadInput(what="byte range", reason=f"{start} to {end} is no range within a file")
    if len(uris) > 1 and (start or end is not None):
        raise BadInput(
            what="--start and --end", reason="they are of one file, and there are several"
        )
    with Several(output, 2 if uris == ("-",) else len(uris)) as several:
        for uri in _named(uris):
            with several.one():
                _cat(output, uri, start, end, _pieces(uri, channel, timeout))


def _pieces(uri: str, channel: str | None, timeout: float | None) -> _Piece:
    patience = Patience(timeout, f"Reading {uri}", "load_bytes")
    return lambda first, stop: patience.run(
        lambda: loads.aload_bytes(uri, first, stop, channel=channel, progress=False)
    )


def _cat(output: Output, uri: str, start: int, end: int | None, piece: _Piece) -> None:
    # On one terminal, the bar and the content would be drawn over one another.
    apart = sys.stdout is not None and not sys.stdout.isatty()
    total = None if end is None else end - start
    name = parse_uri(uri).label if "://" in uri else os.path.basename(uri)
    first = start
    with Transfer("reading", name, output.bar and apart, total=total) as moving:
        moving.begin()
        while True:
            stop = start + CAT_PIECE if end is None else min(start + CAT_PIECE, end)
            data = piece(start, stop)
            if data is None:
                raise _not_found(uri)
            if not data and 0 < start == first < stop:
                _check_start(uri, start, piece)
            write(data)
            moving.tell(moving.done + len(data))
            if start + len(data) < stop or stop == end:
                return
            start = stop


def _check_start(uri: str, start: int, piece: _Piece) -> None:
    """Raise BadInput unless the file has a byte before this one, so that it ends here."""
    if not piece(start - 1, start):
        raise BadInput(what=uri, reason=f"it ends before byte {start}, where it was to start")


@click.command()
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@click.option("--timeout", type=click.FloatRange(min=0), help=_TIMEOUT_HELP)
@with_output
@pass_output
def find(output: Output, uris: tuple[str, ...], timeout: float | None) -> None:
    """Say who has files, without fetching them.

    Prints one line per place: 'here PATH', or 'direct' or 'relayed' with node, label and channel; of
    several files, each after its URI. Exit status 8: nobody reachable has it.

    \b
    Example:
      kachery-p2p find sha1://9797.../data.csv
    """
    missing: KacheryError | None = None
    for uri in _named(uris):
        patience = Patience(timeout, f"Looking for {uri}", "find_file")
        found = patience.run(functools.partial(finds.afind_file, uri))
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
        if len(uris) > 1 or uris == ("-",):
            output.result({"uri": uri, **found}, [uri, *(f"  {line}" for line in lines)])
        else:
            output.result(found, lines)
        if not lines and missing is None:
            missing = _nobody(uri, found)
    if missing is not None:
        raise missing


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
