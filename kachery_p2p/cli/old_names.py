"""The commands of kachery_client, kachery_daemon and the first kachery_p2p, for shell scripts that have
them.

They are the commands of today under another name, and not shown by ``--help``; some take options of
their time as well. ``kachery-load`` and the other programs of that time are in :mod:`.old_programs`.

Non-goal: what has no meaning any more. ``docs/names.md`` says what to write instead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from kachery_p2p.client import sync
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.links.addresses import host_port

from . import daemon, info
from .channels import commands as channels
from .feeds import messages
from .files import commands as files
from .output import Output, for_shell, pass_output


def _today(command: click.Command, **given: Any) -> Any:
    assert command.callback is not None
    return command.callback(**given)


# --- start-daemon --------------------------------------------------------------------------------

_FLAGS_IGNORED = ("--noudp", "--nomulticast", "--install-only")
_VALUES_IGNORED = (
    "--verbose",
    "--method",
    "--node-arg",
    "--udp-port",
    "--owner",
    "--kachery-hub-url",
    "--bitwooder-url",
)
_START_OPTIONS: Final = (
    click.Option(["--isbootstrap"], is_flag=True, hidden=True),
    click.Option(["--host"], hidden=True),
    click.Option(["--port"], type=click.IntRange(0, 65_535), hidden=True),
    click.Option(["--websocket-port"], type=click.IntRange(0, 65_535), hidden=True),
    click.Option(["--static-config"], hidden=True),
    *(click.Option([name], is_flag=True, hidden=True) for name in _FLAGS_IGNORED),
    *(click.Option([name], multiple=True, hidden=True) for name in _VALUES_IGNORED),
)


@pass_output
def _start_daemon(
    output: Output,
    /,
    isbootstrap: bool,
    host: str | None,
    port: int | None,
    websocket_port: int | None,
    static_config: str | None,
    **given: Any,
) -> Any:
    ignored = [
        name
        for name in (*_FLAGS_IGNORED, *_VALUES_IGNORED)
        if given.pop(name.removeprefix("--").replace("-", "_"))
    ]
    if ignored:
        output.note(f"Note: without a meaning here, and ignored: {' '.join(ignored)}")
    if static_config:
        reason = "a channel is joined with its invitation: kachery-p2p channel join INVITATION"
        raise BadInput(what="--static-config", reason=reason)
    # One port does what two did: nodes connect by WebSocket only.
    listening = websocket_port or port
    if listening and not given["listen"]:
        given["listen"] = f"0.0.0.0:{listening}"
    if host and listening and not given["public_url"]:
        given["public_url"] = f"ws://{host_port(host, int(listening))}"
    given["public_url"] = _websocket_url(given["public_url"])
    given["auth_group"] = given["auth_group"] or None
    return _today(
        daemon.start, **{**given, "proxy": given["proxy"] or isbootstrap, "foreground": True}
    )


def _websocket_url(url: str | None) -> str | None:
    """Of kachery_p2p, that of a node's port was ``http://``."""
    if url and url.startswith(("http://", "https://")):
        return "ws" + url.removeprefix("http")
    return url or None


# --- store-file ----------------------------------------------------------------------------------

_STORE_OPTIONS: Final = (
    click.Option(["--upload-to-channel"], hidden=True),
    click.Option(["--single-chunk"], is_flag=True, hidden=True),
)


@pass_output
def _store_file(
    output: Output, /, upload_to_channel: str | None, single_chunk: bool, **given: Any
) -> Any:
    if upload_to_channel is None:
        return _today(files.store, **given)
    for path in given["paths"]:
        uri = sync.upload_file(path, channel=upload_to_channel)
        output.result({"path": path, "uri": uri}, [for_shell(uri)])
    return None


# --- all of them ---------------------------------------------------------------------------------


def _print_messages(**given: Any) -> Any:
    return _today(messages.tail, **{**given, "live": True})


COMMANDS: Final[dict[str, tuple[str, click.Command]]] = {
    "cat-file": ("cat", files.cat),
    "find-file": ("find", files.find),
    "link-file": ("link", files.link),
    "load-file": ("load", files.load),
    "store-file": ("store", files.store),
    "node-info": ("info", info.info),
    "get-channels": ("channel list", channels.channel.commands["list"]),
    "join-channel": ("channel join", channels.channel.commands["join"]),
    "leave-channel": ("channel leave", channels.channel.commands["leave"]),
    "print-messages": ("feed tail", messages.tail),
    "start-daemon": ("daemon start", daemon.start),
    "stop-daemon": ("daemon stop", daemon.stop),
}
"""By its older name: the name of today, and the command."""

_OTHERWISE: Final[dict[str, tuple[Sequence[click.Option], Callable[..., Any]]]] = {
    "store-file": (_STORE_OPTIONS, _store_file),
    "print-messages": ((), _print_messages),
    "start-daemon": (_START_OPTIONS, _start_daemon),
}
"""Of those that are more than another name: the options of their older selves, and what they do."""


def add_to(group: click.Group) -> None:
    """Make ``group`` know the old names. Its own help must be complete by then."""
    for name, (today, command) in COMMANDS.items():
        hidden = copy.copy(command)
        hidden.hidden = True
        if name in _OTHERWISE:
            options, hidden.callback = _OTHERWISE[name]
            hidden.params = [*command.params, *options]
        hidden.help = f"{command.help}\n\nNew scripts say 'kachery-p2p {today}'."
        hidden.epilog = (command.epilog or "").replace(
            f"kachery-p2p {today}", f"kachery-p2p {name}"
        )
        group.add_command(hidden, name)
