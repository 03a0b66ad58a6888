"""``channel``: make channels, join them, and say who may do what on them.

``show``, ``list`` and what the changing commands print is the same description; the hints on what to
do next are notes, on standard error.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import click

from kachery_p2p.cli import completions
from kachery_p2p.cli.departures import describe_invitations, note_open
from kachery_p2p.cli.output import (
    Output,
    clean,
    columns,
    pass_output,
    quoted,
    size_text,
    with_output,
)
from kachery_p2p.client import sync
from kachery_p2p.protocol.channels.roles import ROLES

from .documents import read_document

ROLES_HELP = (
    "Words and commas: provide-files, request-files, files, provide, request, all, none, ..."
)
_KEEP_FOR_HELP = "Keep things for all members, for these nodes (id or label), or for none."
_KEEP_LIMIT_HELP = "For all of them together, such as 2T; default: what the storage holds."
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def duration(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """``30d`` as seconds."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    if found is None or int(found[1]) == 0:
        raise click.BadParameter(f"{text!r} is no duration; write it like 30d, 12h or 90m")
    return float(int(found[1]) * _SECONDS[found[2]])


@click.group()
def channel() -> None:
    """Make, join and manage channels: the groups of nodes that share with one another.

    \b
    Example:
      kachery-p2p channel create lab --bootstrap ws://192.168.1.10:8080
      kachery-p2p channel invite lab            # prints a line; send it to alice, who runs
      kachery-p2p channel join INVITATION
    """


@channel.command()
@click.argument("name")
@click.option(
    "--bootstrap",
    "bootstraps",
    metavar="URL",
    multiple=True,
    required=True,
    help="ws:// or wss:// URL of a proxy node, with #NODE_ID or reachable now. Repeatable.",
)
@click.option("--open", "open_", is_flag=True, help="Whoever holds the document is a member.")
@click.option("--default-roles", default="none", help="Of unlisted members of an open channel.")
@click.option("--expires-in", metavar="30d", callback=duration, help="Default: never.")
@click.option("--roles", default="all", help=f"What this node may and wants to do. {ROLES_HELP}")
@with_output
@pass_output
def create(
    output: Output,
    name: str,
    bootstraps: tuple[str, ...],
    open_: bool,
    default_roles: str,
    expires_in: float | None,
    roles: str,
) -> None:
    """Make a channel that this node owns. The owner's key stays on this node.

    \b
    Example:
      kachery-p2p channel create lab --bootstrap ws://192.168.1.10:8080
      kachery-p2p channel create open-data --bootstrap wss://p.example.org \\
          --open --default-roles request-files --expires-in 30d
    """
    made = sync.channel_create(
        name,
        list(bootstraps),
        open=open_,
        default_roles=default_roles,
        expires_in=expires_in,
        roles=roles,
    )
    output.result(made, describe(made))
    shown = quoted(made["name"])
    output.note(
        f"Next: kachery-p2p channel invite {shown}, whose output a new member joins with. "
        f"(Or, if you know its NODE_ID: kachery-p2p channel add-node {shown} NODE_ID, then "
        f"kachery-p2p channel export {shown}.)"
    )


@channel.command()
@click.argument("name", metavar="CHANNEL", shell_complete=completions.channels)
@with_output
@pass_output
def show(output: Output, name: str) -> None:
    """Print a channel with its members and their roles. CHANNEL is a name or an id.

    \b
    Example:
      kachery-p2p channel show lab
    """
    shown = sync.channel_show(name)
    output.result(shown, describe(shown))


@channel.command()
@click.argument("name", metavar="CHANNEL", shell_complete=completions.channels)
@click.option(
    "--no-secret",
    is_flag=True,
    help="Of an open channel: leave out what its members need; for a proxy.",
)
@with_output
@pass_output
def export(output: Output, name: str, no_secret: bool) -> None:
    """Print a channel's signed document as text, to be joined with.

    \b
    Example:
      kachery-p2p channel export lab > lab.channel
    """
    text = sync.channel_export(name, secret=not no_secret)
    output.result({"text": text}, text.splitlines())


