"""Nodes that the owner has authorised admit readers while it is away."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.admission import admit
from kachery_p2p.protocol.channels.invitation import parse_line
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    InvitationRefused,
    KacheryError,
)
from kachery_p2p.protocol.gossip.messages import WHO_HAS, WhoHas
from kachery_p2p.protocol.identity import NodeKey
from tests.node.channels.inviting import invite, join, lab_of_one, removed, state_of
from tests.node.harness import Lab, laboratory, until


def roles_of(lab: Lab, name: str, node: str) -> frozenset[str]:
    return lab[name].context.book.effective(lab.channels["lab"], lab.id(node))


# --- an authorised node admits -----------------------------------------------------------------


async def authorise(lab: Lab, node: str, roles: str = "request") -> None:
    await lab.call("A", "channel.authorise", channel="lab", node=lab.id(node), roles=roles)
    channel = lab.channels["lab"]
    version = lab["A"].network.version_of(channel)
    await until(lambda: lab[node].network.version_of(channel) == version)


async def test_readers_are_admitted_while_the_owner_is_away() -> None:
    async with laboratory("A", "S", "R", "N", channel=False) as lab:
        channel = await lab.channel("lab", dict.fromkeys("ASR", "all"))
        await authorise(lab, "S")
        sha1, _ = await lab.store("S", b"data")
        await lab.stop("A")
        joined = await join(lab, "N", await invite(lab, "S"))
        assert joined["member"]
        assert joined["granted"] == ["request-feeds", "request-files", "request-tasks"]
        await lab.linked("N", "lab")
        await lab.load("N", sha1)
        assert lab.bytes_of("N", sha1) == b"data"
        # Every member knows, and so do those that come back later, or start anew.
        await until(lambda: roles_of(lab, "R", "N"))
        for name in ("P", "R", "N"):
            await lab.restart(name)
            await until(lambda name=name: roles_of(lab, name, "N"), name)  # type: ignore[misc]
        # It may read, and nothing else.
        assert not any(role.startswith("provide") for role in roles_of(lab, "S", "N"))
        shown = await lab.call("S", "channel.show", channel="lab")
        assert [m["admitted_by"] for m in shown["members"] if m["label"] == "N"] == [lab.id("S")]
        # The owner's node takes it into the document when it is back, and all forget the record.
        before = lab["S"].network.version_of(channel)
        await lab.start("A")
        await until(lambda: lab["N"].network.version_of(channel) > before)
        document = lab["N"].context.book.signed(channel).document
        assert document.member(lab.id("N")) is not None
        for name in ("A", "S", "N"):
            await until(lambda name=name: not lab[name].state.admissions(channel.hex()))  # type: ignore[misc]
        await lab.load("N", (await lab.store("S", b"more"))[0])


async def test_an_admission_that_comes_before_the_document_is_not_lost() -> None:
    async with laboratory("A", "S", "R", "N", channel=False) as lab:
        channel = await lab.channel("lab", dict.fromkeys("ASR", "all"))
        documents = lab["R"].documents
        pull, held = documents._pull_once, asyncio.Event()

        async def slow(link: Link, channel: bytes) -> None:
            await held.wait()
            await pull(link, channel)

        documents._pull_once = slow  # type: ignore[method-assign]
        old = lab["R"].network.version_of(channel)
        await authorise(lab, "S")
        lab["A"].network.handlers.notes.pop("channel.admissions")
        await join(lab, "N", await invite(lab, "S"))
        await until(lambda: roles_of(lab, "P", "N"))
        # What P said before it answers has come to R: the admission, and it did not count.
        (link,) = lab["R"].network.links_to(lab.id("P"), channel)
        await link.request(WHO_HAS, codec.plain(WhoHas(channel, "files", [bytes(16)], 1, 0)))
        assert lab["R"].network.version_of(channel) == old
        assert not roles_of(lab, "R", "N")
        held.set()
        await until(lambda: roles_of(lab, "R", "N"))


async def test_an_authorised_node_gives_reading_roles_only() -> None:
    async with laboratory("A", "S") as lab:
        with pytest.raises(BadInput, match="request-files"):
            await authorise(lab, "S", "all")
        await authorise(lab, "S", "request-files")
        with pytest.raises(AccessDenied, match="request-feeds"):
            await invite(lab, "S", roles="request")
        with pytest.raises(AccessDenied, match="provide-files"):
            await invite(lab, "S", roles="files")
        assert await invite(lab, "S", roles="request-files")
        with pytest.raises(AccessDenied, match="created on another node"):
            await lab.call(
                "S", "channel.authorise", channel="lab", node=lab.id("S"), roles="request"
            )


async def test_who_has_no_role_but_proxy_is_authorised_to_nothing() -> None:
    async with lab_of_one() as lab:
        with pytest.raises(BadInput, match="has not got request-files itself"):
            await authorise(lab, "P", "request-files")


async def test_an_admitter_whose_roles_are_taken_admits_no_puppet() -> None:
    """A puppet that it admitted afterwards was sealed the new secret."""
    async with laboratory("A", "S", "N", channel=False) as lab:
        channel = await lab.channel("lab", dict.fromkeys("AS", "all"))
        await authorise(lab, "S")
        line = await invite(lab, "S", uses=5)
        before = lab["S"].context.book.signed(channel).document
        await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("S"), roles="none")
        after = lab["A"].context.book.signed(channel).document
        await until(lambda: lab["P"].network.version_of(channel) == after.version)
        await until(lambda: lab["S"].network.version_of(channel) == after.version)
        # It never learns the new secret, but it may say that it has it.
        puppet = lab["N"].context.key.public
        made = admit(
            lab["S"].context.key,
            before,
            puppet,
            "x",
            frozenset({"request-files"}),
            bytes(32),
            0.0,
            bytes(32),
        )
        lie = msgspec.structs.replace(made, secret_version=after.secret_version)
        body = codec.pack(codec.plain(lie)[:-1])
        signature = lab["S"].context.key.sign(b"admission", body)
        forged = codec.encode(msgspec.structs.replace(lie, signature=signature))
        for name in "AP":
            assert not lab[name].admissions.add(channel, forged)
            assert lab.id("N") not in {
                a.node_id for a in lab[name].context.book.admissions(channel)
            }
        assert lab["A"].context.book.signed(channel).document.member(lab.id("N")) is None
        with pytest.raises(AccessDenied):
            await invite(lab, "S")
        with pytest.raises(KacheryError):
            await join(lab, "N", line)
        assert not roles_of(lab, "A", "N")


async def test_an_authorisation_that_is_taken_back_ends_invitations_and_admissions() -> None:
    async with laboratory("A", "S", "N", "M", channel=False) as lab:
        await lab.channel("lab", dict.fromkeys("AS", "all"))
        await authorise(lab, "S")
        line = await invite(lab, "S", uses=2)
        # The owner does not hear of it: as if it were away.
        lab["A"].network.handlers.notes.pop("channel.admissions")
        await join(lab, "N", line)
        await until(lambda: roles_of(lab, "A", "N") or roles_of(lab, "P", "N"))
        assert not roles_of(lab, "A", "N")
        await authorise(lab, "S", "none")
        await until(lambda: not roles_of(lab, "P", "N") and not roles_of(lab, "S", "N"))
        with pytest.raises(InvitationRefused, match="may not admit"):
            await join(lab, "M", line)


async def test_who_is_removed_does_not_come_back_by_an_old_admission() -> None:
    async with laboratory("A", "S", "N", channel=False) as lab:
        channel = await lab.channel("lab", dict.fromkeys("AS", "all"))
        await authorise(lab, "S")
        await join(lab, "N", await invite(lab, "S"))
        record = lab["N"].state.admissions(channel.hex())
        await until(lambda: lab["A"].context.book.signed(channel).document.member(lab.id("N")))
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("N"))
        version = lab["A"].network.version_of(channel)
        await until(lambda: lab["P"].network.version_of(channel) == version)
        for data in record.values():
            for name in "APS":
                assert not lab[name].admissions.add(channel, data)
        assert not roles_of(lab, "P", "N")


@pytest.mark.parametrize("away", [False, True])
async def test_an_admitters_line_is_void_when_who_came_by_it_is_removed(away: bool) -> None:
    """``away``: the admitter was not there while its newcomer was taken in and removed."""
    async with laboratory("A", "S", "N", "M", channel=False) as lab:
        channel = await lab.channel("lab", dict.fromkeys("AS", "all"))
        await authorise(lab, "S")
        line, other = await invite(lab, "S", uses=5), await invite(lab, "S")
        if away:
            await lab.stop("A")
        await join(lab, "N", line)
        if away:
            await until(lambda: lab["P"].network.is_member(channel, lab.id("N")))
            await lab.stop("S")
            await lab.restart("A")
        await until(lambda: lab["A"].context.book.signed(channel).document.member(lab.id("N")))
        report = await removed(lab, "N")
        assert report["came_by"]["admitted_by"] == lab_id(lab, "S")
        assert report["came_by"]["invitations"] == [parse_line(line).key.node_id]
        assert report["revoked"] == [], "it is another node's"
        assert lab["A"].state.arrival(channel.hex(), lab.id("N")) is None
        assert [each["label"] for each in report["admitters"]] == ["S"]
        if away:
            await lab.restart("S")
        version = lab["A"].network.version_of(channel)
        await until(lambda: lab["S"].network.version_of(channel) == version)
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "M", line)
        assert sorted(await state_of(lab, "S")) == ["open", "revoked"]
        assert any("is revoked" in text for _, text in lab["S"].context.warnings)
        # The owner ends those of others, too.
        await lab.call("A", "channel.revoke-invites", channel="lab")
        version = lab["A"].network.version_of(channel)
        await until(lambda: lab["S"].network.version_of(channel) == version)
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "M", other)


def lab_id(lab: Lab, name: str) -> str:
    """Of a node that may be stopped."""
    path = lab.configs[name].state_dir / "node.key"
    return NodeKey(bytes.fromhex(path.read_text().strip())).node_id


async def test_whom_an_admitter_let_in_is_named_when_it_loses_its_roles_and_stays() -> None:
    async with laboratory("A", "S", "N", channel=False) as lab:
        channel = await lab.channel("lab", dict.fromkeys("AS", "all"))
        await authorise(lab, "S")
        await join(lab, "N", await invite(lab, "S", label="newcomer"))
        await until(lambda: lab["A"].context.book.signed(channel).document.member(lab.id("N")))
        report = await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("S"),
                                roles="none")  # fmt: skip
        assert report["came_by"]["let_in"] == [{"node": lab.id("N"), "label": "newcomer"}]
        assert report["admitters"] == []
        assert lab["A"].network.is_member(channel, lab.id("N"))
        report = await removed(lab, "S")
        assert [each["label"] for each in report["came_by"]["let_in"]] == ["newcomer"]


async def test_an_admitter_revokes_all_its_own() -> None:
    async with laboratory("A", "S", "N", channel=False) as lab:
        await lab.channel("lab", dict.fromkeys("AS", "all"))
        await authorise(lab, "S")
        line = await invite(lab, "S", uses=5)
        ended = await lab.call("S", "channel.revoke-invites", channel="lab")
        assert [each["state"] for each in ended["invitations"]] == ["revoked"]
        with pytest.raises(InvitationRefused, match="revoked"):
            await join(lab, "N", line)


async def test_an_admission_by_who_is_not_authorised_counts_for_nobody() -> None:
    async with laboratory("A", "B", "S") as lab:
        channel = lab.channels["lab"]
        await authorise(lab, "S")
        await until(
            lambda: lab["P"].network.version_of(channel) == lab["S"].network.version_of(channel)
        )
        book = lab["S"].context.book
        secret = book.secret(channel)
        assert secret is not None
        made = admit(
            lab["S"].context.key, book.signed(channel).document, bytes(31) + b"\x09", "x",
            frozenset({"request-files"}), secret[1], 0.0, bytes(32),
        )  # fmt: skip
        forged = msgspec.structs.replace(made, admitter=lab["B"].context.key.public)
        assert not lab["P"].admissions.add(channel, codec.encode(forged))
        wider = msgspec.structs.replace(made, bits=63)
        assert not lab["P"].admissions.add(channel, codec.encode(wider))
        changed = msgspec.structs.replace(made, node=bytes(31) + b"\x0a")
        with pytest.raises(KacheryError, match="did not sign"):
            lab["P"].admissions.add(channel, codec.encode(changed))
        assert lab["P"].admissions.add(channel, codec.encode(made))
        assert not lab["P"].admissions.add(channel, codec.encode(made)), "no news"
