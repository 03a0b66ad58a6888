"""``channel invite`` and what belongs to it: getting colleagues in with one line."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import click

from kachery_p2p.cli import completions
from kachery_p2p.cli.output import Output, columns, pass_output, quoted, with_output
from kachery_p2p.client import sync
from kachery_p2p.protocol.limits import INVITATION_SECONDS, MAX_INVITATION_USES

from .commands import ROLES_HELP, describe, duration, roles_text

_SHOWN_DIGITS: Final = 12


@click.command()
@click.argument("name", metavar="CHANNEL", shell_complete=completions.channels)
@click.option("--roles", help=f"What the newcomer may do; default: all you may give. {ROLES_HELP}")
@click.option("--expires", metavar="7d", callback=duration, help="Good for so long; default: 7d.")
@click.option(
    "--uses",
    type=click.IntRange(1, MAX_INVITATION_USES),
    default=1,
    help="By how many nodes it may be used; default: 1.",
)
@click.option("--label", default="", help="The newcomer's name; default: what it calls itself.")
@with_output
@pass_output
def invite(
    output: Output, name: str, roles: str | None, expires: float | None, uses: int, label: str
) -> None:
    """Print a line with which a colleague joins a channel.

    Who has the line is let in, so send it as you would a password. This node must be running when
    it is used. It must be that of the channel's owner, or be authorised by it ('channel authorise').

    \b
    Example:
      kachery-p2p channel invite lab
      kachery-p2p channel invite lab --roles request-files --uses 30 --expires 2d --label student
    """
    made = sync.channel_invite(
        name,
        roles=roles,
        label=label,
        uses=uses,
        expires_in=INVITATION_SECONDS if expires is None else expires,
    )
    output.result(made, [made["line"]])
    output.note(
        f"For {_nodes(made['uses'])}, until {_time(made['expires_at'])}, with the roles "
        f"{roles_text(made['roles'])}. The newcomer runs, with this line:"
    )
    output.note("  kachery-p2p channel join INVITATION")
    if made["link"]:
        output.note("Or opens this link in a browser, with nothing installed:")
        output.note(f"  {made['link']}")
    output.note("To revoke it:")
    output.note(
        f"  kachery-p2p channel revoke-invite {quoted(made['channel'])} {made['id'][:_SHOWN_DIGITS]}"
    )


@click.command()
@click.argument("name", metavar="CHANNEL", shell_complete=completions.channels)
@with_output
@pass_output
def invites(output: Output, name: str) -> None:
    """Print the invitations to a channel that this node made, and who used them.

    \b
    Example:
      kachery-p2p channel invites lab
    """
    made = sync.channel_invites(name)
    rows = [
        (
            each["id"][:_SHOWN_DIGITS],
            each["state"],
            f"used by {len(each['nodes'])} of {each['uses']}",
            f"until {_time(each['expires_at'])}",
            roles_text(each["roles"]),
            each["label"] or "-",
            " ".join(node[:8] for node in each["nodes"]),
        )
        for each in made
    ]
    output.result(made, columns(rows))
    if not rows:
        output.note(f"This node has made none. See: kachery-p2p channel invite {quoted(name)}")


@click.command("revoke-invite")
@click.argument("name", metavar="CHANNEL", shell_complete=completions.channels)
@click.argument("invitation", metavar="ID|LINE", required=False)
@click.option(
    "--all", "all_", is_flag=True, help="All that are open; the owner's: whoever made them."
)
@with_output
@pass_output
def revoke_invite(output: Output, name: str, invitation: str | None, all_: bool) -> None:
    """Make an invitation worthless. Who joined with it stays a member ('channel remove-node').

    \b
    Example:
      kachery-p2p channel revoke-invite lab 31ab5f0c22d1
      kachery-p2p channel revoke-invite lab --all
    """
    if all_ == (invitation is not None):
        raise click.UsageError("Give the ID or LINE of one invitation, or --all.")
    if invitation is None:
        ended = sync.channel_revoke_invites(name)
        output.result(ended, [_revoked(each) for each in ended])
        return
    revoked = sync.channel_revoke_invite(name, invitation)
    output.result(revoked, [_revoked(revoked)])


@click.command()
@click.argument("name", metavar="CHANNEL", shell_complete=completions.channels)
@click.argument("node", metavar="NODE", shell_complete=completions.members)
@click.option(
    "--roles",
    default="request",
    help="What it may grant at most: request-files, request-feeds, request-tasks, request (all "
    "three; the default), or none to take it back.",
)
@with_output
@pass_output
def authorise(output: Output, name: str, node: str, roles: str) -> None:
    """Let a member, by id or label, invite and admit readers by itself.

    The owner's node need not be running then. NODE is one that always runs, such as a lab server;
    its user invites with 'channel invite'.

    \b
    Example:
      kachery-p2p channel authorise lab server
      kachery-p2p channel authorise lab server --roles request-files
      kachery-p2p channel authorise lab server --roles none
    """
    changed = sync.channel_authorise(name, node, roles)
    output.result(changed, describe(changed))


COMMANDS = (invite, invites, revoke_invite, authorise)


def _revoked(invitation: dict[str, Any]) -> str:
    used = f" It was used by {_nodes(len(invitation['nodes']))}." if invitation["nodes"] else ""
    return f"revoked {invitation['id'][:_SHOWN_DIGITS]}.{used}"


def _nodes(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'}"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%F %R}"
