"""Members that ask for much and take nothing: what a node holds for them is bounded, others are served.

What each peer makes a node hold is on one account, :mod:`kachery_p2p.node.links.budget`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kachery_p2p.node.links import stream as stream_module
from kachery_p2p.node.links.circuit import window_for
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.limits import (
    ANSWER_BYTES,
    CIRCUIT_CREDIT,
    CIRCUIT_CREDIT_LEAST,
    EXCHANGES_MOST,
    FILES_MOST,
    HELD_MOST,
    MAX_BODY,
    MAX_LINKS_PER_PEER,
    MAX_TASK_KWARGS,
)
from kachery_p2p.protocol.links.frames import (
    OPAQUE_TAIL,
    SEALED_TAIL,
    Credit,
    Data,
    End,
    Open,
    Request,
)
from kachery_p2p.protocol.links.session import TAG_BYTES
from tests.node.harness import Lab, laboratory, until
from tests.node.links.raw import Rogue, rogue
from tests.node.tasks.lab import Job, backend
from tests.patience import patience

BIG = 24 * MAX_BODY


@contextlib.asynccontextmanager
async def greedy(at: str = "A", *, known: bytes = b"") -> AsyncIterator[tuple[Lab, Rogue, str]]:
    """``C``, a member, linked to ``at`` by hand; at the end nothing of its is left there."""
    async with laboratory("A", "B", "C", listening=("A",)) as lab:
        sha1, _ = await lab.store("A", known or bytes(BIG))
        async with rogue(lab[at].listening, lab["C"].context.key) as peer:
            peer.channel = lab.channels["lab"]
            before = len(lab[at].network.links)
            await peer.hello(lab["C"].context.book)
            await until(lambda: len(lab[at].network.links) > before, "the link")
            yield lab, peer, sha1
            assert await loads(lab, sha1), "others are served all the while"
        await until(lambda: held(lab, at) == (0, 0, 0), "all is given back")


def held(lab: Lab, name: str, peer: str = "C") -> tuple[int, int, int]:
    """What a node holds for a peer: bytes, exchanges, open files."""
    budgets, party = lab[name].network.budgets, lab.id(peer)
    pools = (budgets.bytes, budgets.exchanges, budgets.files)
    bytes_, exchanges, files = (pool.shares.held(party) for pool in pools)
    return bytes_, exchanges, files


async def loads(lab: Lab, sha1: str) -> bool:
    async with asyncio.timeout(patience(20)):
        return bool(await lab.call("B", "load", sha1=sha1))


async def quiet(lab: Lab, name: str) -> int:
    """The bytes that are held when no more come to be: what is asked for has been dealt with."""
    last, same = -1, 0
    while same < 20:
        now = held(lab, name)[0]
        same, last = (same + 1 if now == last else 0), now
        await asyncio.sleep(0.01)
    return last


def read(peer: Rogue, number: int, sha1: str, *, proofs: bool = False) -> Open:
    return Open(number, "file.read", {
        "channel": peer.channel, "sha1": bytes.fromhex(sha1), "ranges": [(0, BIG)],
        "proofs": proofs}, 1 << 30)  # fmt: skip


@pytest.mark.parametrize("proofs", [False, True])
async def test_a_thousand_reads_that_nobody_takes_hold_no_more_than_one_share(proofs: bool) -> None:
    async with greedy() as (lab, peer, sha1):
        for number in range(1, 1_001, 2):
            await peer.send(read(peer, number, sha1, proofs=proofs))
        await until(lambda: held(lab, "A")[1] == 500, "all are being served")
        assert await quiet(lab, "A") <= HELD_MOST + 2 * MAX_BODY
        _, exchanges, files = held(lab, "A")
        assert exchanges == 500
        assert files <= FILES_MOST


async def test_documents_that_nobody_takes_hold_no_more_than_one_share() -> None:
    async with greedy() as (lab, peer, _):
        for number in range(1, 1_001, 2):
            await peer.send(Open(number, "channel.document", {"channel": peer.channel}, 1 << 30))
        assert await quiet(lab, "A") <= HELD_MOST + 2 * MAX_BODY


async def test_answers_that_nobody_takes_hold_no_more_than_one_share() -> None:
    async with greedy(known=b"x" * 40_000) as (lab, peer, sha1):
        params = {"channel": peer.channel, "sha1": bytes.fromhex(sha1)}
        for number in range(1, 2_001, 2):
            await peer.send(Request(number, "file.open", params))
        bytes_, exchanges, _ = held(lab, "A")
        assert bytes_ <= HELD_MOST
        assert bytes_ <= exchanges * ANSWER_BYTES


async def test_more_exchanges_than_a_peer_may_have_are_refused_and_the_link_lives() -> None:
    async with greedy() as (lab, peer, sha1):
        lab["A"].network.budgets.exchanges.shares.force(lab.id("C"), EXCHANGES_MOST - 1)
        await peer.send(read(peer, 1, sha1))
        await peer.send(read(peer, 3, sha1))
        end = await peer.hear(End)
        assert (end.id, end.code) == (3, "busy")
        lab["A"].network.budgets.exchanges.give(lab.id("C"), EXCHANGES_MOST - 1)


async def test_circuits_that_are_filled_and_never_emptied_hold_no_more_than_one_share() -> None:
    async with greedy("P") as (lab, peer, _):
        # B's end takes nothing: what is sent to it stays at the proxy.
        to_b = lab["P"].network.links_to(lab.id("B"), peer.channel)[0]
        to_b.send_on = lambda *_, **__: False  # type: ignore[method-assign]
        target = {"channel": peer.channel, "node": bytes.fromhex(lab.id("B"))}
        body = bytes(CIRCUIT_CREDIT_LEAST // 4)
        for number in range(1, 201, 2):
            await peer.send(Open(number, "circuit", target, 1 << 30))
        await until(lambda: len(lab["P"].relay) or held(lab, "P")[0], "circuits")
        assert await quiet(lab, "P") <= HELD_MOST
        carried = 0
        for number in range(1, 201, 2):
            with contextlib.suppress(Exception):
                await peer.send(Data(number, None, OPAQUE_TAIL, len(body)), body)
                carried += 1
        assert carried
        assert await quiet(lab, "P") <= HELD_MOST
        del to_b.send_on


@pytest.mark.parametrize(
    ("free", "window"),
    [(1 << 40, CIRCUIT_CREDIT), (HELD_MOST, CIRCUIT_CREDIT), (6 << 20, 1 << 20),
     ((6 << 20) - 1, 1 << 19), (1 << 20, 1 << 17), (0, CIRCUIT_CREDIT_LEAST)],
)  # fmt: skip
def test_the_more_circuits_a_node_has_the_less_each_may_hold(free: int, window: int) -> None:
    assert window_for(free) == window


async def test_a_record_longer_than_the_window_goes_over_a_circuit_in_pieces() -> None:
    async with laboratory("A", "B") as lab:
        share = lab["P"].network.budgets.of(lab.id("B")).bytes
        share.force(HELD_MOST)
        share.pool.shares.give(lab.id("B"), 2 * CIRCUIT_CREDIT_LEAST)
        sha1, _ = await lab.store("A", bytes(range(256)) * 20_000)
        loaded = await lab.call("B", "load", sha1=sha1)
        assert loaded["size"] == 256 * 20_000
        assert lab["P"].relay.relayed_bytes > 256 * 20_000
        share.give(HELD_MOST - 2 * CIRCUIT_CREDIT_LEAST)


async def test_arguments_of_tasks_are_on_the_account_of_who_sent_them_and_go_with_it() -> None:
    text = b'{"x":"' + b"y" * (MAX_TASK_KWARGS - 8) + b'"}'

    async def never(job: Job) -> Any:
        await job.cancelled.wait()

    calculation = {"add.1": ("pure-calculation", never)}
    async with greedy() as (lab, peer, _), backend(lab, "A", calculation, slots=1):
        for number in range(1, 401, 2):
            params = {"channel": peer.channel, "task": number.to_bytes(16, "big"),
                      "function": "add.1", "type": "pure-calculation", "again": False}  # fmt: skip
            await peer.send(Open(number, "task.run", params, 1 << 30))
        assert await quiet(lab, "A") <= HELD_MOST
        jobs = lab["A"].task_queue.jobs
        for count in range(20):
            number = (await peer.hear(Credit)).id
            mine = text.replace(b"y", str(count % 10).encode(), 1).replace(
                b"yy", b"%02d" % count, 1
            )
            await peer.send(Data(number, [len(mine)], SEALED_TAIL, len(mine) + TAG_BYTES), mine)
        await until(lambda: len(jobs) == 20, "jobs")
        assert await quiet(lab, "A") <= HELD_MOST
        assert held(lab, "A")[0] >= sum(len(job.kwargs) for job in jobs.values())
        await peer.connection.close()
        await until(lambda: len(jobs) <= 1, "what nobody waits for has left the queue")
        assert not lab["A"].task_queue._waiting


async def test_a_stream_that_nothing_is_taken_from_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "STREAM_STALL_SECONDS", 0.1)
    async with greedy() as (_, peer, sha1):
        number = Open(1, "file.read", {
            "channel": peer.channel, "sha1": bytes.fromhex(sha1), "ranges": [(0, BIG)],
            "proofs": False}, 10)  # fmt: skip
        await peer.send(number)
        end = await peer.hear(End)
        assert (end.id, end.code) == (1, "link-closed")
        assert "nothing was taken" in codec.plain(end.fields)["reason"]


async def test_a_task_without_arguments_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "STREAM_STALL_SECONDS", 0.1)
    async with greedy() as (_, peer, __):
        params: dict[str, Any] = {"channel": peer.channel, "task": bytes(16), "function": "add.1",
                                  "type": "query", "again": False}  # fmt: skip
        await peer.send(Open(1, "task.run", params, 1 << 30))
        end = await peer.hear(End)
        assert (end.id, end.code) == (1, "link-closed")


async def test_one_link_too_many_of_a_peer_ends_the_one_that_was_idle_longest() -> None:
    async with laboratory("A", "C", listening=("A",)) as lab, contextlib.AsyncExitStack() as stack:
        a, book = lab["A"], lab["C"].context.book
        peers: list[Rogue] = []
        others = len([link for link in a.network.links if link.peer == lab.id("C")])
        for count in range(MAX_LINKS_PER_PEER - others + 1):
            peer = await stack.enter_async_context(rogue(a.listening, lab["C"].context.key))
            await peer.hello(book)
            await until(lambda: len(a.network.links) > 0)
            peers.append(peer)
            del count
        await until(
            lambda: (
                len([x for x in a.network.links if x.peer == lab.id("C")]) <= MAX_LINKS_PER_PEER
            ),
            "one of them ends",
        )
