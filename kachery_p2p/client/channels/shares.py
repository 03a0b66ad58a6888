"""Share links: one URL that shows a file or a subfeed to somebody with a browser. The async API."""

from __future__ import annotations

from typing import Any

from kachery_p2p.client.session.connection import call
from kachery_p2p.protocol.limits import PASS_SECONDS
from kachery_p2p.protocol.numbers import real


async def ashare(
    uri: str, *, channel: str | None = None, expires_in: float = PASS_SECONDS, once: bool = False
) -> str:
    """A link that opens a file or a subfeed in any browser, with nothing installed.

    Whoever has the link can see what it is to, and nothing else, until it expires or is revoked. The
    page comes from the channel's proxy; the content comes from whoever holds it, end-to-end encrypted
    and verified. Made on the node of the channel's owner, or on one that the owner authorised.

    Args:
        uri: ``sha1://...``, or ``feed://.../<subfeed>``.
        channel: on which channel; None: on the only one on which this node may share.
        expires_in: seconds from now.
        once: the first browser that opens it is the only one that can; this node must run then.

    Returns:
        The link. It is kept nowhere.

    Raises:
        BadUri, BadInput, UnknownChannel, AccessDenied, DaemonNotRunning
    """
    made = await ashare_info(uri, channel=channel, expires_in=expires_in, once=once)
    return str(made["link"])


async def ashare_info(
    uri: str,
    *,
    channel: str | None = None,
    expires_in: float = PASS_SECONDS,
    once: bool = False,
    view: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """As :func:`ashare`: link, id, channel, uri, uses, expires_at, and whether it is ``here``.
    ``view``: of a pack, as the node's ``share.create`` takes it."""
    params = {
        "uri": uri,
        "channel": channel,
        "uses": int(bool(once)),
        "expires_in": real("expires_in", expires_in),
        "view": view,
    }
    made: dict[str, Any] = await call("share", "share.create", params)
    return made


async def alist_shares() -> list[dict[str, Any]]:
    """The links that this node made and that are not over: id, channel, uri, uses, used, expires_at,
    and ``state``: open, used up or revoked. The links themselves are kept nowhere."""
    made: list[dict[str, Any]] = (await call("share --list", "share.list", {}))["shares"]
    return made


async def arevoke_share(share: str) -> dict[str, Any]:
    """From now on nobody sees anything by that link; who has it open is cut off.

    Args:
        share: the link, or its id, the first 8 digits of it or more.

    Raises:
        BadInput: this node made no such link.
    """
    revoked: dict[str, Any] = await call("share --revoke", "share.revoke", {"id": share})
    return revoked
