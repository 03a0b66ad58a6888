"""The local node itself: who it is, its channels, its mutables. The async API."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from kachery_p2p.client.display.notebook_html import NodeInfo
from kachery_p2p.client.session.connection import call, connection
from kachery_p2p.protocol import json_values
from kachery_p2p.protocol.canonical import canonical_json
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import MAX_MUTABLE
from kachery_p2p.protocol.numbers import real
from kachery_p2p.protocol.quantities import parse_rate

from .files.pushing import aset_keeping
from .session import offline


async def aget_node_id(daemon_port: int | None = None, *, api_port: int | None = None) -> str:
    """The id of the local node: 64 hex digits, its Ed25519 public key.

    Args:
        daemon_port: ignored, as ``api_port``: what older scripts gave. Where there are several nodes,
            ``KACHERY_P2P_API_PORT`` says which.

    Raises:
        DaemonNotRunning, NeedsNode
    """
    offline.require_node("get_node_id")
    welcome = (await connection()).greeter.welcome
    assert welcome is not None
    return welcome.node_id


async def anode_info() -> dict[str, Any]:
    """Everything the node says of itself: ids, folders, channels, links, last warnings.

    Raises as :func:`aget_node_id`.
    """
    return NodeInfo(await call("node_info", "info", {}))


async def anode_status() -> dict[str, Any]:
    """What goes on in the node now, as ``kachery-p2p status`` shows it: its storage, channels, links,
    transfers, feeds, tasks and last warnings.

    Returns:
        Plain values; each moment is Unix time in seconds. ``links`` have totals of bytes; rates are the
        differences of two calls, divided by the difference of their ``now``, which is not moved by who
        sets the clock. ``totals`` says how long lists are that were cut.

    Raises as :func:`aget_node_id`.
    """
    status: dict[str, Any] = await call("node_status", "status", {})
    return status


async def aget_channels() -> list[dict[str, Any]]:
    """The channels that the node is on, each a dict with name, id, version, owner (whether it is
    ours), open, granted, wanted and effective roles, and bootstraps. Raises as
    :func:`aget_node_id`."""
    channels: list[dict[str, Any]] = (await call("get_channels", "channel.list", {}))["channels"]
    return channels


async def aset_rates(
    *, upload: str | int | None = None, download: str | int | None = None
) -> dict[str, int | None]:
    """Set how many bytes of files the node gives, and fetches from other nodes, in a second, from now
    on and after restarts. Messages of feeds and tasks are not held back, nor what a proxy passes on
    between others.

    Args:
        upload: bytes a second, text such as ``10M``, or ``"none"`` for no limit; None: as it is.
        download: the same.

    Returns:
        A dict with ``upload`` and ``download`` as they are now, in bytes a second; None: no limit.

    Raises:
        BadInput, DaemonNotRunning, ReadOnlyUser, NeedsNode
    """
    wanted = {"upload": upload, "download": download}
    params = {what: parse_rate(rate, what) for what, rate in wanted.items() if rate is not None}
    rates: dict[str, int | None] = await call("set_rates", "set_rates", params)
    return rates


async def astop_node() -> int:
    """Order the node to stop; its process id. Raises as :func:`aget_node_id`, and ReadOnlyUser."""
    pid: int = (await call("stop", "stop", {}))["pid"]
    return pid


# --- mutables ------------------------------------------------------------------------------------


def _json(what: str, value: Any) -> str:
    """Canonical JSON. Raises BadInput."""
    try:
        text = canonical_json(value, default=json_values.default)
        size = len(text.encode())
        if json_values.careful(value) == "keys":
            raise ValueError("a key is no text")
    except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError among them
        reason = json_values.flaw(value, surrogates=False) or error
        raise BadInput(what=what, reason=f"it is no JSON value: {reason}") from error
    if size > MAX_MUTABLE:
        raise BadInput(
            what=what, reason=f"longer than {MAX_MUTABLE} bytes; store it and set its URI"
        )
    return text


async def aset(key: Any, value: Any, update: bool = True) -> bool:
    """Set a value that is local to this node. Key and value may be any JSON.

    Args:
        update: False leaves a value alone that is there already.

    Returns:
        Whether the value was written.

    Raises:
        BadInput, DaemonNotRunning, ReadOnlyUser, NeedsNode
    """
    params = {"key": _json("key", key), "value": _json("value", value), "update": update}
    written: bool = (await call("set", "set", params))["written"]
    return written


async def aget(key: Any) -> Any:
    """The value that was set, or None. Raises as :func:`aset`."""
    answer = await call("get", "get", {"key": _json("key", key)})
    return json.loads(answer["value"]) if answer["found"] else None


async def aget_string(key: Any) -> str | None:
    """The value as text, or None. Raises as :func:`aset`."""
    value = await aget(key)
    return None if value is None else str(value)


async def adelete(key: Any, value: Any = None) -> bool:
    """Forget a value; whether there was one. ``value`` is ignored, as it always was. Raises as
    :func:`aset`."""
    deleted: bool = (await call("delete", "delete", {"key": _json("key", key)}))["deleted"]
    return deleted


# --- channels ------------------------------------------------------------------------------------


async def achannel_create(
    name: str,
    bootstraps: list[str],
    *,
    open: bool = False,
    default_roles: str = "none",
    expires_in: float | None = None,
    roles: str = "all",
) -> dict[str, Any]:
    """Make a channel that this node owns.

    Args:
        name: for people.
        bootstraps: ``ws://`` or ``wss://`` URLs of its proxies, each with ``#NODE_ID`` or reachable
            now.
        open: anyone who holds the document is a member, with ``default_roles``.
        expires_in: seconds from now, or None.
        roles: what this node itself may and wants to do.

    Raises:
        BadInput, DaemonNotRunning
    """
    return await _channel(
        "create",
        name=name,
        bootstraps=bootstraps,
        open=bool(open),
        default_roles=default_roles,
        expires_in=None if expires_in is None else real("expires_in", expires_in),
        roles=roles,
    )


async def achannel_join(
    document: str,
    *,
    roles: str = "all",
    keep_for: str | Iterable[str] | None = None,
    keep_limit: str | int | None = None,
) -> dict[str, Any]:
    """Join a channel, or change what this node wants on it.

    Args:
        document: the exported text.
        roles: what this node's user switches on, such as ``"request-files"``.
        keep_for, keep_limit: for whom this node keeps things, as for :func:`set_keeping`; None: as it
            was, at first for nobody.

    Raises:
        BadChannelDocument, BadInput
    """
    if keep_limit is not None and keep_for is None:
        raise BadInput(what="keep_limit", reason="it needs keep_for: for whom")
    joined = await _channel("join", document=document, roles=roles)
    if keep_for is None:
        return joined
    offer = await aset_keeping(joined["id"], keep_for, keep_limit)
    return joined | {"keeping": offer}


async def achannel_leave(channel: str, *, force: bool = False) -> dict[str, Any]:
    """Leave a channel. ``force``: although this node owns it. Raises UnknownChannel, BadInput."""
    return await _channel("leave", channel=channel, secret=not force)


async def achannel_show(channel: str) -> dict[str, Any]:
    """A channel with its members. Raises UnknownChannel."""
    return await _channel("show", channel=channel)


async def achannel_export(channel: str, *, secret: bool = True) -> str:
    """The signed document as text. For an open channel it carries the secret that its members need;
    ``secret=False`` leaves it out, for a proxy. Raises UnknownChannel."""
    text: str = (await _channel("export", channel=channel, secret=secret))["text"]
    return text


async def achannel_add_node(
    channel: str, node: str, *, label: str = "", roles: str = "all"
) -> dict[str, Any]:
    """Make a node a member; owner only. Raises AccessDenied, BadInput, UnknownChannel."""
    return await _channel("add-node", channel=channel, node=node, label=label, roles=roles)


async def achannel_remove_node(
    channel: str, node: str, *, revoke_all: bool = False
) -> dict[str, Any]:
    """Remove a member, by id or label; owner only. The invitations by which it came are revoked.

    Args:
        revoke_all: revoke all invitations to the channel, whoever made them.

    Returns:
        The channel, and what became of invitations: ``came_by`` (invitations; admitted_by; companions:
        members that came by the same; let_in: those that it admitted), ``revoked`` and ``open`` (those
        of this node), ``admitters`` (members that may have made others).

    Raises as :func:`achannel_add_node`.
    """
    return await _channel("remove-node", channel=channel, node=node, revoke_all=revoke_all)


async def achannel_set_roles(
    channel: str, node: str, roles: str, *, revoke_all: bool = False
) -> dict[str, Any]:
    """Grant a member exactly these roles; owner only. Invitations by which it came, and which give a
    role that it has not got now, are revoked. Returns and raises as :func:`achannel_remove_node`."""
    return await _channel(
        "set-roles", channel=channel, node=node, roles=roles, revoke_all=revoke_all
    )


async def afind_member(node: str) -> dict[str, Any]:
    """A member of any channel that the node is on, by id, the beginning of it, or a label that only one
    has: a dict with node and label. A whole id is itself, whoever has it, with the label ``""`` if it
    is no member's.

    Raises:
        BadInput: nobody is called so, or several are; DaemonNotRunning, NeedsNode
    """
    return await _channel("find-member", node=node)


async def _channel(verb: str, **params: Any) -> dict[str, Any]:
    result: dict[str, Any] = await call(f"channel {verb}", f"channel.{verb}", params)
    return result
