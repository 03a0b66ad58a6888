"""The calls of the local API about invitations.

=========================  ============================================  =============================
call                       parameters                                    result
=========================  ============================================  =============================
``channel.invite``         channel, roles?, label?, uses?, expires_in?   the invitation, with its line
``channel.invites``        channel                                       invitations
``channel.revoke-invite``  channel, invitation                           the invitation
``channel.revoke-invites``  channel                                      invitations: those revoked
``channel.authorise``      channel, node, roles                          the channel
=========================  ============================================  =============================

``expires_in`` is in seconds. An invitation is named by its id or the beginning of it (8 digits), or by
the line. The line is in the answer to ``channel.invite`` and kept nowhere.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kachery_p2p.protocol.channels.document import check_label
from kachery_p2p.protocol.channels.invitation import is_invitation, parse_line, to_line
from kachery_p2p.protocol.channels.roles import parse_roles
from kachery_p2p.protocol.channels.share_link import is_secure, page_of, page_proxy
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import INVITATION_SECONDS
from kachery_p2p.storage.channels.invitations import InvitationRow

from .call_table import CallTable, OnChannel
from .channel_calls import ChannelCalls
from .live_call import LiveCall
from .services import Services

_LEAST_DIGITS = 8
_LONGEST_SECONDS = 10 * 365 * 24 * 3600.0


class _Invite(msgspec.Struct, frozen=True):
    channel: str
    roles: str | None = None
    label: str = ""
    uses: int = 1
    expires_in: Annotated[float, Meta(gt=0, le=_LONGEST_SECONDS)] = INVITATION_SECONDS


class _Revoke(msgspec.Struct, frozen=True):
    channel: str
    invitation: str


class _Authorise(msgspec.Struct, frozen=True):
    channel: str
    node: str
    roles: str


class InvitationCalls:
    """A method per call, for :class:`~.calls.Calls`."""

    def __init__(self, services: Services, channels: ChannelCalls) -> None:
        self._services = services
        self._channels = channels

    def calls(self) -> CallTable:
        return {
            "channel.invite": (_Invite, self._invite),
            "channel.invites": (OnChannel, self._invites),
            "channel.revoke-invite": (_Revoke, self._revoke),
            "channel.revoke-invites": (OnChannel, self._revoke_all),
            "channel.authorise": (_Authorise, self._authorise),
        }

    async def _invite(self, params: _Invite, live: LiveCall) -> Any:
        live.caller.require_write()
        check_label(params.label)
        invitation, row = await self._services.invitations.make(
            self._services.context.book.resolve(params.channel),
            roles=None if params.roles is None else parse_roles(params.roles),
            label=params.label,
            uses=params.uses,
            seconds=params.expires_in,
        )
        self._services.bootstraps.hurry()  # whoever gets it will come through them soon
        described = self._services.invitations.describe(row)
        line, proxy = to_line(invitation), page_proxy(invitation.bootstraps)
        link = f"{page_of(proxy.url)}#{line}" if is_secure(proxy.url) else ""
        return described | {"line": line, "channel": invitation.name, "link": link}

    async def _invites(self, params: OnChannel, live: LiveCall) -> Any:
        channel = self._services.context.book.resolve(params.channel)
        return {"invitations": await self._services.invitations.described(channel)}

    async def _revoke(self, params: _Revoke, live: LiveCall) -> Any:
        live.caller.require_write()
        channel = self._services.context.book.resolve(params.channel)
        row = await self._named(channel, params.invitation.strip())
        await self._revoke_these([row.id])
        after = await self._services.documents.ledger.do(
            lambda: self._services.state.invitation(row.id)
        )
        return self._services.invitations.describe(after or row)

    async def _revoke_all(self, params: OnChannel, live: LiveCall) -> Any:
        """All that are open: the owner's node ends those of others too."""
        live.caller.require_write()
        invitations, book = self._services.invitations, self._services.context.book
        channel = book.resolve(params.channel)
        before = await invitations.described(channel)
        live_ones = {row["id"] for row in before if row["state"] == "open"}
        if book.owner_key(channel) is not None:
            _, document, key = self._channels.owned(params.channel)
            changed = document.without_invitations(self._services.context.clock())
            await self._channels.publish(changed, key)
            await invitations.withdrawals.done(channel)
        else:
            await self._revoke_these([bytes.fromhex(id) for id in live_ones])
        after = await invitations.described(channel)
        return {"invitations": [each for each in after if each["id"] in live_ones]}

    async def _revoke_these(self, ids: list[bytes]) -> None:
        state = self._services.state

        def revoke() -> None:
            for id in ids:
                state.revoke_invitation(id)

        await self._services.documents.ledger.do(revoke)

    async def _rows(self, channel: bytes) -> list[InvitationRow]:
        state = self._services.state
        return await self._services.documents.ledger.do(lambda: state.invitations(channel.hex()))

    async def _named(self, channel: bytes, text: str) -> InvitationRow:
        rows = await self._rows(channel)
        if is_invitation(text):
            wanted = parse_line(text).key.node_id
        else:
            wanted = text.lower() if len(text) >= _LEAST_DIGITS else "?"
        found = [row for row in rows if row.id.hex().startswith(wanted)]
        if len(found) != 1:
            raise BadInput(
                what=f"invitation {text[:80]!r}",
                reason="this node has made none, or several, with that id; give its first digits "
                "as 'channel invites' shows them",
            )
        return found[0]

    async def _authorise(self, params: _Authorise, live: LiveCall) -> Any:
        live.caller.require_write()
        channel, document, key = self._channels.owned(params.channel)
        changed = document.with_admitter(
            self._channels.member_id(document, params.node),
            parse_roles(params.roles),
            self._services.context.clock(),
        )
        await self._channels.publish(changed, key)
        return self._channels.describe(channel, members=True)
