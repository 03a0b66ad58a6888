"""What a node says of what goes on in it."""

from __future__ import annotations

import asyncio
import os

import pytest

from kachery_p2p.protocol.files.messages import FILE_READ
from kachery_p2p.protocol.limits import (
    MAX_LOCAL_FRAME,
    MAX_STATUS_LABEL,
    MAX_STATUS_NAMES,
    MAX_STATUS_ROWS,
    MAX_STATUS_TEXT,
)
from kachery_p2p.protocol.local import messages as local
from tests.node.harness import laboratory, until
from tests.node.tasks.lab import Job, Request, backend


async def test_lists_are_bounded_counted_and_fit_a_frame() -> None:
    async with laboratory() as lab:
        node = lab["A"]
        many = MAX_STATUS_ROWS + 20
        for number in range(many):
            await lab.call("A", "feed.create", name=f"{number}")
            node.context.warn("é" * 9_000 + f" {number}. Do this.")
        feeds = (await lab.call("A", "feed.list"))["feeds"]
        for each in feeds:
            name = "🙂" * 900
            await node.own_feeds.append((each["feed"], os.urandom(20)), name, [b"1"])
        waiting = [
            asyncio.create_task(
                lab.call(
                    "A", "task.request", task=os.urandom(16), function="f" * 200, type="query",
                    kwargs=b"{}", backend_timeout=60.0,
                )
            )
            for _ in range(many)
        ]  # fmt: skip
        await until(lambda: len(node.task_requests.live) == many)
        status = await lab.call("A", "status")
        for name in ("feeds", "tasks"):
            assert len(status[name]) == MAX_STATUS_ROWS
            assert status["totals"][name] == many
        assert len(status["warnings"]) <= MAX_STATUS_ROWS
        newest = status["warnings"][0]["text"]
        assert newest.endswith(f"{many - 1}. Do this.")  # what to do is not what is cut
        assert all(len(each["text"]) <= MAX_STATUS_TEXT for each in status["warnings"])
        assert all(len(each["name"]) <= MAX_STATUS_LABEL for each in status["feeds"])
        frame = local.encode_message(local.Answer(1, status))
        assert len(frame) < MAX_LOCAL_FRAME
        for request in waiting:
            request.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_every_moment_is_unix_time_whoever_sets_the_clock_meanwhile() -> None:
    async with laboratory() as lab:
        node, clock = lab["A"], lab["A"].context.clock
        began = (await lab.call("A", "status"))["node"]["started_at"]
        assert clock() - began >= 0.0
        node.context.clock = lambda: clock() - 86_400.0
        status = await lab.call("A", "status")
        assert status["links"]
        for moment in (status["now"], *(link["opened_at"] for link in status["links"])):
            assert began <= moment <= clock()
        # Unix time as a float is exact to a fraction of a microsecond.
        assert status["now"] - began == pytest.approx(status["node"]["uptime"], abs=1e-6)


async def test_a_busy_proxy_names_some_of_those_who_are_on_line() -> None:
    names = tuple(f"N{number:02}" for number in range(MAX_STATUS_NAMES + 3))
    async with laboratory(*names) as lab:
        for name in names:
            await lab.linked(name, "lab")
        status = await lab.call("P", "status")
        (channel,) = status["channels"]
        assert channel["proxy"]
        assert channel["online"] == len(names)
        assert len(channel["names"]) == MAX_STATUS_NAMES
        assert set(channel["names"]) <= set(names)
        assert channel["members"] == len(names) + 1
        assert {link["label"] for link in status["links"]} == set(names)


async def test_what_is_being_sent_is_told_with_to_whom() -> None:
    async with laboratory() as lab:
        data = os.urandom(3_000_000)
        sha1, _ = await lab.store("A", data)
        other, _ = await lab.store("A", b"so that there is a link")
        await lab.load("B", other)
        link = lab["B"].network.links_to(lab.id("A"), lab.channels["lab"])[0]
        params = {
            "channel": lab.channels["lab"],
            "sha1": bytes.fromhex(sha1),
            "ranges": [(0, len(data))],
            "proofs": False,
        }
        # Whoever grants no credit gets nothing, and is shown for as long as that lasts.
        stream = link.open(FILE_READ, params, credit=0)
        await until(lambda: [each for each in lab["A"].provider.reading() if each.size])
        (upload,) = (await lab.call("A", "status"))["uploads"]
        assert upload == {
            "sha1": sha1,
            "name": "",
            "node": lab.id("B"),
            "label": "B",
            "via_label": "P",
            "channel": "lab",
            "size": len(data),
            "sent": 0,
            "ranges": 1,
        }
        stream.grant(100_000)
        await until(lambda: lab["A"].provider.sent(lab["A"].provider.reading()[0]))
        (upload,) = (await lab.call("A", "status"))["uploads"]
        assert 0 < upload["sent"] <= 100_000
        stream.end()
        await until(lambda: not lab["A"].provider.reading())
        assert (await lab.call("A", "status"))["uploads"] == []


