"""The calls of the local API about channels, as their owner and their members' users manage them.

=====================  ================================================  =============================
call                   parameters                                        who
=====================  ================================================  =============================
``channel.create``     name, bootstraps [url | url#node_id], open,        the future owner
                       default_roles, expires_in
``channel.show``       channel                                           anybody
``channel.export``     channel, secret?                                  anybody on the channel
``channel.join``       document (text, or an invitation line), roles     the node's user
``channel.leave``      channel                                           the node's user
``channel.add-node``   channel, node, label, roles                       the owner
``channel.remove-node``  channel, node, revoke_all?                      the owner
``channel.set-roles``  channel, node, roles, revoke_all?                 the owner
``channel.announced``  channel, node?                                    anybody on the channel
``channel.find-member``  node (id, its beginning, or a label)             anybody
=====================  ================================================  =============================

The owner's key lies in the state of the node where the channel was created, and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from string import hexdigits
from typing import Any

import msgspec

from kachery_p2p.node.links.opening import handshake
from kachery_p2p.protocol.channels.document import SECRET_BYTES, ChannelDocument
from kachery_p2p.protocol.channels.invitation import is_invitation
from kachery_p2p.protocol.channels.roles import PROXY, parse_roles
from kachery_p2p.protocol.channels.signed_document import parse, sign
from kachery_p2p.protocol.channels.text_encoding import from_text
from kachery_p2p.protocol.errors import AccessDenied, BadInput, KacheryError, reason_of
from kachery_p2p.protocol.identity import NodeKey, check_node_id
from kachery_p2p.protocol.limits import DIAL_SECONDS

from .call_table import CallTable, Nothing
from .live_call import LiveCall
from .services import Services

_ID_DIGITS = 64
_Less = Callable[[ChannelDocument, str, bytes], ChannelDocument]
"""Makes a document without some of what a member (64 hex digits) has; given a secret that is fresh."""
_LEAST_DIGITS = 8
"""Of the beginning of a node id that stands for it."""


class _Create(msgspec.Struct, frozen=True):
    name: str
    bootstraps: list[str]
    open: bool = False
    default_roles: str = "none"
    expires_in: float | None = None
    roles: str = "all"


class _Channel(msgspec.Struct, frozen=True):
    channel: str
    secret: bool = True


class _Join(msgspec.Struct, frozen=True):
    document: str
    roles: str = "all"


class _Member(msgspec.Struct, frozen=True):
    channel: str
    node: str
    label: str = ""
    roles: str = "all"
    revoke_all: bool = False


class _Announced(msgspec.Struct, frozen=True):
    channel: str
    node: str | None = None


class _Sought(msgspec.Struct, frozen=True):
    node: str


class ChannelCalls:
    """A method per call, for :class:`~.calls.Calls`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def calls(self) -> CallTable:
        return {
            "channel.create": (_Create, self._create),
            "channel.show": (_Channel, self._show),
            "channel.list": (Nothing, self._list),
            "channel.export": (_Channel, self._export),
            "channel.join": (_Join, self._join),
            "channel.leave": (_Channel, self._leave),
            "channel.add-node": (_Member, self._add_node),
            "channel.remove-node": (_Member, self._remove_node),
            "channel.set-roles": (_Member, self._set_roles),
            "channel.announced": (_Announced, self._announced),
            "channel.find-member": (_Sought, self._find_member),
        }

    # --- the owner ---------------------------------------------------------------------------

    async def _create(self, params: _Create, live: LiveCall) -> Any:
        live.caller.require_write()
        services = self._services
        if not params.bootstraps:
            raise BadInput(
                what="channel", reason="it needs at least one --bootstrap ws://HOST:PORT"
            )
        book = services.context.book
        if any(book.signed(each).document.name == params.name for each in book):
            reason = "this node is on one of that name; give another, or leave that one first"
            raise BadInput(what=f"channel {params.name!r}", reason=reason)
        bootstraps = [await self._identify(text) for text in params.bootstraps]
        me = services.context.node_id
        key = NodeKey.generate(services.context.random_bytes)
        now = services.context.clock()
        members: dict[str, tuple[str, str]] = {me: (services.config.label, params.roles)}
        for url, node_id in bootstraps:
            label, roles = members.get(node_id, (url, "none"))
            members[node_id] = (label, f"{roles},{PROXY}")
        secret = services.context.random_bytes(SECRET_BYTES)
        document = ChannelDocument.create(
            params.name,
            key,
            secret,
            bootstraps,
            now,
            members=[(node_id, label, roles) for node_id, (label, roles) in members.items()],
            expires_at=None if params.expires_in is None else now + params.expires_in,
            open=params.open,
            default_roles=params.default_roles,
        )
        wanted = parse_roles(params.roles) | self._willing()
        channel = await services.documents.adopt(sign(document, key), wanted, secret, key)
        return self.describe(channel)

    def _willing(self) -> frozenset[str]:
        return frozenset({PROXY}) if self._services.config.proxy else frozenset()

    async def _identify(self, text: str) -> tuple[str, str]:
        """A bootstrap as URL#NODE_ID; without the id, whoever answers at the URL now."""
        url, _, node_id = text.partition("#")
        if node_id:
            return url, check_node_id(node_id)
        if url in self._services.context.urls:
            return url, self._services.context.node_id
        try:
            connection = await self._services.reach.dialer.dial(url)
            try:
                async with asyncio.timeout(DIAL_SECONDS):
                    session = await handshake(
                        connection,
                        initiator=True,
                        key=self._services.context.key,
                        random_bytes=self._services.context.random_bytes,
                    )
            finally:
                await connection.close()
        except BadInput:
            raise
        except (KacheryError, TimeoutError) as error:
            raise BadInput(
                what=f"bootstrap {url}",
                reason=f"no node answers there ({reason_of(error)}). Start it first, or give its "
                "id too: ws://HOST:PORT#NODE_ID",
            ) from error
        return url, session.peer.hex()

    def owned(self, name: str) -> tuple[bytes, ChannelDocument, NodeKey]:
        """A channel's id, document and key. Raises UnknownChannel, or AccessDenied if this node does
        not own it."""
        book = self._services.context.book
        channel = book.resolve(name)
        key = book.owner_key(channel)
        document = book.signed(channel).document
        if key is None:
            raise AccessDenied(
                channel=document.name,
                who="this node",
                role="owner",
                cause="the channel was created on another node; use that one",
            )
        return channel, document, key

    def _secret(self, channel: bytes) -> bytes:
        secret = self._services.context.book.secret(channel)
        if secret is None:
            raise BadInput(what="channel", reason="this node has lost the channel's secret")
        return secret[1]

    async def publish(
        self, document: ChannelDocument, key: NodeKey, fresh: bytes | None = None
    ) -> bytes:
        """From now on this is the channel's document, and it is on disk; the channel's id.

        No await may lie between the look at the document that was changed and this: of two changes of
        one version only one would count.

        Args:
            fresh: the channel's secret, if the change may have brought another one (32 bytes).

        Raises:
            ChangeNotKept: it counts, and everybody hears of it, but it is not on disk yet.
        """
        signed = sign(document, key)
        known = self._services.context.book.secret(document.channel_id)
        if known is not None and known[0] == document.secret_version:
            fresh = None
        self._services.documents.offer(signed.to_bytes(), fresh)
        await self._services.documents.kept(document.channel_id)
        return document.channel_id

    async def _add_node(self, params: _Member, live: LiveCall) -> Any:
        live.caller.require_write()
        channel, document, key = self.owned(params.channel)
        changed = document.with_member(
            check_node_id(params.node),
            params.label,
            parse_roles(params.roles),
            self._secret(channel),
            self._services.context.clock(),
        )
        return self.describe(await self.publish(changed, key))

    async def _remove_node(self, params: _Member, live: LiveCall) -> Any:
        live.caller.require_write()
        now = self._services.context.clock

        def without(document: ChannelDocument, node_id: str, fresh: bytes) -> ChannelDocument:
            return document.without_member(node_id, fresh, now())

        return await self._take_away(params, without)

    async def _take_away(self, params: _Member, less: _Less) -> dict[str, Any]:
        """Publish a document by which a member has less than before; what became of invitations.

        Those by which the member came are revoked with it
        (:mod:`kachery_p2p.node.channels.withdrawals`).
        """
        channel, document, _ = self.owned(params.channel)
        node_id, invitations = self.member_id(document, params.node), self._services.invitations
        before = {each["id"]: each["state"] for each in await invitations.described(channel)}
        came = await invitations.withdrawals.came_by(channel, node_id)
        # The channel may have changed meanwhile, and what that was must not be lost.
        _, document, key = self.owned(channel.hex())
        fresh = self._services.context.random_bytes(SECRET_BYTES)
        changed = less(document, node_id, fresh)
        if params.revoke_all:
            changed = changed.without_invitations(self._services.context.clock())
        await self.publish(changed, key, fresh)
        await invitations.withdrawals.done(channel)
        after = await invitations.described(channel)
        return self.describe(channel) | {
            "came_by": came,
            "revoked": [
                each
                for each in after
                if each["state"] == "revoked" and before.get(each["id"]) != "revoked"
            ],
            "open": [each for each in after if each["state"] == "open"],
            "revoked_all": params.revoke_all,
            "admitters": invitations.withdrawals.admitters(channel),
        }

    async def _set_roles(self, params: _Member, live: LiveCall) -> Any:
        live.caller.require_write()
        channel, _, _ = self.owned(params.channel)
        roles, now = parse_roles(params.roles), self._services.context.clock

        def with_these(document: ChannelDocument, node_id: str, fresh: bytes) -> ChannelDocument:
            return document.with_roles(node_id, roles, self._secret(channel), fresh, now())

        return await self._take_away(params, with_these)

    def member_id(self, document: ChannelDocument, text: str) -> str:
        """A member by node id, or by a label or the beginning of an id that only one has. Where the
        channel calls nobody so, it is the member that calls itself so.

        A whole id is the member's that has it, whatever others are called.
        """
        return self._called({m.node_id: m.label for m in document.members}, text)

    def _called(self, members: dict[str, str], text: str) -> str:
        """See :meth:`member_id`. ``members``: node ids, each with what its channel calls it."""
        text = text.strip()
        start = text.lower()
        found = [
            node_id
            for node_id, label in members.items()
            if text == label or (len(start) >= _LEAST_DIGITS and node_id.startswith(start))
        ]
        if not found:
            links = self._services.network.links
            calls_itself = {x.peer for x in links if x.hello is not None and x.hello.label == text}
            found = [node_id for node_id in members if node_id in calls_itself]
        if _is_id(start):
            found = [node_id for node_id in found if node_id == start]
        if len(found) != 1:
            shown = {each: self._shown_label(each, members[each]) for each in [*members][:20]}
            names = ", ".join(f"{label or '-'} {each}" for each, label in shown.items())
            reason = "several members fit; give the whole id" if found else "it is not a member"
            raise BadInput(what=f"node {text!r}", reason=f"{reason}; members: {names}")
        return found[0]

    # --- everybody ---------------------------------------------------------------------------

    async def _join(self, params: _Join, live: LiveCall) -> Any:
        live.caller.require_write()
        wanted = parse_roles(params.roles) | self._willing()
        if is_invitation(params.document):
            return self.describe(await self._services.joining.join(params.document, wanted))
        data, secret = from_text(params.document)
        signed = parse(data, now=self._services.context.clock())
        return self.describe(await self._services.documents.adopt(signed, wanted, secret))

    async def _leave(self, params: _Channel, live: LiveCall) -> Any:
        live.caller.require_write()
        book = self._services.context.book
        channel = book.resolve(params.channel)
        if book.owner_key(channel) is not None and params.secret:
            raise BadInput(
                what=f"channel {params.channel!r}",
                reason="this node owns it, and leaving would destroy the owner's key for ever; "
                "say --force if you mean it",
            )
        self._services.documents.leave(channel)
        await self._services.documents.kept(channel)
        return {"left": channel.hex()}

    async def _export(self, params: _Channel, live: LiveCall) -> Any:
        book = self._services.context.book
        channel = book.resolve(params.channel)
        signed = book.signed(channel)
        secret = book.secret(channel)
        give = signed.document.open and params.secret and secret is not None
        return {"text": signed.to_text(secret[1] if give and secret else None)}

    async def _show(self, params: _Channel, live: LiveCall) -> Any:
        await self._services.presence.refresh()
        channel = self._services.context.book.resolve(params.channel)
        keepers = await self._services.keepers.known(channel)
        described = self.describe(channel, members=True)
        for member in described["members"]:
            member["keeps"] = member["node"] in keepers
        return described | {"keeping": await self._services.keepers.told(channel)}

    async def _announced(self, params: _Announced, live: LiveCall) -> Any:
        """How far this node's log of announcements is, or what this node knows of another's."""
        channel = self._services.context.book.resolve(params.channel)
        if params.node is None:
            epoch, seq, pending = self._services.announcer.state(channel)
            return {"epoch": epoch, "seq": seq, "pending": pending}
        origin = bytes.fromhex(check_node_id(params.node))
        epoch, seq = self._services.availability.index.digest(channel).get(origin, (0, 0))
        return {"epoch": epoch, "seq": seq, "pending": False}

    async def _find_member(self, params: _Sought, live: LiveCall) -> Any:
        """A member of any channel. A whole id is itself, whoever has it, and may have no label."""
        book = self._services.context.book
        members: dict[str, str] = {}
        for channel in book:
            members |= {a.node_id: a.label for a in book.admissions(channel) if a.label}
            for member in book.signed(channel).document.members:
                members[member.node_id] = member.label or members.get(member.node_id, "")
        whole = params.node.strip().lower()
        node_id = whole if _is_id(whole) else self._called(members, params.node)
        return {"node": node_id, "label": members.get(node_id, "")}

    async def _list(self, params: Nothing, live: LiveCall) -> Any:
        return {"channels": [self.describe(channel) for channel in self._services.context.book]}

    def describe(self, channel: bytes, *, members: bool = False) -> dict[str, Any]:
        """A channel as the calls answer with it: plain values."""
        book = self._services.context.book
        document = book.signed(channel).document
        me = self._services.context.node_id
        described: dict[str, Any] = {
            "name": document.name,
            "id": channel.hex(),
            "version": document.version,
            "owner": book.owner_key(channel) is not None,
            "open": document.open,
            "expires_at": document.expires_at,
            "granted": sorted(book.granted(channel, me)),
            "wanted": sorted(book.wanted(channel)),
            "effective": sorted(book.effective(channel, me)),
            "member": book.is_member(channel, me),
            "bootstraps": [
                {"url": bootstrap.url, "node": bootstrap.node_id}
                for bootstrap in document.bootstraps
            ],
        }
        if members:
            online = self._services.presence.online(channel) | {me}
            described["members"] = [
                {
                    "node": member.node_id,
                    "label": self._shown_label(member.node_id, member.label),
                    "roles": sorted(member.roles),
                    "online": member.node_id in online,
                    "may_admit": sorted(document.may_admit(member.node_id)),
                    "admitted_by": None,
                }
                for member in document.members
            ] + [
                {
                    "node": admission.node_id,
                    "label": admission.label,
                    "roles": sorted(admission.roles),
                    "online": admission.node_id in online,
                    "may_admit": [],
                    "admitted_by": admission.admitter.hex(),
                }
                for admission in book.admissions(channel)
            ]
        return described

    def _shown_label(self, node_id: str, label: str) -> str:
        """What a channel calls a member; of a proxy that it knows by its URL alone, what that calls
        itself, as the status says it."""
        if "://" not in label:
            return label
        links = self._services.network.links
        own = next((x.hello.label for x in links if x.peer == node_id and x.hello is not None), "")
        return own or label


def _is_id(text: str) -> bool:
    return len(text) == _ID_DIGITS and set(text) <= set(hexdigits)
