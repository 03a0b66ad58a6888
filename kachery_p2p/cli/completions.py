"""What Tab completes besides commands and options: files, and the names that the node knows.

Invariants: whatever is wrong, no node for example, there is nothing to complete, and no error: it would
stand in the middle of the line that is being typed. Names that would steer the terminal, which others
can choose, are not completed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from kachery_p2p.cli.output import clean
from kachery_p2p.client import sync
from kachery_p2p.protocol.errors import KacheryError

_Names = list[str]


def files(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of files, by the shell's own rules."""
    return [CompletionItem(incomplete, type="file")]


def _of(ask: Callable[[], _Names], incomplete: str) -> list[CompletionItem]:
    try:
        names = ask()
    except (KacheryError, OSError):
        return []
    fitting = (name for name in sorted(set(names)) if name.startswith(incomplete))
    return [CompletionItem(name) for name in fitting if clean(name) == name]


def channels(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The channels that this node is on."""
    return _of(lambda: [each["name"] for each in sync.get_channels()], incomplete)


def members(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The members of the channel that was named before, by label where they have one."""

    def ask() -> _Names:
        shown = sync.channel_show(str(context.params.get("name")))
        return [each["label"] or each["node"] for each in shown["members"]]

    return _of(ask, incomplete)


def everybody(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The members of all channels, by label where they have one."""

    def ask() -> _Names:
        shown = [sync.channel_show(each["id"]) for each in sync.get_channels()]
        return [each["label"] or each["node"] for channel in shown for each in channel["members"]]

    return _of(ask, incomplete)


def feeds(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The feeds that have a name here; after a slash, their subfeeds."""

    def ask() -> _Names:
        named = [each for each in sync.list_feeds() if each["name"]]
        if "/" not in incomplete:
            return [each["name"] for each in named]
        return [f"{each['name']}/{sub['name']}" for each in named for sub in _named(each)]

    return _of(ask, incomplete)


def _named(feed: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in feed["subfeeds"] if each["name"]]


def functions(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The task functions that are on offer."""
    return _of(lambda: [each["function"] for each in sync.list_tasks()], incomplete)