async def test_files_on_their_way_have_the_names_that_their_users_gave_them() -> None:
    async with laboratory() as lab:
        data = os.urandom(3_000_000)
        sha1, _ = await lab.store("A", data)
        lab["A"].inventory.touch(sha1, "recording.dat")
        other, _ = await lab.store("A", b"so that there is a link")
        await lab.load("B", other)
        link = lab["B"].network.links_to(lab.id("A"), lab.channels["lab"])[0]
        params = {
            "channel": lab.channels["lab"],
            "sha1": bytes.fromhex(sha1),
            "ranges": [(0, len(data))],
            "proofs": False,
        }
        stream = link.open(FILE_READ, params, credit=0)
        await until(lambda: [each for each in lab["A"].provider.reading() if each.size])
        (upload,) = (await lab.call("A", "status"))["uploads"]
        assert upload["name"] == "recording.dat"
        stream.end()
        await until(lambda: not lab["A"].provider.reading())
        # Who reads a part of it calls it by another name, and so does who wants all of it then.
        downloader = lab["B"].downloader
        async with downloader.hold(sha1, None, None, [(0, 1)], label="mine.dat"):
            (download,) = (await lab.call("B", "status"))["downloads"]
            assert download["name"] == "mine.dat"
            await downloader.load(sha1, label="another.dat")
            assert lab["B"].inventory.thing(sha1).label == "mine.dat"


async def test_the_storage_is_counted_as_it_changes() -> None:
    async with laboratory("A") as lab:
        node = lab["A"]
        await until(lambda: node.inventory.complete)
        for number in range(110):
            node.store.store_bytes(b"%5d" % number)
        told = (await lab.call("A", "status"))["storage"]
        assert (told["blobs"], told["links"], told["used"], told["limit"]) == (110, 0, 550, None)
        assert 0 < told["free"] <= told["size"]
        node.store.store_bytes(b"one more")
        assert (await lab.call("A", "status"))["storage"]["used"] == 558


async def test_tasks_are_told_on_both_sides_with_their_backends() -> None:
    async with laboratory() as lab:
        gate = asyncio.Event()

        async def slow(job: Job) -> str:
            await job.report("running", fraction=0.25, message="fitting")
            await job.report("running", message="x" * 200)
            await gate.wait()
            return "null"

        async with backend(lab, "A", {"slow.1": ("query", slow)}, slots=1):
            running = Request(lab, "B", "slow.1", {}, type="query")
            await running.state("running")
            waiting = Request(lab, "B", "slow.1", {}, type="query")
            own = Request(lab, "A", "slow.1", {}, type="query")
            await until(lambda: len(lab["A"].task_queue.jobs) == 3)
            await until(lambda: "x" in running.live.told[-1]["message"])
            (shown,) = (await lab.call("B", "task.show", task=running.task))["tasks"]
            late = Request(lab, "B", "slow.1", {}, type="query", task=running.task)
            await until(lambda: late.live.told)
            asked = (await lab.call("B", "status"))["tasks"]
            here = await lab.call("A", "status")
            gate.set()
            await asyncio.gather(running.end(), waiting.end(), own.end())
        assert [(each["state"], each["side"]) for each in asked] == [
            ("running", "requested"),
            ("queued", "requested"),
        ]
        assert {each["label"] for each in asked} == {"A"}
        # How far a function says that it is, to who asks and to who asks late.
        assert (shown["fraction"], shown["message"]) == (0.25, "x" * 200)
        assert [(each["fraction"], len(each["message"])) for each in asked] == [
            (0.25, 80),
            (None, 0),
        ]
        assert [each["fraction"] for each in here["tasks"]] == [0.25, None, None]
        assert (late.live.told[0]["fraction"], late.live.told[0]["message"]) == (0.25, "x" * 200)
        # What this node asks of itself is told once.
        assert [each["side"] for each in here["tasks"]] == ["here"] * 3
        assert [each["state"] for each in here["tasks"]] == ["running", "queued", "queued"]
        assert {each["node"] for each in here["tasks"]} == {lab.id("A"), lab.id("B")}
        (offered,) = here["backends"]
        assert offered["functions"] == ["slow.1"]
        assert (offered["slots"], offered["busy"]) == (1, 1)
        after = await lab.call("A", "status")
        assert after["tasks"] == after["backends"] == []