# The pasted text begins with dashes, which is not to be taken for an option.
@channel.command(context_settings={"ignore_unknown_options": True})
@click.argument("document", metavar="INVITATION|FILE|URL|TEXT|-", shell_complete=completions.files)
@click.option("--roles", default="all", help=f"What this node switches on. {ROLES_HELP}")
@click.option("--keep-for", metavar="all|NODE,...", help=_KEEP_FOR_HELP)
@click.option("--keep-limit", metavar="SIZE", help=_KEEP_LIMIT_HELP)
@with_output
@pass_output
def join(
    output: Output, document: str, roles: str, keep_for: str | None, keep_limit: str | None
) -> None:
    """Join a channel, or change what this node does on it.

    With an invitation line ('channel invite') this node becomes a member at once. A channel's
    document ('channel export') is for nodes that its owner has added. Either is the pasted text
    itself, a file, an https:// URL, or - for standard input.

    \b
    Example:
      kachery-p2p channel join kachery-invite:Nd6HiJcBxCCKiOPd...
      kachery-p2p channel join lab.channel
      kachery-p2p channel join https://lab.example.org/lab.channel --roles request-files
      ssh server kachery-p2p channel export lab | kachery-p2p channel join -
    """
    joined = sync.channel_join(
        read_document(document), roles=roles, keep_for=keep_for, keep_limit=keep_limit
    )
    output.result(joined, describe(joined))
    if not joined["member"]:
        output.note(
            "This node is not a member yet. Ask the channel's owner for an invitation, or to run: "
            "kachery-p2p channel "
            f"add-node {joined['name']} {sync.get_node_id()}"
        )


@channel.command("set")
@click.argument("name", metavar="CHANNEL", shell_complete=completions.channels)
@click.option("--keep-for", metavar="all|none|NODE,...", required=True, help=_KEEP_FOR_HELP)
@click.option("--keep-limit", metavar="SIZE", help=_KEEP_LIMIT_HELP)
@with_output
@pass_output
def set_(output: Output, name: str, keep_for: str, keep_limit: str | None) -> None:
    """Offer to keep things for other members of a channel: files, folders and feeds that they push.

    What is kept stays so, whatever is offered later; see 'kept list' and 'kept release'.

    \b
    Example:
      kachery-p2p channel set lab --keep-for all --keep-limit 2T
      kachery-p2p channel set lab --keep-for alice,bob --keep-limit 500G
      kachery-p2p channel set lab --keep-for none
    """
    offer = sync.set_keeping(name, keep_for, keep_limit)
    output.result(offer, [f"keeps      {_keeps(offer)}"])


@channel.command()
@click.argument("name", metavar="CHANNEL", shell_complete=completions.channels)
@click.option("--force", is_flag=True, help="Although this node owns it; the key is destroyed.")
@with_output
@pass_output
def leave(output: Output, name: str, force: bool) -> None:
    """Leave a channel.

    \b
    Example:
      kachery-p2p channel leave lab
    """
    left = sync.channel_leave(name, force=force)
    output.result(left, [f"left {left['left']}"])


@channel.command("list")
@with_output
@pass_output
def list_(output: Output) -> None:
    """Print the channels that this node is on.

    \b
    Example:
      kachery-p2p channel list
    """
    channels = sync.get_channels()
    rows = [(c["name"], c["id"], roles_text(c["effective"])) for c in channels]
    output.result(channels, columns(rows))
    if not rows:
        output.note("This node is on no channel. See: kachery-p2p channel join --help")


@channel.command("add-node")
@click.argument("name", metavar="CHANNEL", shell_complete=completions.channels)
@click.argument("node", metavar="NODE_ID")
@click.option("--label", default="", help="For people.")
@click.option("--roles", default="all", help=f"What it may do. {ROLES_HELP}")
@with_output
@pass_output
def add_node(output: Output, name: str, node: str, label: str, roles: str) -> None:
    """Make a node a member of a channel that this node owns.

    \b
    Example:
      kachery-p2p channel add-node lab 31ab... --label alice --roles request-files
    """
    changed = sync.channel_add_node(name, node, label=label, roles=roles)
    output.result(changed, describe(changed))


