"""Share links: what a pass opens, to whom, until when, and what it does not."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from dataclasses import dataclass
from typing import Any

import pytest

from kachery_p2p.node.links.circuit import CircuitTransport
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.share_link import CHECK_BYTES, ShareLink
from kachery_p2p.protocol.channels.visitor_pass import VisitorPass, prove_pass, secret_of
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    KacheryError,
    NotAMember,
    NotFound,
    ShareRefused,
)
from kachery_p2p.protocol.feeds.feed import subfeed_hash
from kachery_p2p.protocol.files.messages import FILE_DOUBT
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import BLOCK, CIRCUIT_CREDIT
from tests.node.channels.test_authorised import authorise
from tests.node.files.contents import BIG, content
from tests.node.files.test_doubts import unseen_damage
from tests.node.harness import Lab, laboratory, until


def opened(made: dict[str, Any]) -> tuple[ShareLink, VisitorPass]:
    """What is in the link that ``share.create`` answered with."""
    text = made["link"].partition("#")[2]
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    link = codec.decode(ShareLink, data[CHECK_BYTES:])
    return link, codec.decode(VisitorPass, link.visitor_pass)


@dataclass
class Visitor:
    """A node that is on no channel, with a share link; as a page does it."""

    lab: Lab
    name: str
    share: ShareLink
    record: VisitorPass
    proxy: Link
    stamp: bytes = b""

    @property
    def channel(self) -> bytes:
        return self.record.channel

    def proof(self, link: Link) -> bytes:
        return prove_pass(
            NodeKey(self.share.seed),
            channel=self.channel,
            verifier=bytes.fromhex(link.peer),
            visitor=self.lab[self.name].context.key.public,
            handshake_hash=link.session.handshake_hash,
        )

    async def visit(self, link: Link, *, secret: bytes | None = None, **changes: Any) -> Any:
        params = {
            "channel": self.channel,
            "visitor_pass": self.share.visitor_pass,
            "secret": secret_of(self.share.seed) if secret is None else secret,
            "proof": self.proof(link),
            "stamp": self.stamp,
        }
        return await link.request("visit", params | changes)

    async def circuit(self, node: str) -> Link:
        """End to end with a member, through the proxy."""
        network = self.lab[self.name].network
        params = {"channel": self.channel, "node": bytes.fromhex(node)}
        stream = self.proxy.open("visit.circuit", params, credit=CIRCUIT_CREDIT)
        return await network.attend(
            CircuitTransport(stream, "a holder"),
            initiator=True,
            expected=node,
            via=self.proxy.peer,
            guest_of=self.channel,
        )

    async def holder(self, name: str) -> Link:
        """The same, and the pass is shown."""
        link = await self.circuit(self.lab.id(name))
        await self.visit(link)
        return link

    async def use(self, link: Link) -> None:
        params = {
            "channel": self.channel,
            "visitor_pass": self.record.id,
            "proof": self.proof(link),
        }
        self.stamp = (await link.request("visit.use", params))["stamp"]

    async def who_has(self) -> Any:
        return await self.proxy.request(
            "who-has",
            {
                "channel": self.channel,
                "kind": "files",
                "keys": list(self.share.keys),
                "secret_version": self.share.secret_version,
                "hold": 0,
            },
        )

    async def open(self, link: Link, sha1: str) -> Any:
        return await link.request(
            "file.open", {"channel": self.channel, "sha1": bytes.fromhex(sha1)}
        )


async def arrive(lab: Lab, made: dict[str, Any], name: str = "V") -> Visitor:
    """Somebody opens a link: a guest at the proxy that has shown nothing yet."""
    share, record = opened(made)
    if name not in lab.nodes:
        await lab.start(name)
    reach = lab[name].reach
    link = await reach.connect(
        f"ws://{lab['P'].listening}", share.proxy.hex(), guest_of=record.channel
    )
    return Visitor(lab, name, share, record, link)


async def shared(lab: Lab, data: bytes = b"results", **options: Any) -> tuple[Any, str]:
    """What ``share.create`` says of a file that A has stored, and its hash."""
    sha1, _ = await lab.store("A", data)
    return await lab.call("A", "share.create", uri=f"sha1://{sha1}/r.txt", **options), sha1


async def test_a_visitor_finds_and_gets_what_its_link_is_to_and_nothing_else() -> None:
    async with laboratory() as lab:
        made, sha1 = await shared(lab)
        other, _ = await lab.store("A", b"not for visitors")
        visitor = await arrive(lab, made)
        assert await visitor.visit(visitor.proxy, secret=b"") == {"name": "lab"}
        found = await visitor.who_has()
        assert [node["label"] for node in found["nodes"]] == ["A"]
        assert [node["urls"] for node in found["nodes"]] == [[]]
        link = await visitor.holder("A")
        assert (await visitor.open(link, sha1))["inline"] == b"results"
        with pytest.raises(AccessDenied, match="to something else"):
            await visitor.open(link, other)
        for method in ("channel.online", "task.offers"):
            with pytest.raises(KacheryError):
                await link.request(method, {"channel": visitor.channel})
        # It is on no member's list, and no document tells of it.
        assert not lab["A"].network.is_member(visitor.channel, lab.id("V"))
        assert lab["P"].network.version_of(visitor.channel) == lab["A"].network.version_of(
            visitor.channel
        )


async def test_a_pass_that_was_not_shown_opens_nothing() -> None:
    async with laboratory() as lab:
        made, sha1 = await shared(lab)
        visitor = await arrive(lab, made)
        with pytest.raises(NotAMember):
            await visitor.who_has()
        with pytest.raises(KacheryError, match="not a member"):
            await visitor.circuit(lab.id("A"))
        await visitor.visit(visitor.proxy, secret=b"")
        link = await visitor.circuit(lab.id("A"))
        with pytest.raises(NotAMember):
            await visitor.open(link, sha1)
        # A proof for the proxy is none for the holder, and a proxy vouches for nobody.
        with pytest.raises(ShareRefused):
            await visitor.visit(link, proof=visitor.proof(visitor.proxy))
        await visitor.visit(link, secret=bytes(32))
        with pytest.raises(AccessDenied):
            await visitor.open(link, sha1)


async def test_a_link_works_while_the_computer_on_which_it_was_made_is_off() -> None:
    async with laboratory() as lab:
        made, sha1 = await shared(lab)
        await lab.load("B", sha1)
        await lab.announced("B")
        await lab.stop("A")
        visitor = await arrive(lab, made)
        await visitor.visit(visitor.proxy, secret=b"")
        link = await visitor.holder("B")
        assert (await visitor.open(link, sha1))["inline"] == b"results"


async def test_a_revoked_link_ends_visits_everywhere_and_after_restarts() -> None:
    async with laboratory() as lab:
        made, sha1 = await shared(lab)
        await lab.load("B", sha1)
        visitor = await arrive(lab, made)
        await visitor.visit(visitor.proxy, secret=b"")
        at_b = await visitor.holder("B")
        revoked = await lab.call("A", "share.revoke", id=made["link"])
        assert revoked["state"] == "revoked"
        await until(lambda: at_b.closed_by is not None, "the holder's link is cut")
        await until(lambda: visitor.proxy.closed_by is not None, "the proxy's link is cut")
        # All forget but the one that made it, who tells them again.
        await lab.stop("B")
        await lab.restart("P")
        await lab.restart("A")
        await lab.linked("A", "lab")
        known = lab["P"].network.visitors
        await until(lambda: known.is_revoked(visitor.record), "the proxy is told again")
        again = await arrive(lab, made)
        with pytest.raises(ShareRefused, match="revoked"):
            await again.visit(again.proxy, secret=b"")
        listed = (await lab.call("A", "share.list"))["shares"]
        assert [each["state"] for each in listed] == ["revoked"]


async def test_a_link_for_one_visitor_is_worth_nothing_to_a_second() -> None:
    async with laboratory() as lab:
        made, sha1 = await shared(lab, uses=1)
        first = await arrive(lab, made)
        await first.visit(first.proxy, secret=b"")
        with pytest.raises(ShareRefused, match="counted"):
            await first.who_has()
        with pytest.raises(KacheryError, match="counted"):
            await first.circuit(lab.id("B"))
        await first.use(await first.circuit(lab.id("A")))
        await first.visit(first.proxy, secret=b"")
        link = await first.holder("A")
        assert (await first.open(link, sha1))["inline"] == b"results"
        await first.use(link)  # whose answer was lost asks again
        second = await arrive(lab, made, "W")
        await second.visit(second.proxy, secret=b"")
        with pytest.raises(ShareRefused, match="as often as it may be"):
            await second.use(await second.circuit(lab.id("A")))
        with pytest.raises(ShareRefused, match="counted"):
            await second.visit(second.proxy, secret=b"", stamp=first.stamp)


async def test_a_link_is_over_at_its_time_and_what_is_open_by_it_ends() -> None:
    clock = {"ahead": 0.0}

    def adjust(context: Any) -> Any:
        real = context.clock
        context.clock = lambda: real() + clock["ahead"]
        return context

    async with laboratory(channel=False, adjust=adjust) as lab:
        await lab.channel("lab", {"A": "all", "B": "all"})
        made, _ = await shared(lab, expires_in=60)
        visitor = await arrive(lab, made)
        await visitor.visit(visitor.proxy, secret=b"")
        clock["ahead"] = 120.0
        with pytest.raises(ShareRefused, match="time is over"):
            await visitor.who_has()
        lab["P"].network.visitors.sweep()
        await until(lambda: visitor.proxy.closed_by is not None)


async def test_who_may_not_admit_may_not_share_and_is_told_what_to_do() -> None:
    async with laboratory() as lab:
        sha1, _ = await lab.store("B", b"mine")
        with pytest.raises(BadInput, match="channel authorise"):
            await lab.call("B", "share.create", uri=f"sha1://{sha1}")
        with pytest.raises(AccessDenied, match="channel authorise"):
            await lab.call("B", "share.create", uri=f"sha1://{sha1}", channel="lab")
        await lab.call("A", "channel.authorise", channel="lab", node="B", roles="request-files")
        await until(lambda: lab["B"].visits.may_share(lab.channels["lab"]))
        made = await lab.call("B", "share.create", uri=f"sha1://{sha1}")
        await until(
            lambda: (
                lab["P"].visits._book.signed(lab.channels["lab"]).document.may_admit(lab.id("B"))
            )
        )
        visitor = await arrive(lab, made)
        await visitor.visit(visitor.proxy, secret=b"")
        # Its leave is taken back: so are the links that it made.
        await lab.call("A", "channel.authorise", channel="lab", node="B", roles="none")
        await until(lambda: visitor.proxy.closed_by is not None, "the visit ends")


async def test_the_owner_ends_all_links_at_once() -> None:
    async with laboratory() as lab:
        made, _ = await shared(lab)
        visitor = await arrive(lab, made)
        await visitor.visit(visitor.proxy, secret=b"")
        await lab.call("A", "channel.revoke-invites", channel="lab")
        await until(lambda: visitor.proxy.closed_by is not None, "the visit ends")


async def test_a_visitor_reads_the_subfeed_of_its_link_and_no_other() -> None:
    async with laboratory() as lab:
        feed = (await lab.call("A", "feed.create", name="f"))["feed"]
        for name in ("shared", "private"):
            await lab.call("A", "feed.append", feed=feed, subfeed=subfeed_hash(name), name=name,
                           data=b'"hello"', count=1)  # fmt: skip
        made = await lab.call("A", "share.create", uri=f"feed://{feed.hex()}/shared")
        visitor = await arrive(lab, made)
        await visitor.visit(visitor.proxy, secret=b"")
        link = await visitor.holder("A")

        def follow(name: str) -> Any:
            params = {
                "channel": visitor.channel,
                "feed": feed,
                "subfeed": subfeed_hash(name),
                "position": 0,
                "stop": 1,
                "quiet": False,
            }
            return link.open("feed.follow", params, credit=1 << 20)

        stream = follow("shared")
        bodies = []
        while (item := await stream.receive()) is not None:
            _, body, cost = item
            bodies.append(b"" if body is None else bytes(await stream.open_body(body)))
            stream.done(cost)
        assert b'"hello"' in bodies
        stream = follow("private")
        with pytest.raises(AccessDenied, match="something else"):
            await stream.receive()


async def test_a_link_says_whether_its_maker_has_computed_both_hashes_of_the_same_bytes() -> None:
    async with laboratory() as lab:
        sha1, manifest = await lab.store("A", content(BIG))
        uris = {True: f"sha1://{sha1}/r.dat", False: f"sha1://{sha1}/r.dat?manifest={'ab' * 20}"}
        loaded = {False: f"sha1://{sha1}/r.dat?manifest={manifest}"}
        await authorise(lab, "B")
        await lab.load("B", sha1, manifest)
        for name, wanted in (("A", uris), ("B", loaded)):
            for same, uri in wanted.items():
                share, _ = opened(await lab.call(name, "share.create", uri=uri))
                assert share.same_bytes == same, (name, uri)


async def test_what_a_disk_changed_unseen_is_put_aside_when_a_visitor_says_so() -> None:
    async with laboratory() as lab:
        sha1, manifest = await lab.store("A", content(BIG))
        other, _ = await lab.store("A", content(BIG, 2))
        uri = f"sha1://{sha1}/r.dat?manifest={manifest}"
        visitor = await arrive(lab, await lab.call("A", "share.create", uri=uri))
        await visitor.visit(visitor.proxy, secret=b"")
        holder = await visitor.holder("A")
        unseen_damage(lab, sha1, 0)
        unseen_damage(lab, other, 0)
        doubt = {"channel": visitor.channel, "start": 0, "stop": BLOCK}
        holder.note(FILE_DOUBT, doubt | {"sha1": bytes.fromhex(other)})
        holder.note(FILE_DOUBT, doubt | {"sha1": bytes.fromhex(sha1)})
        await until(lambda: lab["A"].store.find(sha1) is None, "put aside")
        assert lab["A"].store.find(other) is not None
        with pytest.raises(NotFound):
            await visitor.open(holder, sha1)


async def test_members_of_the_channel_go_on_as_before() -> None:
    async with laboratory() as lab:
        made, sha1 = await shared(lab)
        visitor = await arrive(lab, made)
        await visitor.visit(visitor.proxy, secret=b"")
        assert (await lab.load("B", sha1))["size"] == 7
        with pytest.raises(NotFound):
            await lab.load("B", "ab" * 20)


async def test_visitors_beyond_the_bound_make_the_idle_one_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kachery_p2p.node.links.guests.MAX_VISITORS", 2)
    async with laboratory() as lab:
        made, _ = await shared(lab)
        visitors = []
        for name in "UVW":
            visitors.append(await arrive(lab, made, name))
            await visitors[-1].visit(visitors[-1].proxy, secret=b"")
        await until(lambda: len(lab["P"].network.visitors) == 2)
        closed = [each.proxy.closed_by is not None for each in visitors]
        await until(lambda: sum(each.proxy.closed_by is not None for each in visitors) == 1)
        assert not closed[2]
        # Members are none of them.
        assert lab["P"].network.links_to(lab.id("A"), lab.channels["lab"])


async def test_a_visitor_appends_where_its_link_says_so_on_the_node_that_made_it() -> None:
    async with laboratory() as lab:
        feed = (await lab.call("A", "feed.create", name="f"))["feed"]
        uri = {name: f"feed://{feed.hex()}/{name}" for name in ("written", "read")}
        sha1, _ = await lab.store("A", b"pack")
        contents = [{"uri": text, "may_append": name == "written"} for name, text in uri.items()]
        view = {"title": "", "data": b"null", "contents": contents}
        made = await lab.call("A", "share.create", uri=f"sha1://{sha1}/view", view=view)
        visitor = await arrive(lab, made)
        await visitor.visit(visitor.proxy, secret=b"")
        link = await visitor.holder("A")

        async def submit(name: str, text: bytes, count: int = 1) -> Any:
            params = {
                "channel": visitor.channel,
                "feed": feed,
                "subfeed": subfeed_hash(name),
                "name": name,
                "submission": bytes(16),
            }
            stream = link.open("feed.submit", params, credit=1 << 20)
            await stream.send([count], text)
            item = await stream.receive()
            assert item is not None
            return item[0]

        assert await submit("written", b'{"a": 1}') == [0, 1]
        assert await submit("written", b'{"a": 1}') == [0, 1]  # the same submission
        for name in ("read", "other"):
            with pytest.raises(AccessDenied, match="something else"):
                await submit(name, b"1")
        with pytest.raises(KacheryError, match="in all"):
            await submit("written", b"\n".join([b"1"] * 1_001), 1_001)
        await lab.call("A", "share.revoke", id=made["link"])
        with pytest.raises(KacheryError):
            await submit("written", b"2")


async def test_only_the_node_of_a_feed_makes_links_that_append_to_it() -> None:
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", b"pack")
        content = {"uri": f"feed://{'ab' * 32}/x", "may_append": True}
        view = {"title": "", "data": b"null", "contents": [content]}
        with pytest.raises(BadInput, match="key lies on the node"):
            await lab.call("A", "share.create", uri=f"sha1://{sha1}/view", view=view)
        assert (await lab.call("A", "share.list"))["shares"] == []
