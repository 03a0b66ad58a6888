"""The plan of the house: its floors, their rooms, and which room may import which.

``PLAN`` is the one table of it. :mod:`tests.test_layering` holds the imports against it, and
CONTRIBUTING.md shows it. A room may import what its row names, and what those may, over any number of
steps; nothing else.
"""

from __future__ import annotations

from typing import Final

PLAN: Final = """
protocol                :
protocol.links          : protocol
protocol.channels       : protocol.links
protocol.gossip         : protocol.channels
protocol.files          : protocol.gossip
protocol.feeds          : protocol.gossip
protocol.tasks          : protocol.feeds
protocol.local          : protocol
protocol.keepers        : protocol.gossip
protocol.methods        : protocol.files protocol.tasks protocol.keepers

storage                 : protocol
storage.channels        : storage
storage.files           : storage protocol.files
storage.feeds           : storage protocol.feeds
storage.tasks           : storage protocol.tasks
storage.inventory       : storage.files
storage.state           : storage.channels storage.inventory
storage.backing         : storage.state
storage.limit           : storage.state
storage.rates           : storage.limit
storage.bindings        : storage.state
storage.older_values    : storage.state
storage.sweeper         : storage.state

local                   : storage protocol.local

node                    : local storage.backing storage.bindings protocol.channels
node.links              : node
node.routes             : node.links
node.channels           : node.routes
node.gossip             : node.channels protocol.gossip
node.backing            : node protocol.gossip
node.files              : node.gossip node.backing
node.archives           : node.files
node.batches            : node.files
node.feeds              : node.files storage.feeds
node.tasks              : node.feeds storage.tasks
node.keepers            : node.feeds node.batches protocol.keepers
node.upkeep             : node.gossip storage.sweeper
node.local              : node.tasks node.archives node.keepers storage.rates
node.web                : node
node.doors              : node.local
node.stores             : node storage.rates storage.older_values storage.feeds storage.tasks
node.node               : node.doors node.upkeep node.web node.stores
node.__main__           : node.node

client.session          : local storage.files
client.values           : protocol
client.display          : protocol
client.channels         : client.session
client.files            : client.session client.values client.display
client.folders          : client.files
client.views            : client.folders client.channels
client.feeds            : client.files protocol.feeds
client.tasks            : client.feeds protocol.tasks
client                  : client.views client.feeds client.tasks
main                    : client
filesystem              : client
_daemon_connection      : client
_exceptions             : protocol
_preventkeyboardinterrupt : client
_shellscript            : client
_temporarydirectory     : client

cli                     : client.display local
cli.completions         : cli client
cli.channels            : cli.completions protocol.channels
cli.files               : cli.completions
cli.feeds               : cli.completions
cli.tasks               : cli.completions
cli.info                : cli.channels
cli.daemon_process      : cli client.session
cli.daemon              : cli.daemon_process client
cli.status              : cli.info
cli.doctor              : cli.channels
cli.old_names           : cli.info cli.files cli.feeds cli.daemon
cli.main                : cli.status cli.doctor cli.feeds cli.tasks cli.old_names
cli.old_programs        : cli.main
cli.__main__            : cli.main
__main__                : cli.main

embedded                : node.node client
testing                 : embedded
testdaemon              : testing
pytest_plugin           : testing
"""
"""One row a room: its name, and what is to its left. A floor's own name stands for the modules that lie
right in its folder, but for those that have a row of their own."""

NOUNS: Final = ("files", "feeds", "tasks")
"""What is shared. Each has a room on every floor."""


def rows() -> dict[str, tuple[str, ...]]:
    """Each room, with what its row names."""
    lines = (line.partition(":") for line in PLAN.splitlines() if line)
    return {room.strip(): tuple(left.split()) for room, _, left in lines}


def reach(room: str) -> set[str]:
    """What a room may import: itself, and all that its row leads to. Raises ValueError on a circle."""
    table = rows()
    found: set[str] = set()

    def walk(at: str, path: tuple[str, ...]) -> None:
        if at in path:
            raise ValueError(f"the plan has a circle: {' -> '.join([*path, at])}")
        if at not in found:
            for left in table[at]:
                walk(left, (*path, at))
            found.add(at)

    walk(room, ())
    return found


def room_of(module: str) -> str | None:
    """The room of a module, both without the package's name; None for what is everybody's."""
    parts = module.split(".")
    for size in (2, 1):
        room = ".".join(parts[:size])
        if room in rows():
            return room
    return None