_revoke_all = click.option(
    "--revoke-all", is_flag=True, help="Revoke all invitations to the channel, whoever made them."
)


@channel.command("remove-node")
@click.argument("name", metavar="CHANNEL", shell_complete=completions.channels)
@click.argument("node", metavar="NODE", shell_complete=completions.members)
@_revoke_all
@with_output
@pass_output
def remove_node(output: Output, name: str, node: str, revoke_all: bool) -> None:
    """Remove a member, by id or label. Its links are cut within seconds.

    The invitations by which it came are revoked. It may know of others: see what stays open.

    \b
    Example:
      kachery-p2p channel remove-node lab alice
      kachery-p2p channel remove-node lab alice --revoke-all
    """
    changed = sync.channel_remove_node(name, node, revoke_all=revoke_all)
    output.result(changed, describe(changed) + describe_invitations(changed))
    note_open(output, changed)


@channel.command("set-roles")
@click.argument("name", metavar="CHANNEL", shell_complete=completions.channels)
@click.argument("node", metavar="NODE", shell_complete=completions.members)
@click.argument("roles")
@_revoke_all
@with_output
@pass_output
def set_roles(output: Output, name: str, node: str, roles: str, revoke_all: bool) -> None:
    """Grant a member, by id or label, exactly these roles.

    An invitation by which it came, and which gives a role that it has no longer, is revoked.

    \b
    Example:
      kachery-p2p channel set-roles lab alice provide-files,request-files
    """
    changed = sync.channel_set_roles(name, node, roles, revoke_all=revoke_all)
    output.result(changed, describe(changed) + describe_invitations(changed))
    if changed["revoked"]:
        note_open(output, changed)


# --- for people --------------------------------------------------------------------------------


def roles_text(roles: list[str]) -> str:
    """Roles as people write them: ``all,proxy``, ``request-files``, ``none``."""
    granted = set(roles)
    six = set(ROLES[:-1])
    if six <= granted:
        return ",".join(["all", *sorted(granted - six)])
    return ",".join(role for role in ROLES if role in granted) or "none"


def describe(channel: dict[str, Any]) -> list[str]:
    """A channel on several lines; its members too, if they are in it."""
    expires = channel["expires_at"]
    until = "never" if expires is None else f"{datetime.fromtimestamp(expires, UTC):%F %R} UTC"
    lines = [
        f"channel    {clean(channel['name'])}{' (owned by this node)' if channel['owner'] else ''}",
        f"id         {channel['id']}",
        f"version    {channel['version']}{', open' if channel['open'] else ''}, expires {until}",
        f"granted    {roles_text(channel['granted'])}",
        f"wanted     {roles_text(channel['wanted'])}",
        f"effective  {roles_text(channel['effective'])}"
        f"{'' if channel['member'] else ' (not a member)'}",
    ]
    keeping = channel.get("keeping")
    if keeping and (keeping["keep_for"] or keeping["used"]):
        lines.append(f"keeps      {_keeps(keeping)}")
    lines += [f"bootstrap  {clean(b['url'])}  {b['node']}" for b in channel["bootstraps"]]
    rows = [
        (
            m["node"],
            m["label"] or "-",
            roles_text(m["roles"]),
            "online" if m["online"] else "",
            "keeps for this node" if m.get("keeps") else "",
            _admits(m),
        )
        for m in channel.get("members", [])
    ]
    return lines + [f"member     {line}" for line in columns(rows)]


def _keeps(offer: dict[str, Any]) -> str:
    """For whom, and how much."""
    nodes = offer["keep_for"]
    who = "all members" if nodes == "all" else ", ".join(each[:8] for each in nodes) or "nobody"
    limit = offer["keep_limit"]
    most = "as much as the storage holds" if limit is None else f"{size_text(limit)} at most"
    return f"for {who}, {most}; now {size_text(offer['used'])}"


def _admits(member: dict[str, Any]) -> str:
    if member.get("admitted_by"):
        return f"admitted by {member['admitted_by'][:8]}"
    return f"may admit with {roles_text(member['may_admit'])}" if member.get("may_admit") else ""
