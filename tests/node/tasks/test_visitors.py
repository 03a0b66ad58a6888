"""Visitors and tasks: what a link to a view lets be run, and what it does not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol.errors import AccessDenied, Busy, KacheryError, NotAMember
from kachery_p2p.protocol.limits import MAX_VISITOR_TASKS_EACH
from tests.node.channels.test_visits import Visitor, arrive
from tests.node.harness import Lab, laboratory, until

from .lab import DONE, Job, backend


async def linked(lab: Lab, *tasks: str) -> Any:
    """What ``share.create`` says of a view that may have these functions run."""
    sha1, _ = await lab.store("A", b"pack")
    view = {"title": "", "data": b"null", "contents": [], "tasks": list(tasks)}
    return await lab.call("A", "share.create", uri=f"sha1://{sha1}/view", view=view)


def run(visitor: Visitor, link: Link, function: str, kind: str = "query", **kwargs: Any) -> Stream:
    params = {
        "channel": visitor.channel,
        "task": bytes([len(kwargs)]) * 16,
        "function": function,
        "type": kind,
        "again": False,
        "look": True,
        "kwargs": json.dumps(kwargs, separators=(",", ":")).encode(),
    }
    return link.open("task.run", params)


async def end(stream: Stream) -> Any:
    """The last update."""
    update: Any = None
    while (item := await stream.receive()) is not None:
        update = item[0]
        stream.done(item[2])
    return update


async def here(lab: Lab, made: Any) -> tuple[Visitor, Link]:
    visitor = await arrive(lab, made)
    await visitor.visit(visitor.proxy, secret=b"")
    return visitor, await visitor.holder("B")


async def answer(job: Job) -> Any:
    return 42


async def test_a_visitor_runs_what_its_link_names_and_nothing_else() -> None:
    async with laboratory() as lab:
        functions = {"named.1": ("query", answer), "other.1": ("query", answer)}
        async with backend(lab, "B", functions):
            visitor, link = await here(lab, await linked(lab, "named.1"))
            update = await end(run(visitor, link, "named.1"))
            assert update[0] == "finished"
            assert update[7][5][1] == b"42"
            with pytest.raises(AccessDenied, match="to something else"):
                await end(run(visitor, link, "other.1"))
            for method in ("task.offers", "channel.online", "feed.evidence", "keep.list"):
                with pytest.raises(KacheryError):
                    await link.request(method, {"channel": visitor.channel})
            pull = {"channel": visitor.channel, "origins": []}
            circuit = {"channel": visitor.channel, "node": bytes.fromhex(lab.id("B"))}
            for stream in (
                link.open("gossip.pull", pull),
                visitor.proxy.open("gossip.pull", pull),
                visitor.proxy.open("circuit", circuit),
            ):
                with pytest.raises(NotAMember):
                    await end(stream)


async def test_the_result_that_is_a_file_goes_to_who_asked_and_to_no_other_visitor() -> None:
    async with laboratory() as lab:
        hidden = (await lab.call("B", "store", data=bytes(50_000), channel=None))["sha1"]

        async def large(job: Job) -> Any:
            await job.report("finished", payload=["bytes", None, f"sha1://{hidden}/r.dat"])
            return DONE

        async with backend(lab, "B", {"large.1": ("query", large)}):
            made = await linked(lab, "large.1")
            visitor, link = await here(lab, made)
            with pytest.raises(AccessDenied):
                await visitor.open(link, hidden)
            assert (await end(run(visitor, link, "large.1")))[0] == "finished"
            assert (await visitor.open(link, hidden))["size"] == 50_000
            other = await arrive(lab, made, "W")
            await other.visit(other.proxy, secret=b"")
            with pytest.raises(AccessDenied):
                await other.open(await other.holder("B"), hidden)


async def test_visitors_have_few_tasks_at_once_and_a_revoked_link_ends_them() -> None:
    async def wait(job: Job) -> Any:
        await job.report("running")
        await job.cancelled.wait()
        await job.report("cancelled", reason="as asked")
        return DONE

    async with laboratory() as lab, backend(lab, "B", {"wait.1": ("query", wait)}, slots=20):
        made = await linked(lab, "wait.1")
        visitor, link = await here(lab, made)
        streams = [
            run(visitor, link, "wait.1", **{f"n{i}": i for i in range(n)})
            for n in range(MAX_VISITOR_TASKS_EACH)
        ]
        for stream in streams:
            await stream.receive()
        with pytest.raises(Busy):
            await end(run(visitor, link, "wait.1", a=1, b=2, c=3, d=4, e=5))
        await lab.call("A", "share.revoke", id=made["link"])
        await until(lambda: link.closed_by is not None, "the visitor is cut")
        ended = await asyncio.gather(*(end(each) for each in streams), return_exceptions=True)
        assert all(isinstance(each, KacheryError) for each in ended)


async def test_an_offer_says_what_a_function_takes() -> None:
    signature = ["Counts.", [["text", "text", True]], False]
    async with laboratory() as lab:
        serving = backend(
            lab, "B", {"count.1": ("query", answer)}, signatures={"count.1": signature}
        )
        async with serving:
            found = await lab.call("A", "task.list", channel="lab")
            (offer,) = found["offers"]
            assert offer["signature"] == ["Counts.", [["text", "text", True, None, []]], False]
