"""The calls of the local API about share links.

================  ========================================  ==========================================
call              parameters                                result
================  ========================================  ==========================================
``share.create``  uri, channel?, uses?, expires_in?, view?  the share, link, here
``share.list``    -                                         shares
``share.revoke``  id                                        the share
================  ========================================  ==========================================

``view`` says that the file at ``uri`` is the pack of a view: its title, the JSON that it is given, and
the contents that it may ask for, as uri and may_append, and the functions that it may have run.

``uses`` 0, the default, is any number; ``expires_in`` is in seconds. ``here`` says whether this node
itself can give what is shared. A share is named by its id, or the beginning of it (8 digits), or by
the link itself. The link is in the answer to ``share.create`` and kept nowhere.
"""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from kachery_p2p.node.tasks.backends import Choice
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.share_link import (
    VERSION,
    LinkedContent,
    LinkedTask,
    LinkedView,
    ShareLink,
    id_of,
    is_secure,
    page_of,
    page_proxy,
    to_url,
)
from kachery_p2p.protocol.channels.visitor_pass import Mark
from kachery_p2p.protocol.errors import BadInput, KacheryError
from kachery_p2p.protocol.feeds.feed import subfeed_hash
from kachery_p2p.protocol.feeds.keys import append_key, subfeed_key
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.gossip.keys import ContentKey, provide_role, request_role
from kachery_p2p.protocol.limits import (
    MAX_LINK_RUNNERS,
    MAX_PASS_SCOPE,
    MAX_VIEW_DATA,
    MAX_VIEW_TITLE,
    PASS_SECONDS,
)
from kachery_p2p.protocol.tasks.keys import task_function_key
from kachery_p2p.protocol.uri import KacheryUri, build_uri, parse_uri
from kachery_p2p.storage.channels.passes import PassRow

from .call_table import CallTable, Nothing
from .live_call import LiveCall
from .services import Services

_LEAST_DIGITS = 8


class _Content(msgspec.Struct, frozen=True):
    uri: str
    may_append: bool


class _View(msgspec.Struct, frozen=True):
    title: Annotated[str, Meta(max_length=MAX_VIEW_TITLE)]
    data: Annotated[bytes, Meta(max_length=MAX_VIEW_DATA)]
    contents: Annotated[list[_Content], Meta(max_length=MAX_PASS_SCOPE)]
    tasks: Annotated[list[str], Meta(max_length=MAX_PASS_SCOPE)] = []


class _Share(msgspec.Struct, frozen=True):
    uri: str
    channel: str | None = None
    uses: Annotated[int, Meta(ge=0)] = 0
    expires_in: Annotated[float, Meta(gt=0)] = PASS_SECONDS
    view: _View | None = None


class _Revoke(msgspec.Struct, frozen=True):
    id: str


class _Shared(NamedTuple):
    """``uri``: as the page gets it, with its manifest if there is one. ``same_bytes``: this node has
    computed both of its hashes itself."""

    uri: str
    contents: list[ContentKey]
    may_append: bool = False
    same_bytes: bool = False

    def marks(self) -> list[Mark]:
        """What the pass is for."""
        made: list[Mark] = [content.blinded for content in self.contents]
        if self.may_append:
            identifier = self.contents[0].identifier
            made.append(append_key(identifier[:32], identifier[32:]).blinded)
        return made

    def keys(self, secret: bytes) -> tuple[bytes, ...]:
        """Under what it is looked for on a channel with that secret."""
        return tuple(content.blinded(secret) for content in self.contents)


