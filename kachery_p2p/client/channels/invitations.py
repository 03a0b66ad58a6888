"""Inviting others to a channel, by one line that they paste. The async API."""

from __future__ import annotations

from typing import Any

from kachery_p2p.client.session.connection import call
from kachery_p2p.protocol.limits import INVITATION_SECONDS
from kachery_p2p.protocol.numbers import real, whole


async def achannel_invite(
    channel: str,
    *,
    roles: str | None = None,
    label: str = "",
    uses: int = 1,
    expires_in: float = INVITATION_SECONDS,
) -> dict[str, Any]:
    """Make an invitation to a channel: on its owner's node, or one that the owner authorised.

    The node that makes it must be running when it is used.

    Args:
        channel: name or id.
        roles: what the newcomer will be granted, such as ``"request-files"``; None for all that this
            node may give.
        label: the newcomer's name for people; empty for the one that it gives itself.
        uses: by how many nodes it may be used.
        expires_in: seconds from now.

    Returns:
        ``line``, what to send to the newcomer, who joins with :func:`channel_join`; it is kept nowhere.
        ``link``, the same for a browser, which joins with nothing installed; empty if no proxy of the
        channel has a page that browsers trust. And id, label, roles, uses, expires_at.

    Raises:
        AccessDenied, BadInput, UnknownChannel, DaemonNotRunning
    """
    return await _call(
        "invite",
        channel=channel,
        roles=roles,
        label=label,
        uses=whole("uses", uses),
        expires_in=real("expires_in", expires_in),
    )


async def achannel_invites(channel: str) -> list[dict[str, Any]]:
    """The invitations that this node made, each with id, label, roles, uses, expires_at, the nodes
    that used it, and ``state``: open, used up, revoked or over. Raises UnknownChannel."""
    made: list[dict[str, Any]] = (await _call("invites", channel=channel))["invitations"]
    return made


async def achannel_revoke_invite(channel: str, invitation: str) -> dict[str, Any]:
    """From now on nobody joins with it; who has stays a member.

    Args:
        invitation: its id, the first 8 digits of it or more, or the line.

    Raises:
        BadInput, UnknownChannel
    """
    return await _call("revoke-invite", channel=channel, invitation=invitation)


async def achannel_revoke_invites(channel: str) -> list[dict[str, Any]]:
    """Revoke all invitations that are open; those of this node, which are returned, and, if it owns
    the channel, those that others made. Raises UnknownChannel."""
    revoked: list[dict[str, Any]] = (await _call("revoke-invites", channel=channel))["invitations"]
    return revoked


async def achannel_authorise(channel: str, node: str, roles: str = "request") -> dict[str, Any]:
    """Let a member invite and admit others by itself, so that the owner's node need not be running.

    Args:
        node: id or label of a member.
        roles: what it may grant at most; reading roles only, of those that it has itself, and only as
            long as it has them. ``"none"`` takes it back, and with it
            the membership of those whom it admitted and the owner's node has not seen yet.

    Raises:
        AccessDenied: this node does not own the channel. BadInput, UnknownChannel
    """
    return await _call("authorise", channel=channel, node=node, roles=roles)


async def _call(verb: str, **params: Any) -> dict[str, Any]:
    result: dict[str, Any] = await call(f"channel {verb}", f"channel.{verb}", params)
    return result
