"""``feed append`` and ``feed tail``: messages in and out, as JSON.

What ``append`` prints is on disk, also if something later fails. ``tail`` writes JSON in ASCII only:
messages come from other computers, and in that form no letter of theirs can steer the terminal.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from kachery_p2p.cli import completions
from kachery_p2p.cli.output import Output, ReaderGone, pass_output, with_output, write
from kachery_p2p.client.feeds.subfeeds import Subfeed, follow
from kachery_p2p.protocol.errors import BadInput, BadPath, Cancelled
from kachery_p2p.protocol.limits import MAX_FEED_MESSAGE

from .targets import SUBFEED, open_subfeed

_READ_BYTES: Final = 1 << 20
_LONGEST_LINE: Final = 8 * MAX_FEED_MESSAGE
"""Bytes: a text of escapes alone takes six times its size."""
_BATCH: Final = 10_000
"""Messages that are written at once."""
_LOOK_MSEC: Final = 1_000.0
"""How often 'tail -f' looks whether its reader is still there."""


# Negative numbers are messages, too.
@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("target", metavar=SUBFEED, shell_complete=completions.feeds)
@click.argument("messages", metavar="[MESSAGE]...", nargs=-1)
@click.option(
    "--submit", is_flag=True, help="Have the feed's owner append them, who must allow it."
)
@click.option(
    "--channel",
    shell_complete=completions.channels,
    help="With --submit: only over this channel (name or id).",
)
@with_output
@pass_output
def append(
    output: Output, target: str, messages: tuple[str, ...], submit: bool, channel: str | None
) -> None:
    """Append messages to a subfeed, and print the numbers that they got (the first one is 0).

    A MESSAGE is JSON, so text is in quotes. Without any, or with -, there is one on each line of
    standard input; they are appended as they come.

    \b
    Example:
      kachery-p2p feed append myfeed/primes '{"p": 2, "n": 1}' '{"p": 3, "n": 2}'
      kachery-p2p feed append myfeed/notes '"just text"'
      ./measure | kachery-p2p feed append feed://31ab.../values -
    """
    subfeed = open_subfeed(target, channel=channel)
    if messages in ((), ("-",)):
        batches = _from_lines()
    else:
        batches = iter([[_parsed(text, f"message {text!r}") for text in messages]])
    for batch in batches:
        numbers = subfeed.submit_messages(batch) if submit else subfeed.append_messages(batch)
        for first, count in _ranges(numbers):
            shown = str(first) if count == 1 else f"{first}-{first + count - 1}"
            output.result({"uri": subfeed.uri, "first": first, "count": count}, [shown])


def _from_lines() -> Iterator[list[Any]]:
    """The messages on standard input, as many at a time as have come."""
    number = 0
    for lines in _lines():
        batch = []
        for line in lines:
            number += 1
            if line.strip():
                batch.append(_parsed(line, f"line {number} of standard input"))
        if batch:
            yield batch


def _lines() -> Iterator[list[bytes]]:
    if sys.stdin is None:
        raise BadPath(path="standard input", reason="it is closed")
    rest = b""
    # One system call at a time: what is there goes on at once, and Ctrl-C is noticed.
    while piece := os.read(sys.stdin.fileno(), _READ_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            reason = f"a line of more than {_LONGEST_LINE} bytes; put one message on each line"
            raise BadInput(what="standard input", reason=reason)
        if lines:
            yield lines
    if rest:
        yield [rest]


def _parsed(text: str | bytes, what: str) -> Any:
    try:
        # Not json's own guess, which takes bytes for UTF-16, too.
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = f"it is not JSON ({error}); text goes in double quotes"
        raise BadInput(what=what, reason=reason) from error


def _ranges(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """First number and count of each stretch without a gap."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield numbers[start], at - start
            start = at


@click.command()
@click.argument("target", metavar=SUBFEED, shell_complete=completions.feeds)
@click.option("-f", "--follow", "live", is_flag=True, help="Go on with new messages for ever.")
@click.option("--from", "first", type=click.IntRange(min=0), help="Number of the first message.")
@click.option("-n", "last", type=click.IntRange(min=0), help="Only the last so many messages.")
@click.option("--signed", is_flag=True, help="Each with its number, time, signature and proof.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds of the first contact: 10.")
@click.option(
    "--channel",
    shell_complete=completions.channels,
    help="Only over this channel (name or id); default: all.",
)
@with_output
@pass_output
def tail(
    output: Output,
    target: str,
    live: bool,
    first: int | None,
    last: int | None,
    signed: bool,
    timeout: float | None,
    channel: str | None,
) -> int | None:
    """Print the messages of a subfeed, each as JSON on one line; all of them by default.

    \b
    Example:
      kachery-p2p feed tail myfeed/primes > primes.jsonl
      kachery-p2p feed tail -n 5 -f feed://31ab.../values | jq .temperature
    """
    if first is not None and last is not None:
        raise BadInput(what="feed tail", reason="give either --from or -n")
    subfeed = open_subfeed(target, timeout=timeout, channel=channel)
    try:
        if last is not None:
            first = max(0, subfeed.get_num_messages() - last)
        subfeed.set_position(first or 0)
        _print(subfeed, live=live, signed=signed)
    except KeyboardInterrupt:
        if not live:
            raise
        return Cancelled.exit_status  # that is how one ends it
    return None


def _print(subfeed: Subfeed, *, live: bool, signed: bool) -> None:
    wait = _LOOK_MSEC if live else 0.0
    while True:
        found = follow(subfeed, signed=signed, wait_msec=wait, most=_BATCH, strict=True)
        if found:
            write("".join(f"{_ENCODER.encode(message)}\n" for message in found).encode("ascii"))
            subfeed.set_position(subfeed.position + len(found))
        elif not live or subfeed.is_snapshot:
            return
        elif _reader_is_gone():
            raise ReaderGone


_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads; else nobody would notice between two
    messages."""
    if sys.stdout is None:
        return True
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