class ShareCalls:
    """A method per call, for :class:`~.calls.Calls`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._book = services.context.book
        self._visits = services.visits

    def calls(self) -> CallTable:
        return {
            "share.create": (_Share, self._create),
            "share.list": (Nothing, self._list),
            "share.revoke": (_Revoke, self._revoke),
        }

    async def _create(self, params: _Share, live: LiveCall) -> Any:
        live.caller.require_write()
        shared = await self._shared(parse_uri(params.uri))
        beside = [await self._beside(each) for each in params.view.contents] if params.view else []
        everything = [shared, *beside]
        tasks = [task_function_key(each) for each in params.view.tasks] if params.view else []
        kinds = [each.contents[0].kind for each in everything] + [each.kind for each in tasks]
        roles = frozenset(map(request_role, kinds))
        marks = [mark for each in everything for mark in each.marks()]
        marks += [each.blinded for each in tasks]
        if len(marks) > MAX_PASS_SCOPE:
            reason = f"a link is to {MAX_PASS_SCOPE} contents at most, and large files count twice"
            raise BadInput(what="view", reason=reason)
        channel = self._channel(params.channel, roles)
        document = self._book.signed(channel).document
        secret = self._book.secret(channel)
        if not document.bootstraps or secret is None:
            raise BadInput(
                what=f"channel {document.name!r}",
                reason="a link goes through a proxy of the channel, and this node must have its "
                "secret: see 'kachery-p2p doctor'",
            )
        proxy = page_proxy(document.bootstraps)
        if not is_secure(proxy.url):
            raise BadInput(
                what=f"channel {document.name!r}",
                reason=f"its proxy is at {proxy.url}, and browsers do cryptography only for pages "
                "from https://: give the proxy a certificate ('daemon start --tls-cert', or a "
                "reverse proxy) and the channel its wss:// address ('channel add-bootstrap')",
            )
        made, seed = await self._visits.make(
            channel,
            uri=shared.uri,
            roles=roles,
            contents=marks,
            uses=params.uses,
            seconds=params.expires_in,
        )
        link = ShareLink(
            VERSION,
            document.name,
            codec.encode(made),
            seed,
            shared.uri,
            shared.keys(secret[1]),
            secret[0],
            proxy.public,
            None
            if params.view is None
            else _linked(params.view, beside, secret[1], await self._runners(params.view, channel)),
            shared.same_bytes,
        )
        self._services.bootstraps.hurry()  # whoever gets it will come through them soon
        row = PassRow(
            made.id, channel.hex(), shared.uri, params.uses, made.issued_at, made.expires_at
        )
        here = all([await self._is_here(each, channel) for each in everything])
        return self._describe(row) | {"link": to_url(link, page_of(proxy.url)), "here": here}

    async def _shared(self, uri: KacheryUri) -> _Shared:
        """What there is to share under a URI. Raises BadInput."""
        if uri.kind == "feed":
            if not uri.path:
                raise BadInput(
                    what=f"URI {str(uri)!r}",
                    reason="share a subfeed, such as feed://.../measurements",
                )
            key = subfeed_key(bytes.fromhex(uri.hash), subfeed_hash(uri.path))
            return _Shared(str(uri), [key])
        if uri.kind != "sha1" or uri.chunk_of is not None:
            raise BadInput(what=f"URI {str(uri)!r}", reason="share a file, or a subfeed")
        disk, state = self._services.context.workers.disk, self._services.state
        known = await disk(state.manifest, uri.hash)
        manifest = uri.manifest or known
        text = build_uri(sha1=uri.hash, label=uri.label, manifest=manifest)
        hashes = [uri.hash] if manifest is None else [uri.hash, manifest]
        same = manifest is not None and manifest == known
        return _Shared(text, [file_key(sha1) for sha1 in hashes], same_bytes=same)

    async def _beside(self, content: _Content) -> _Shared:
        """What a view may ask for. Raises BadInput."""
        uri = parse_uri(content.uri)
        shared = await self._shared(uri)
        if not content.may_append:
            return shared
        if uri.kind != "feed" or not await self._services.feeds.is_own(bytes.fromhex(uri.hash)):
            raise BadInput(
                what=f"URI {content.uri!r}",
                reason="visitors can append to a subfeed whose key lies on the node that makes the "
                "link, and to nothing else; create a feed here",
            )
        return shared._replace(may_append=True)

    def _channel(self, named: str | None, roles: frozenset[str]) -> bytes:
        """The channel on which to share. Raises BadInput: the caller must say which."""
        if named is not None:
            return self._book.resolve(named)
        found = [channel for channel in self._book if roles <= self._visits.may_share(channel)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(sorted(self._book.signed(each).document.name for each in found))
        reason = (
            f"name one with --channel: {names}"
            if found
            else (
                "this node may share on none: it takes the node of a channel's owner, or one that the "
                "owner authorised ('kachery-p2p channel authorise')"
            )
        )
        raise BadInput(what="channel", reason=reason)

    async def _is_here(self, shared: _Shared, channel: bytes) -> bool:
        services = self._services
        uri = parse_uri(shared.uri)
        if provide_role(shared.contents[0].kind) not in services.network.own_roles(channel):
            return False
        if uri.kind == "feed":
            return await services.feeds.is_own(bytes.fromhex(uri.hash))

        def look() -> bool:
            context = services.context
            return services.store.find(uri.hash) is not None and context.may_leave(
                uri.hash, channel
            )

        return await services.context.workers.disk(look)

    async def _runners(self, view: _View, channel: bytes) -> tuple[bytes, ...]:
        """Members that may compute for a view: those that offer its functions now before others."""
        if not view.tasks:
            return ()
        offers: list[Choice] = []
        with contextlib.suppress(KacheryError):  # a link may be made while nobody computes
            offers, _ = await self._services.task_backends.all(channel, patience=0)
        wanted = set(view.tasks)
        now = [each.holder.node for each in offers if each.holder and each.offer.function in wanted]
        members = [each.node_id for each in self._book.signed(channel).document.members]
        able = [
            each
            for each in dict.fromkeys([*now, *members])
            if "provide-tasks" in self._book.effective(channel, each)
        ]
        return tuple(bytes.fromhex(each) for each in able[:MAX_LINK_RUNNERS])

    async def _list(self, params: Nothing, live: LiveCall) -> Any:
        return {"shares": [self._describe(row) for row in await self._visits.made()]}

    async def _revoke(self, params: _Revoke, live: LiveCall) -> Any:
        live.caller.require_write()
        wanted = id_of(params.id) or params.id.lower()
        found = [
            row
            for row in await self._visits.made()
            if len(wanted) >= _LEAST_DIGITS and row.id.hex().startswith(wanted)
        ]
        if len(found) != 1:
            raise BadInput(
                what=f"share {params.id[:80]!r}",
                reason="this node has none, or several, with that id; give its first digits as "
                "'kachery-p2p share --list' shows them, or the link",
            )
        await self._visits.take_back(found[0])
        return self._describe(found[0]) | {"state": "revoked"}

    def _describe(self, row: PassRow) -> dict[str, Any]:
        return {
            "id": row.id.hex(),
            "channel": self._services.network.name_of(bytes.fromhex(row.channel_id)),
            "uri": row.uri,
            "uses": row.uses,
            "used": row.used,
            "created_at": row.created_at,
            "expires_at": row.expires_at,
            "state": self._visits.state_of(row),
        }


def _linked(
    view: _View, beside: list[_Shared], secret: bytes, runners: tuple[bytes, ...]
) -> LinkedView:
    contents = tuple(LinkedContent(each.uri, each.keys(secret), each.may_append) for each in beside)
    tasks = tuple(
        LinkedTask(each, (task_function_key(each).blinded(secret),)) for each in view.tasks
    )
    return LinkedView(view.title, view.data, contents, tasks, runners)
