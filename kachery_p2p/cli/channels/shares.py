"""``share``: one link with which a colleague sees a file or a subfeed in a browser."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import click

from kachery_p2p.cli import completions
from kachery_p2p.cli.output import Output, columns, pass_output, with_output
from kachery_p2p.client import sync
from kachery_p2p.protocol.limits import PASS_SECONDS

from .commands import duration

_SHOWN_DIGITS: Final = 12
_Command = TypeVar("_Command", bound=Callable[..., Any])


def link_options(command: _Command) -> _Command:
    """What every command that makes a link takes."""
    for option in (
        click.option("--once", is_flag=True, help="For the first browser that opens it alone."),
        click.option(
            "--expires", metavar="7d", callback=duration, help="Good for so long; default: 7d."
        ),
        click.option(
            "--channel",
            metavar="CHANNEL",
            shell_complete=completions.channels,
            help="On which channel; default: the only one on which this node may share.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("uri", metavar="URI", required=False)
@link_options
@click.option("--list", "listed", is_flag=True, help="Print the links that are not over.")
@click.option("--revoke", metavar="ID|LINK", help="Make a link worthless, and cut off who uses it.")
@with_output
@pass_output
def share(
    output: Output,
    uri: str | None,
    channel: str | None,
    expires: float | None,
    once: bool,
    listed: bool,
    revoke: str | None,
) -> None:
    """Print a link that shows a file or a subfeed in any browser, with nothing installed.

    Who has the link sees what it is to and nothing else, so send it as you would the file. The page
    comes from the channel's proxy, which can read neither the link nor the content. This node must be
    that of the channel's owner, or be authorised by it ('channel authorise').

    \b
    Example:
      kachery-p2p share sha1://.../results.csv
      kachery-p2p share feed://.../temperature --channel lab --expires 30d
      kachery-p2p share --list
      kachery-p2p share --revoke 31ab5f0c22d1
    """
    if (uri is not None) + listed + (revoke is not None) != 1:
        raise click.UsageError("Give one of a URI, --list and --revoke ID.")
    if uri is not None:
        _make(output, uri, channel, PASS_SECONDS if expires is None else expires, once)
    elif revoke is not None:
        revoked = sync.revoke_share(revoke)
        output.result(revoked, [f"revoked {revoked['id'][:_SHOWN_DIGITS]}"])
    else:
        _list(output)


def _make(output: Output, uri: str, channel: str | None, seconds: float, once: bool) -> None:
    say_link(output, sync.share_info(uri, channel=channel, expires_in=seconds, once=once), once)


def say_link(output: Output, made: dict[str, Any], once: bool) -> None:
    """Print a link, and what whoever sends it should know."""
    output.result(made, [made["link"]])
    who = "the first browser that opens it" if once else "whoever has the link"
    output.note(f"For {who}, until {_time(made['expires_at'])}, on channel {made['channel']}.")
    if once:
        output.note("This node must be running when it is opened.")
    if not made["here"]:
        output.note("It is not on this computer: another member that has it must be connected.")
    output.note(f"To revoke it: kachery-p2p share --revoke {made['id'][:_SHOWN_DIGITS]}")


def _list(output: Output) -> None:
    made = sync.list_shares()
    rows = [
        (
            each["id"][:_SHOWN_DIGITS],
            each["state"],
            f"until {_time(each['expires_at'])}",
            _uses(each),
            each["channel"],
            each["uri"],
        )
        for each in made
    ]
    output.result(made, columns(rows))
    if not rows:
        output.note("This node has made none. See: kachery-p2p share --help")


def _uses(share: dict[str, Any]) -> str:
    return f"opened by {share['used']} of {share['uses']}" if share["uses"] else "for anybody"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%F %R}"
