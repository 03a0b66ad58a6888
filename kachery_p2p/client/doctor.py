"""What a node sees when it looks at itself, and at why something does not come. The async API."""

from __future__ import annotations

from typing import Any

from kachery_p2p.client.session.connection import call, connection
from kachery_p2p.protocol.feeds.feed import parse_feed_uri, subfeed_hash
from kachery_p2p.protocol.uri import parse_uri

from .session import offline


async def aexamine_node() -> dict[str, Any]:
    """What ``node_info`` gives, and more: ``folders``, ``clock``, ``read_only``.

    Bootstrap nodes that are not connected are dialled first, so this takes some seconds if they
    cannot be reached.

    Raises:
        DaemonNotRunning, DaemonNotPermitted, VersionMismatch, StorageMismatch, NeedsNode
    """
    offline.require_node("doctor")
    node = await connection()
    seen: dict[str, Any] = await node.call("doctor.node", {})
    assert node.greeter.welcome is not None
    return seen | {"read_only": node.greeter.welcome.read_only}


async def aexamine_uri(uri: str, channel: str | None = None) -> dict[str, Any]:
    """Who should have a file or a feed, channel by channel, and what they say to it.

    Args:
        uri: ``sha1://`` or ``feed://``.
        channel: look on this one only.

    Returns:
        ``title``; ``local``, where it is here, or None; ``channels``, each with who was asked, who
        has it, and an error as ``[code, fields]`` if nobody does; ``trial``, how loading it went.

    Raises:
        BadUri, UnknownChannel, and as :func:`aexamine_node`.
    """
    method, params = _question(uri)
    if channel is not None:
        params["channel"] = channel
    seen: dict[str, Any] = await call("doctor", method, params)
    return seen


def _question(uri: str) -> tuple[str, dict[str, Any]]:
    parsed = parse_uri(uri)
    if parsed.kind != "feed":
        return "doctor.file", {"sha1": parsed.hash, "manifest": parsed.manifest}
    feed, name = parse_feed_uri(uri)
    return "doctor.feed", {"feed": feed, "subfeed": None if name is None else subfeed_hash(name)}
