"""``push`` and ``kept``: having things kept by other nodes, and keeping for them, from the shell."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from kachery_p2p.cli import completions
from kachery_p2p.cli.output import (
    Output,
    Several,
    clean,
    columns,
    pass_output,
    size_text,
    with_output,
)
from kachery_p2p.client import sync


@click.command()
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@click.option(
    "--to", metavar="NODE", shell_complete=completions.everybody, help="One keeper: id or label."
)
@click.option("--copies", default=1, show_default=True, help="By so many keepers.")
@click.option(
    "--for", "keep_for", metavar="TIME", help="For so long, such as 30d; default: for good."
)
@click.option("--channel", shell_complete=completions.channels, help="On this channel alone.")
@with_output
@pass_output
def push(
    output: Output,
    uris: tuple[str, ...],
    to: str | None,
    copies: int,
    keep_for: str | None,
    channel: str | None,
) -> None:
    """Have files, folders and feeds kept by other nodes, so that this computer may be turned off.

    Returns when all of it is on the keepers' disks, and compared with its hashes. A folder is pushed
    with all that is in it. A feed is followed by its keepers from then on, and served by them.

    \b
    Example:
      kachery-p2p push sha1://9797.../data.csv
      kachery-p2p push --copies 2 --for 90d sha1dir://31ab...
    """
    with Several(output, len(uris)) as several:
        for uri in uris:
            with several.one():
                answer = sync.push(
                    uri, to=to, copies=copies, keep_for=keep_for, channel=channel,
                    progress=output.bar,
                )  # fmt: skip
                lines = [f"kept by {_keeper(each)}" for each in answer["kept"]]
                output.result({"uri": uri, **answer}, lines)


def _keeper(each: dict[str, Any]) -> str:
    name = clean(each["label"]) or each["node"][:8]
    return f"{name} on channel {clean(each['channel'])}, {_until(each['until'])}"


@click.group()
def kept() -> None:
    """What this node keeps for others, and others for this node.

    \b
    Example:
      kachery-p2p channel set lab --keep-for all --keep-limit 2T    # on the keeper
      kachery-p2p push sha1://9797.../data.csv                      # on another node
      kachery-p2p kept list                                         # on either
    """


@kept.command("list")
@with_output
@pass_output
def list_(output: Output) -> None:
    """Print what is kept for others here, and for this node elsewhere.

    \b
    Example:
      kachery-p2p kept list
    """
    found = sync.list_kept()
    output.result(found, [*_table("here, for", found["here"]), *_table("at", found["elsewhere"])])
    if not found["here"] and not found["elsewhere"]:
        output.note("Nothing is kept here for others, and nothing for this node elsewhere.")


def _table(where: str, records: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        (
            size_text(each["size"]),
            f"{where} {_other(each)}",
            _until(each["until"]),
            _state(each),
            each["uri"],
        )
        for each in records
    ]
    yield from columns(rows)


def _other(each: dict[str, Any]) -> str:
    side = "keeper" if "keeper" in each else "node"
    return clean(each[f"{side}_label"]) or each[side][:8]


def _state(each: dict[str, Any]) -> str:
    if "confirmed" in each:
        told = {True: "", False: "the keeper has it no longer", None: "the keeper is offline"}
        return told[each["confirmed"]]
    if not each["member"]:
        return "of no member any more"
    return "" if each["whole"] else "not whole"


def _until(until: float | None) -> str:
    return "for good" if until is None else f"until {datetime.fromtimestamp(until, UTC):%F %R} UTC"


@kept.command()
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@click.option(
    "--at", metavar="NODE", shell_complete=completions.everybody, help="By this keeper alone."
)
@with_output
@pass_output
def drop(output: Output, uris: tuple[str, ...], at: str | None) -> None:
    """Have something that was pushed kept no longer.

    \b
    Example:
      kachery-p2p kept drop sha1://9797.../data.csv
    """
    with Several(output, len(uris)) as several:
        for uri in uris:
            with several.one():
                output.result({"uri": uri, "dropped": sync.drop_kept(uri, at=at)}, [])


@kept.command()
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@click.option(
    "--node", metavar="NODE", shell_complete=completions.everybody, help="For this one alone."
)
@with_output
@pass_output
def release(output: Output, uris: tuple[str, ...], node: str | None) -> None:
    """On a keeper: keep something for others no longer. What came only for that is deleted.

    \b
    Example:
      kachery-p2p kept release sha1://9797.../data.csv --node alice
    """
    with Several(output, len(uris)) as several:
        for uri in uris:
            with several.one():
                output.result({"uri": uri, "dropped": sync.release_kept(uri, node=node)}, [])


@kept.command()
@click.option("--channel", shell_complete=completions.channels, help="On this channel alone.")
@with_output
@pass_output
def keepers(output: Output, channel: str | None) -> None:
    """Print who keeps things for this node and can be reached.

    \b
    Example:
      kachery-p2p kept keepers
    """
    found = sync.get_keepers(channel)
    rows = [(each["node"], clean(each["label"]) or "-", clean(each["channel"])) for each in found]
    output.result(found, columns(rows))


COMMANDS: tuple[click.Command, ...] = (push, kept)
