"""``ls``, ``du``, ``rm``, ``unshare``, ``pin``, ``unpin``, ``gc`` and ``verify``: what the storage
holds, from the shell.

``ls`` prints each line as it comes, so its columns have widths of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import click

from kachery_p2p.cli import completions
from kachery_p2p.cli.output import (
    Output,
    Several,
    Shown,
    clean,
    for_shell,
    pass_output,
    size_text,
    with_output,
)
from kachery_p2p.client import sync
from kachery_p2p.client.files.keeping import Sort, Which, list_files
from kachery_p2p.protocol.errors import StorageDamaged
from kachery_p2p.protocol.uri import parse_uri

from .directories import list_folders

_KINDS: Final = {
    ("file", "stored"): "stored here",
    ("file", "found"): "found in the folder",
    ("file", "fetched"): "fetched",
    ("file", "archived"): "here, and archived",
    ("link", "stored"): "linked",
    ("link", "found"): "linked",
    ("link", "fetched"): "linked",
    ("link", "archived"): "linked",
    ("partial", ""): "downloads in progress",
    ("manifest", ""): "manifests",
    ("damaged", ""): "damaged copies",
}


_NAME_WIDTH: Final = max(map(len, _KINDS.values())) + 2
_SHOWN_FINDINGS: Final = 10
"""Hashes of each kind that are named, so that all stands on one screen."""


def _which(name: Which, text: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}", "which", flag_value=name, help=text)


@click.command()
@click.argument("what", metavar="[PATTERN | URI...]", nargs=-1)
@click.option("--long", is_flag=True, help="When stored and last used, where from, what pins it.")
@click.option(
    "--sort", type=click.Choice(["size", "used", "stored"]), help="Largest, latest first."
)
@_which("mine", "Stored here, linked, or found in the folder.")
@_which("fetched", "Fetched from other nodes.")
@_which("linked", "Linked from where they are.")
@_which("pinned", "Pinned.")
@_which("partial", "Downloads in progress.")
@_which("archived", "What this node put into archives, here or not.")
@click.option("-R", "--recursive", is_flag=True, help="Of a folder: all files, by their paths.")
@click.option("--uris", "with_uris", is_flag=True, help="Of a folder: the URI of each file, too.")
@click.option(
    "--channel",
    shell_complete=completions.channels,
    help="Of a folder: only over this channel (name or id); default: all.",
)
@with_output
@pass_output
def ls(
    output: Output,
    what: tuple[str, ...],
    long: bool,
    sort: Sort | None,
    which: Which | None,
    recursive: bool,
    with_uris: bool,
    channel: str | None,
) -> None:
    """List what is in the storage, or what fits PATTERN; of a folder's URI, what is in it.

    Prints size, where it came from, and the URI; of a folder, size and name of each entry, a folder's
    with / and that of a program with * at its end, without fetching the files. With --json one JSON
    object per line. Exit status 8: nobody reachable has the listing.

    \b
    Example:
      kachery-p2p ls
      kachery-p2p ls --sort size --fetched
      kachery-p2p ls --long '*.dat'
      kachery-p2p ls -R sha1dir://5ac1....experiment/raw
    """
    folders = tuple(each for each in what if each.lower().startswith("sha1dir:"))
    if folders and folders == what:
        list_folders(output, folders, recursive, with_uris, channel)
        return
    if recursive or with_uris or channel is not None:
        raise click.UsageError(
            "-R, --uris and --channel are for the URIs of folders (sha1dir://...)."
        )
    if len(what) > 1:
        raise click.UsageError("One pattern at a time, in quotes, or the URIs of folders.")
    pattern = what[0] if what else ""
    if "://" in pattern:
        pattern = parse_uri(pattern).hash
    elif pattern and not any(sign in pattern for sign in "*?["):
        pattern = f"*{pattern}*"
    for record in list_files(pattern, which=which or "", sort=sort or ""):
        output.result(record, [_line(record, long)])


def _line(record: dict[str, Any], long: bool) -> str:
    line = f"{size_text(record['size']):>9}  {record['source']:<7}  {for_shell(record['uri'])}"
    if record["kind"] in ("partial", "damaged"):
        line += f"  {record['kind']}, {size_text(record['held'])} here"
    if record["kind"] == "archived":
        line += "  not here"
    if long:
        line = f"{_when(record['stored'])}  {_when(record['used'])}  {line}"
        told = [*_from(record), *(_pin(pin) for pin in record["pins"])]
        if record["until"] is not None:
            told.append(f"until {_when(record['until'])}")
        if told:
            line += f"  {clean('; '.join(told))}"
    return line


def _from(record: dict[str, Any]) -> list[str]:
    if record.get("archive"):
        return [f"in {record['archive']}"]
    if record["kind"] == "link":
        return [f"from {record['path']}"]
    if record["source"] != "fetched" or not record["node"]:
        return []
    where = record["node_label"] or record["node"][:8]
    return [f"on {record['channel']} from {where}" if record["channel"] else f"from {where}"]


def _pin(pin: dict[str, Any]) -> str:
    name = f"pinned: {pin['name']}" if pin["name"] else "pinned"
    return name if pin["until"] is None else f"{name} until {_when(pin['until'])}"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


@click.command()
@with_output
@pass_output
def du(output: Output) -> None:
    """Say what takes the room of the storage.

    \b
    Example:
      kachery-p2p du
    """
    usage = sync.storage_usage()
    rows: dict[str, tuple[int, int]] = {}
    for each in usage["kinds"]:
        name = _KINDS.get((each["kind"], each["source"])) or _KINDS[each["kind"], ""]
        for title, size, count in (
            (name, each["bytes"], 0 if each["kind"] == "damaged" else each["count"]),
            ("damaged copies", each["aside"], 0),
        ):
            before = rows.get(title, (0, 0))
            rows[title] = before[0] + size, before[1] + count
    lines = [
        f"{size_text(size):>9}  {name:<{_NAME_WIDTH}}{count or ''}".rstrip()
        for name, (size, count) in rows.items()
        if size or count
    ]
    total = f"of {size_text(usage['limit'])} at most" if usage["limit"] else "without a limit"
    lines.append(f"{size_text(usage['used']):>9}  in all, {total}")
    lines.append(f"{size_text(usage['free']):>9}  free on the disk")
    if archived := usage["archived"]["count"]:
        size = size_text(usage["archived"]["bytes"])
        lines.append(f"{size:>9}  {'in archives':<{_NAME_WIDTH}}{archived}")
    if not usage["complete"]:
        output.note("The folder is still being read for the first time: there may be more.")
    output.result(usage, lines)


@click.command()
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also what is pinned, or the last copy.")
@click.option(
    "--copies",
    default=1,
    show_default=True,
    help="What was stored here goes if so many other nodes show that they have it; 0: ask nobody.",
)
@with_output
@pass_output
def rm(output: Output, uris: tuple[str, ...], force: bool, copies: int) -> None:
    """Delete files from the storage.

    Other nodes are told at once, and who is reading a file reads on to its end. Of a linked file only
    the link goes. Of a folder its list goes, and the files stay: others may have them, too. Before
    something goes that was stored here, the other nodes and the archives are asked: one of them must
    have it, and it must stay there.

    \b
    Example:
      kachery-p2p rm sha1://9797.../data.csv
    """
    with Several(output, len(uris)) as several:
        for uri in uris:
            with several.one():
                freed = sync.delete_file(uri, force=force, copies=copies)
                output.result({"uri": uri, "freed": freed}, [])
                stay = "; the files in it stay" if uri.startswith("sha1dir://") else ""
                output.note(f"deleted {uri}: {size_text(freed)} free{stay}")


@click.command()
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@click.option(
    "--channel", required=True, shell_complete=completions.channels, help="Its name or id."
)
@with_output
@pass_output
def unshare(output: Output, uris: tuple[str, ...], channel: str) -> None:
    """Keep files, and give them to nobody on a channel any more.

    Who has them already keeps them. Storing a file for the channel anew shares it again.

    \b
    Example:
      kachery-p2p unshare sha1://9797.../data.csv --channel lab
    """
    with Several(output, len(uris)) as several:
        for uri in uris:
            with several.one():
                sync.unshare_file(uri, channel)
                output.result({"uri": uri, "channel": channel}, [])


@click.command()
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@click.option("--name", default="", help="Why, for listings.")
@click.option(
    "--for", "keep_for", metavar="TIME", help="For so long, such as 30d; default: for good."
)
@with_output
@pass_output
def pin(output: Output, uris: tuple[str, ...], name: str, keep_for: str | None) -> None:
    """Pin files, so that they never go to make room; what is not here is fetched.

    A directory, or a task's result, is pinned with all that it names.

    \b
    Example:
      kachery-p2p pin sha1://9797.../data.csv --name paper
      kachery-p2p pin sha1dir://31ab... --for 30d
    """
    with Several(output, len(uris)) as several:
        for uri in uris:
            with several.one():
                answer = sync.pin(uri, name, keep_for=keep_for)
                output.result({"uri": uri, **answer}, [])
                if answer["pinned"] > 1:
                    output.note(f"pinned {uri} and {answer['pinned'] - 1} that belong to it")


@click.command()
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@click.option("--name", help="Only the pin of that name.")
@with_output
@pass_output
def unpin(output: Output, uris: tuple[str, ...], name: str | None) -> None:
    """End the pins of files, and of what was pinned with them.

    \b
    Example:
      kachery-p2p unpin sha1://9797.../data.csv
    """
    with Several(output, len(uris)) as several:
        for uri in uris:
            with several.one():
                ended = sync.unpin(uri, name)
                output.result({"uri": uri, "ended": ended}, [])


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--to", metavar="SIZE", help="Until so much is used, such as 300G; default: the limit."
)
@with_output
@pass_output
def gc(output: Output, dry_run: bool, to: str | None) -> None:
    """Make room: let go what was fetched and is not pinned, least recently used first.

    Never goes what was stored here, linked, pinned or is in use.

    \b
    Example:
      kachery-p2p gc --dry-run --to 300G
      kachery-p2p gc --to 300G
    """
    answer = sync.collect_garbage(to, dry_run=dry_run)
    output.result(answer, [_line(record, False) for record in answer["files"]])
    verb = "would go" if dry_run else "went"
    files = "file" if answer["count"] == 1 else "files"
    output.note(f"{answer['count']} {files} {verb}, {size_text(answer['freed'])}.")


@click.command()
@click.option("--rate", metavar="SIZE", help="Bytes a second, such as 50M; default: all it can.")
@click.option(
    "--again", is_flag=True, help="From the beginning, not from where one was broken off."
)
@with_output
@pass_output
def verify(output: Output, rate: str | None, again: bool) -> None:
    """Compare all that is stored with its hashes, and say whether the storage is whole.

    What is damaged is put aside, offered to nobody any more, and fetched anew if another node has it. A
    node does this by itself once a month. Exit status 4: something is lost, or cannot be read.

    \b
    Example:
      kachery-p2p verify --rate 50M
    """
    report = sync.verify(rate, again=again, progress=output.bar)
    output.result(report, list(_verified(report)))
    if report["lost"] or report["unreadable"]:
        raise Shown(StorageDamaged.exit_status)


def _verified(report: dict[str, Any]) -> Iterator[str]:
    yield (
        f"compared: files {report['files']}, links {report['links']}, {size_text(report['bytes'])}; "
        f"downloads in progress: {report['partials']}"
    )
    for told, count in (
        ("put into the folder by others, and known from now on", report["unknown"]),
        ("taken out of the folder by others", report["vanished"]),
        ("linked, and changed or gone since: not served any more", len(report["stale"])),
        ("damaged, and fetched anew", len(report["restored"])),
        ("damaged, and nobody reachable has it: store it anew", len(report["lost"])),
        ("not to be read: is the disk at fault?", len(report["unreadable"])),
    ):
        if count:
            yield f"{told}: {count}"
    for name in ("stale", "lost", "unreadable"):
        for sha1 in report[name][:_SHOWN_FINDINGS]:
            yield f"  {name:<10}  sha1://{sha1}"
    whole = not (report["lost"] or report["unreadable"] or report["stale"])
    yield "The storage is whole." if whole else "The storage is not whole."


COMMANDS: tuple[click.Command, ...] = (ls, du, rm, unshare, pin, unpin, gc, verify)
