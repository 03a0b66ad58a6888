"""``feed show`` and ``feed list``: what a feed holds, who has it, and whether it can be trusted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from kachery_p2p.cli import completions
from kachery_p2p.cli.output import Output, clean, columns, pass_output, with_output
from kachery_p2p.client import sync

from .targets import FEED, SUBFEED, open_target


@click.command()
@click.argument("target", metavar=f"{FEED}|{SUBFEED}", shell_complete=completions.feeds)
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to ask others for: 10.")
@click.option(
    "--channel",
    shell_complete=completions.channels,
    help="Only over this channel (name or id); default: all.",
)
@with_output
@pass_output
def show(output: Output, target: str, timeout: float | None, channel: str | None) -> None:
    """Print what a feed, or one subfeed, holds, which nodes have it, and whether it is forked.

    \b
    Example:
      kachery-p2p feed show myfeed
      kachery-p2p feed show feed://31ab.../primes --json
    """
    opened, name = open_target(target, timeout=timeout, channel=channel)
    shown = opened.show(name)
    output.result(shown, describe(shown))


@click.command("list")
@with_output
@pass_output
def list_(output: Output) -> None:
    """Print the feeds that this node has: its own ones, and those that it reads.

    \b
    Example:
      kachery-p2p feed list
    """
    feeds = sync.list_feeds()
    rows = []
    for each in feeds:
        forks = sum(subfeed["forked"] for subfeed in each["subfeeds"])
        key = "key here" if each["writeable"] else "read-only"
        subfeeds = count_text(len(each["subfeeds"]), "subfeed")
        messages = count_text(sum(s["size"] - s["base"] for s in each["subfeeds"]), "message")
        state = f"FORKED ({count_text(forks, 'subfeed')})" if forks else ""
        rows.append((each["name"] or "-", each["uri"], key, subfeeds, messages, state))
    output.result(feeds, columns(rows))
    if not rows:
        output.note("This node has no feeds. See: kachery-p2p feed create --help")


def describe(shown: dict[str, Any]) -> list[str]:
    """A feed on several lines: what it is, then each subfeed, then each holder, then the fork."""
    lines = [f"uri        {clean(shown['uri'])}"]
    if shown["snapshot"]:
        lines.append("kind       snapshot: it never changes")
    else:
        key = (
            "on this node, which appends" if shown["writeable"] else "not on this node, which reads"
        )
        lines += [f"name       {clean(shown['name'] or '-')}", f"key        {key}"]
        if shown["created"] is not None:
            lines.append(f"created    {_time(shown['created'])}")
        lines.append(f"followers  {count_text(shown['followers'], 'node')} now")
    subfeeds = [_subfeed(each) for each in shown["subfeeds"]]
    lines += [f"subfeed    {line}" for line in columns(subfeeds)] or ["subfeed    none known here"]
    holders = [_holder(each) for each in shown["holders"]]
    lines += [f"holder     {line}" for line in columns(holders)]
    if shown["detail"]:
        lines.append(f"asked      {clean(shown['detail'])}")
    return lines + _fork(shown)


def _subfeed(each: dict[str, Any]) -> tuple[str, ...]:
    size, base = each["size"], each["base"]
    here = "none here" if size == base else f"from {base} on here" if base else "all here"
    newest = "" if each["timestamp"] is None else f"newest {_time(each['timestamp'] / 1000)}"
    name = each["name"] or f"~{each['hash']}"
    channels = "on " + ", ".join(each["channels"]) if each["channels"] else ""
    messages = count_text(size, "message")
    return (
        name,
        messages,
        here if size else "",
        newest,
        channels,
        "FORKED" if each["forked"] else "",
    )


def _holder(each: dict[str, Any]) -> tuple[str, ...]:
    size = "size unknown" if each["size"] is None else count_text(each["size"], "message")
    owner = "owner" if each["owner"] else "mirror"
    return each["node"], each["label"] or "-", owner, size, each["route"]


def _fork(shown: dict[str, Any]) -> list[str]:
    fork, decision = shown["fork"], shown["decision"]
    decided = []
    if decision is not None:
        messages = count_text(decision["size"], "message")
        decided = [
            f"decision   the owner decided for the history with {messages} and root "
            f"{clean(decision['root'])}, {_time(decision['timestamp'] / 1000)}"
        ]
    if fork is None:
        forked = [clean(each["uri"]) for each in shown["subfeeds"] if each["forked"]]
        return decided + [f"fork       see 'kachery-p2p feed show {uri}'" for uri in forked]
    heads = [
        f"fork       {which}: {count_text(head['size'], 'message')} with root "
        f"{clean(head['root'])}, signed {_time(head['timestamp'] / 1000)}"
        for which, head in (("first history ", fork["first"]), ("second history", fork["second"]))
    ]
    return [
        *decided,
        "fork       FORKED: the owner's key signed two histories that exclude one another;",
        *heads,
        "fork       nothing more is accepted until the owner decides with 'kachery-p2p feed resolve'",
    ]


def count_text(count: int, noun: str) -> str:
    """``1 message``, ``20,000 messages``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _time(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%F %T} UTC"
    except (ValueError, OverflowError, OSError):  # another computer's clock may say anything
        return f"at {seconds:.0f} s after 1970"
