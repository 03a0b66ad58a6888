"""Options of ``daemon start``: who may come in by the port, and where this node goes when told to."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import click

from kachery_p2p.protocol.limits import MAX_LABEL
from kachery_p2p.protocol.quantities import parse_rate, parse_size

F = TypeVar("F", bound=Callable[..., Any])


def octal(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise click.BadParameter(f"{text!r} is no file mode; write it like 660")
    return mode


def listed(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> list[str] | None:
    """What stands between commas; None if the option is not given."""
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]


_DOORS = (
    click.option(
        "--trust-forwarded",
        metavar="[NETWORKS]",
        is_flag=False,
        flag_value="",
        callback=listed,
        help="Behind a reverse proxy: take a client's address from X-Forwarded-For, if this computer "
        "or one of NETWORKS (with commas between them) sends it.",
    ),
    click.option(
        "--origins",
        metavar="ORIGINS",
        callback=listed,
        help="Web sites whose pages may connect to --listen, such as https://lab.example.org, with "
        "commas between them; default: none.",
    ),
    click.option(
        "--lan",
        is_flag=True,
        help="Say in the local network, by multicast DNS, that this node is there, and go directly to "
        "members that say so; takes the extra 'lan'. Whoever is in that network hears its id.",
    ),
    click.option(
        "--private-network",
        "private_networks",
        metavar="NETWORK",
        multiple=True,
        help="Dial addresses in this network, such as 10.0.0.0/8, if a member says that it is reached "
        "there; may be repeated. Default: only private networks that this node is in itself.",
    ),
)


def door_options(command: F) -> F:
    """The options that end in the node's ``Doors`` and in its rules of dialling."""
    for option in reversed(_DOORS):
        command = option(command)
    return command


_BACKING = (
    click.option(
        "--origin",
        "origins_read",
        metavar="URL",
        multiple=True,
        help="Stand for what lies there in kachery's layout: a folder, or a URL such as "
        "s3://bucket/prefix or https://...; may be repeated.",
    ),
    click.option(
        "--archive",
        "archives",
        metavar="URL",
        multiple=True,
        help="The same, and 'kachery-p2p archive' writes there.",
    ),
    click.option(
        "--archive-own",
        is_flag=True,
        help="What was stored here may go to make room, once it is in an archive.",
    ),
    click.option("--no-origins", is_flag=True, help="Stand for nothing elsewhere any more."),
)


def backing_options(command: F) -> F:
    """The options that say which storage elsewhere a node stands for."""
    for option in reversed(_BACKING):
        command = option(command)
    return command


def size(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Bytes; 0 for ``none``, None if the option is not given."""
    if text is None:
        return None
    return 0 if text == "none" else parse_size(text, "--max-storage")


def _rate(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Bytes a second; 0 for ``none``, None if the option is not given."""
    return None if text is None else parse_rate(text, parameter.opts[0])


_RATES = (
    click.option(
        "--max-upload",
        metavar="RATE",
        callback=_rate,
        help="Bytes of files that this node gives in a second, such as 10M, or none; nodes that want "
        "some have equal shares. Feeds and tasks are not held back, nor what a proxy relays.",
    ),
    click.option(
        "--max-download",
        metavar="RATE",
        callback=_rate,
        help="The same of files that it fetches from other nodes; origins do not count.",
    ),
)


def rate_options(command: F) -> F:
    """The options that say how fast files may go out and come in."""
    for option in reversed(_RATES):
        command = option(command)
    return command


def name_of_host() -> str:
    """Some are called what no label can be."""
    return os.fsencode(socket.gethostname()).decode("utf-8", "replace")[:MAX_LABEL]
