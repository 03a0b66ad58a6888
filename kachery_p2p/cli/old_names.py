"""The commands of kachery_client and of the first kachery_p2p, for shell scripts that have them.

They are the commands of today under another name, and not shown by ``--help``. ``kachery-load`` and
the other programs of kachery_client are in :mod:`.old_programs`.

Non-goal: options that have no meaning any more. ``docs/names.md`` says what to write instead.
"""

from __future__ import annotations

import copy
from typing import Final

import click

from . import daemon, info
from .channels import commands as channels
from .files import commands as files

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
    "stop-daemon": ("daemon stop", daemon.stop),
}
"""By its older name: the name of today, and the command."""


def add_to(group: click.Group) -> None:
    """Make ``group`` know the old names. Its own help must be complete by then."""
    for name, (today, command) in COMMANDS.items():
        hidden = copy.copy(command)
        hidden.hidden = True
        hidden.help = f"{command.help}\n\nNew scripts say 'kachery-p2p {today}'."
        hidden.epilog = (command.epilog or "").replace(
            f"kachery-p2p {today}", f"kachery-p2p {name}"
        )
        group.add_command(hidden, name)
