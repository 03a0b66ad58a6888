"""Feeds with real nodes: what one appends, others read, follow and answer."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import pytest

import kachery_p2p as kc
from kachery_p2p.protocol import errors
from kachery_p2p.protocol.limits import MAX_FEED_MESSAGE, MAX_SLICE
from tests import forked
from tests.daemons import Daemon, Lab, at, short_folder

pytestmark = pytest.mark.processes

R = TypeVar("R")
PATIENT = 10_000.0
"""Milliseconds; what is waited for is under way."""
PRIMES = [p for p in range(2, 100) if all(p % d for d in range(2, p))]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One for the whole module; each test has feeds of its own."""
    with short_folder() as folder, Lab(folder) as made:
        yield made


def made(messages: list[Any], name: Any = "n") -> kc.Subfeed:
    """A subfeed of a new feed of the node that this process is at."""
    subfeed = kc.create_feed().load_subfeed(name)
    subfeed.append_messages(messages)
    return subfeed


def announced(read: Callable[[], R]) -> R:
    """What ``read`` gives as soon as the proxy has heard of the feed; each time is a call."""
    deadline = time.monotonic() + PATIENT / 1000
    while True:
        try:
            if found := read():
                return found
        except errors.NotFound:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline


# --- feeds ---------------------------------------------------------------------------------------


def test_a_feed_has_a_name_on_its_own_node(lab: Lab) -> None:
    with at(lab.a):
        feed = kc.create_feed("named")
        assert feed.is_writeable
        assert not feed.is_snapshot
        assert kc.load_feed("named").uri == kc.load_feed(feed.uri).uri == feed.uri
        assert kc.load_feed("named", create=True).uri == feed.uri
        assert kc.load_feed("named").is_writeable
        assert kc.get_feed_id("named") == feed.feed_id
        with pytest.raises(errors.BadInput):
            kc.create_feed("named", replace=False)
        for call in (kc.load_feed, kc.get_feed_id, kc.delete_feed):
            with pytest.raises(errors.UnknownFeed, match=r"called .absent.*feed create NAME"):
                call("absent")
        assert kc.get_feed_id("new", create=True) == kc.load_feed("new").feed_id
        assert kc.create_feed().uri != kc.create_feed().uri
    with at(lab.b):
        assert not kc.load_feed(feed.uri).is_writeable
        with pytest.raises(errors.UnknownFeed):
            kc.load_feed("named")


def test_a_feed_is_listed_and_shown_until_it_is_deleted(lab: Lab) -> None:
    with at(lab.a):
        feed = kc.create_feed("short-lived")
        subfeed = feed.load_subfeed({"a": 1})
        subfeed.append_messages([1, 2, 3])
        feed.load_subfeed("other").append_message(1)
        (listed,) = [each for each in kc.list_feeds() if each["feed_id"] == feed.feed_id]
        assert (listed["name"], listed["writeable"], listed["uri"]) == (
            "short-lived",
            True,
            feed.uri,
        )
        sizes = {each["hash"]: each["size"] for each in listed["subfeeds"]}
        assert sizes[subfeed.subfeed_hash] == 3
        assert len(feed.show()["subfeeds"]) == 2
        (only,) = feed.show({"a": 1})["subfeeds"]
        assert (only["uri"], only["size"], only["forked"]) == (subfeed.uri, 3, False)
        assert feed.delete() is True
        assert kc.delete_feed(feed.uri) is False
        assert feed.feed_id not in [each["feed_id"] for each in kc.list_feeds()]
        with pytest.raises(errors.UnknownFeed):
            kc.load_feed("short-lived")
        with pytest.raises((errors.FeedReadOnly, errors.UnknownFeed)):
            subfeed.append_message(4)


# --- on one node ---------------------------------------------------------------------------------


def test_messages_are_numbered_and_read_from_a_position(lab: Lab) -> None:
    with at(lab.a):
        subfeed = kc.create_feed().load_subfeed("n")
        assert subfeed.get_next_messages() == []
        assert subfeed.get_next_message() is None
        assert subfeed.append_message({"first": "é"}) == 0
        assert subfeed.append_messages([1, None, [2.5]]) == [1, 2, 3]
        assert subfeed.submit_message("own") == 4
        assert subfeed.get_num_local_messages() == 5
        assert subfeed.get_next_message() == {"first": "é"}
        assert subfeed.get_next_messages(max_num_messages=2, advance_position=False) == [1, None]
        assert subfeed.position == 1
        assert subfeed.get_next_messages() == [1, None, [2.5], "own"]
        assert subfeed.position == 5
        again = kc.load_subfeed(subfeed.uri)
        again.set_position(4)
        assert again.get_next_messages() == ["own"]


def test_a_batch_of_many_megabytes_arrives_whole_and_in_order(lab: Lab) -> None:
    messages = [{"n": n, "x": "é" * (n % 7) * 10_000} for n in range(60)]
    messages += ["x" * (MAX_FEED_MESSAGE - 2)] * 3
    with at(lab.a):
        subfeed = kc.create_feed().load_subfeed("n")
        assert subfeed.append_messages(messages) == list(range(63))
        assert sum(len(str(m)) for m in messages) > 3 * MAX_SLICE
        assert subfeed.get_next_messages() == messages
        subfeed.set_position(58)
        assert subfeed.get_next_messages(max_num_messages=4) == messages[58:62]


def test_nothing_of_a_batch_with_a_bad_message_is_appended(lab: Lab) -> None:
    with at(lab.a):
        subfeed = made([0])
        for wrong in (float("inf"), {1, 2}, "x" * MAX_FEED_MESSAGE):
            with pytest.raises(errors.BadInput, match=r"\[2\]"):
                subfeed.append_messages(["x" * 900_000, "x" * 900_000, wrong])
        assert subfeed.get_next_messages() == [0]


def test_many_small_appends_are_read_together(lab: Lab) -> None:
    async def main() -> list[Any]:
        subfeed = (await kc.acreate_feed()).load_subfeed("n")
        numbers = [await subfeed.aappend_message(n) for n in range(1_500)]
        assert numbers == list(range(1_500))
        return await subfeed.aget_next_messages()

    with at(lab.a):
        assert asyncio.run(main()) == list(range(1_500))


def test_signed_messages_prove_themselves(lab: Lab) -> None:
    with at(lab.a):
        subfeed = made(list(range(2_100)))
        subfeed.set_position(50)
        signed = subfeed.get_next_messages(signed=True)
        assert [each["body"]["message"] for each in signed] == list(range(50, 2_100))
        assert [each["body"]["messageNumber"] for each in signed] == list(range(50, 2_100))
        for each in signed[::300]:
            assert each["body"]["metaData"] == {}
            kc.check_signed_message(each, subfeed.uri)
        subfeed.set_position(7)
        one = subfeed.get_next_message(signed=True)
        kc.check_signed_message(one)
        one["body"]["message"] = 8
        with pytest.raises(errors.ForgedFeed):
            kc.check_signed_message(one)


def test_waiting_ends_with_a_message_or_without(lab: Lab) -> None:
    with at(lab.a):
        subfeed = made([])
        assert subfeed.get_next_messages(wait_msec=1) == []
        timer = threading.Timer(0.2, lambda: kc.load_subfeed(subfeed.uri).append_message("late"))
        timer.start()
        assert subfeed.get_next_messages(wait_msec=PATIENT) == ["late"]
        timer.join()


def test_several_subfeeds_are_watched_at_once(lab: Lab) -> None:
    with at(lab.a):
        feed = kc.create_feed()
        one, other = feed.load_subfeed("one"), feed.load_subfeed("other")
        one.append_messages([1, 2, 3])
        watches: dict[Any, Any] = {
            "by name": {"feedId": feed.feed_id, "subfeedName": "one", "position": 1},
            ("by", "hash"): {"feed_uri": feed.uri, "subfeedHash": other.subfeed_hash},
            5: {"feed_uri": one.uri, "position": 3},
        }
        found = kc.watch_for_new_messages(watches, wait_msec=0)
        assert found == {"by name": [2, 3]}
        watches["by name"]["position"] = 3
        assert kc.watch_for_new_messages(watches, wait_msec=1) == {}
        timer = threading.Timer(0.2, lambda: kc.load_subfeed(other.uri).append_messages([7, 8]))
        timer.start()
        assert kc.watch_for_new_messages(watches, wait_msec=PATIENT) == {("by", "hash"): [7, 8]}
        timer.join()
        found = kc.watch_for_new_messages(watches, wait_msec=0, signed=True, max_num_messages=1)
        (signed,) = found["by", "hash"]
        kc.check_signed_message(signed, other.uri)
        assert signed["body"]["message"] == 7
        assert kc.watch_for_new_messages({}, wait_msec=PATIENT) == {}


# --- streams -------------------------------------------------------------------------------------


async def _first(subfeed: kc.Subfeed, count: int) -> list[Any]:
    found = []
    async for message in subfeed.amessages():
        found.append(message)
        if len(found) == count:
            break
    return found


def test_a_stream_goes_on_with_what_comes(lab: Lab) -> None:
    async def main() -> None:
        feed = await kc.acreate_feed()
        subfeed, writer = feed.load_subfeed("n"), feed.load_subfeed("n")
        await writer.aappend_messages(list(range(10)))
        reading = asyncio.create_task(_first(subfeed, 30))
        for n in range(10, 40):
            await writer.aappend_message(n)
        async with asyncio.timeout(PATIENT / 1000):
            assert await reading == list(range(30))
        assert subfeed.position == 30

    with at(lab.a):
        asyncio.run(main())
        subfeed = made([0, 1])
        timer = threading.Timer(0.2, lambda: kc.load_subfeed(subfeed.uri).append_message(2))
        timer.start()
        stream = subfeed.message_stream()
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
        timer.join()


def test_a_stream_goes_on_where_its_position_is_set_to(lab: Lab) -> None:
    async def main() -> None:
        found = []
        async for message in subfeed.amessages():
            found.append(message)
            if found == [0, 1, 2]:
                subfeed.set_position(1)
            if len(found) == 6:
                break
        assert (found, subfeed.position) == ([0, 1, 2, 1, 2, 3], 4)

    with at(lab.a):
        subfeed = made([0, 1, 2, 3, 4])
        asyncio.run(main())


@pytest.mark.parametrize("signed", [False, True])
def test_a_position_that_is_set_while_a_stream_waits_counts(lab: Lab, signed: bool) -> None:
    async def main() -> None:
        found = []
        async for message in subfeed.amessages(signed=signed):
            found.append(message["body"]["message"] if signed else message)
            if len(found) == 2:
                # Once the stream waits for what is not there yet.
                asyncio.get_running_loop().call_later(0.1, subfeed.set_position, 1)
                asyncio.get_running_loop().call_later(0.2, timer.start)
            if len(found) == 4:
                break
        assert found == [0, 1, 1, 2]

    with at(lab.a):
        subfeed = made([0, 1])
        writer = kc.load_subfeed(subfeed.uri)
        timer = threading.Thread(target=writer.append_message, args=(2,))
        asyncio.run(main())
        timer.join()


def test_a_reader_that_takes_its_time_gets_every_message(lab: Lab) -> None:
    """More than the node sends ahead, and the reader is slower than what comes."""

    async def main() -> None:
        found = 0
        async for message in subfeed.amessages():
            assert message == [found, text]
            found += 1
            if found % 10 == 0:
                await writer.aappend_message([len(first) + found // 10 - 1, text])
            if found == len(first) + 3:
                break

    text = "x" * 300_000
    first = [[number, text] for number in range(30)]
    with at(lab.a):
        subfeed = made(first)
        writer = kc.load_subfeed(subfeed.uri)
        asyncio.run(main())


def test_many_readers_in_one_process_each_get_every_message(lab: Lab) -> None:
    async def main() -> None:
        readers = [kc.load_subfeed(uri) for _ in range(20)]
        reading = [asyncio.create_task(_first(reader, 50)) for reader in readers]
        for number in range(50):
            await asyncio.to_thread(write, number)
        async with asyncio.timeout(PATIENT / 1000):
            assert await asyncio.gather(*reading) == [list(range(50))] * 20

    def write(number: int) -> None:
        writer.stdin.write(f"{number}\n")
        writer.stdin.flush()

    code = """
import sys
import kachery_p2p as kc
subfeed = kc.load_subfeed(sys.argv[1])
for line in sys.stdin:
    subfeed.append_message(int(line))
"""
    with at(lab.a):
        uri = made([]).uri
    command = [sys.executable, "-c", code, uri]
    with (
        subprocess.Popen(command, env=lab.a.env, stdin=subprocess.PIPE, text=True) as writer,
        at(lab.b),
    ):
        asyncio.run(main())


def test_a_stream_survives_a_restart_of_the_node(node: Daemon) -> None:
    async def main() -> None:
        feed = await kc.acreate_feed()
        subfeed, writer = feed.load_subfeed("n"), feed.load_subfeed("n")
        await writer.aappend_messages([0, 1])
        reading = asyncio.create_task(_first(subfeed, 4))
        while subfeed.position < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # nothing tells of it
        await asyncio.to_thread(node.kill)
        await asyncio.to_thread(node.start)
        await writer.aappend_messages([2, 3])
        async with asyncio.timeout(PATIENT / 1000):
            assert await reading == [0, 1, 2, 3]

    with at(node):
        asyncio.run(main())


@pytest.mark.parametrize("awaited", [False, True])
def test_a_stream_ends_when_its_feed_is_deleted_here(
    lab: Lab, awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A subfeed that nobody has may come to be while one waits: between two reads, it is said later.
    monkeypatch.setattr("kachery_p2p.client.feeds.subfeeds.STREAM_WAIT_MSEC", 500.0)
    with at(lab.a):
        subfeed = made([1, 2])
        feed, other = kc.load_feed(subfeed.uri.rpartition("/")[0]), kc.load_subfeed(subfeed.uri)

    async def delete_in_the_middle() -> list[Any]:
        found = []
        async for message in other.amessages():
            found.append(message)
            if len(found) == 2:
                await feed.adelete()
        return found

    def delete_between_two_reads() -> None:
        for message in subfeed.message_stream():
            if message == 2:
                feed.delete()

    def delete_between_two_awaits() -> None:
        asyncio.run(delete_in_the_middle())

    read = delete_between_two_awaits if awaited else delete_between_two_reads
    with at(lab.a):
        with pytest.raises(errors.FeedDeleted, match="deleted here"):
            read()
        with pytest.raises(errors.FeedDeleted):
            subfeed.get_next_messages()
        assert subfeed.position == 2 or awaited
        assert kc.load_subfeed(subfeed.uri).get_next_messages() == []


def test_without_a_node_a_stream_says_so_at_once(short_folder: Any) -> None:
    with at(Daemon(short_folder, "n")):
        subfeed = kc.Feed(bytes(32)).load_subfeed("n")
        with pytest.raises(errors.DaemonNotRunning):
            next(subfeed.message_stream())


def test_ctrl_c_ends_a_stream_and_the_script_goes_on(lab: Lab) -> None:
    code = """
import kachery_p2p as kc
subfeed = kc.create_feed().load_subfeed("n")
subfeed.append_message("ready")
try:
    for message in subfeed.message_stream():
        print(message, flush=True)
except KeyboardInterrupt:
    print("interrupted", subfeed.append_message(2), subfeed.get_next_messages(), flush=True)
"""
    process = forked.Popen(
        [sys.executable, "-c", code], env=lab.a.env, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "interrupted 1 [2]\n")


# --- on another node -----------------------------------------------------------------------------


def test_what_one_node_appends_another_reads(lab: Lab) -> None:
    with at(lab.a):
        feed = kc.create_feed()
        subfeed = feed.load_subfeed("primes")
        for i, p in enumerate(PRIMES):
            subfeed.append_message({"p": p, "n": i + 1})
    with at(lab.b):
        subfeed = kc.load_subfeed(subfeed.uri)
        found = announced(subfeed.get_next_messages)
        assert [(m["p"], m["n"]) for m in found] == [(p, i + 1) for i, p in enumerate(PRIMES)]
        assert subfeed.get_num_local_messages() == len(PRIMES)
        middle = kc.load_feed(feed.uri).load_subfeed("primes", position=10)
        assert middle.get_next_message()["p"] == PRIMES[10]
        for each in kc.load_subfeed(subfeed.uri).get_next_messages(signed=True):
            kc.check_signed_message(each, subfeed.uri)
        with pytest.raises(errors.FeedReadOnly, match="submit_message"):
            subfeed.append_message(1)
        assert kc.load_subfeed(subfeed.uri, channel="lab").get_next_message()["p"] == 2
        with pytest.raises(errors.UnknownChannel):
            kc.load_subfeed(subfeed.uri, channel="other").get_next_message()


def test_who_reads_a_subfeed_sees_its_name_in_its_own_list(lab: Lab) -> None:
    with at(lab.a):
        feed = kc.create_feed()
        uris = [feed.load_subfeed(name).uri for name in ("by name", ["by", "value"])]
        for uri in uris:
            kc.load_subfeed(uri).append_message(1)
    with at(lab.b):
        for uri in uris:
            assert announced(lambda uri=uri: kc.load_subfeed(uri).get_next_messages())
        [shown] = [each for each in kc.list_feeds() if each["feed_id"] == feed.feed_id]
        assert {each["name"] for each in shown["subfeeds"]} == {"by name", None}


def test_a_feed_that_nobody_has_is_empty_and_an_error_where_that_is_asked_for(lab: Lab) -> None:
    with at(lab.b):
        subfeed = kc.load_feed(f"feed://{'ab' * 32}", timeout_sec=2).load_subfeed("x")
        assert subfeed.get_next_messages() == subfeed.get_next_messages(signed=True) == []
        assert subfeed.get_next_message() is None
        assert subfeed.get_num_messages() == subfeed.position == 0
        subfeed.print_messages()
        watch = {"feedId": "ab" * 32, "subfeedName": "x"}
        assert kc.watch_for_new_messages({"a": watch}, wait_msec=1) == {}
        for read in (
            lambda: subfeed.get_next_messages(strict=True),
            lambda: subfeed.get_next_message(strict=True),
            lambda: kc.watch_for_new_messages({"a": watch}, wait_msec=1, strict=True),
        ):
            with pytest.raises(errors.NotFound):
                read()
        with pytest.raises(errors.NotFound, match=subfeed.uri):
            subfeed.get_next_messages(strict=True)


def test_a_stream_of_a_feed_that_nobody_has_goes_on_waiting(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kachery_p2p.client.feeds.subfeeds.STREAM_WAIT_MSEC", 1.0)
    uri = f"feed://{'ab' * 32}/x"

    async def opened(name: str, stream: AsyncIterator[Any], subfeed: kc.Subfeed) -> None:
        """Until the node was asked a second time."""
        again, asked = asyncio.Event(), []
        ask = getattr(subfeed._log, name)

        def count(*args: Any, **more: Any) -> Any:
            asked.append(args)
            if len(asked) == 2:
                again.set()
            return ask(*args, **more)

        monkeypatch.setattr(subfeed._log, name, count)
        reading, waiting = asyncio.ensure_future(anext(stream)), asyncio.create_task(again.wait())
        await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert not reading.done()
        reading.cancel()
        await asyncio.wait({reading})

    async def main() -> None:
        feed = await kc.aload_feed(uri.removesuffix("/x"), timeout_sec=0.1)
        subfeed = feed.load_subfeed("x")
        await opened("stream", subfeed.amessages(), subfeed)
        await opened("read", subfeed.amessages(signed=True), subfeed)
        with pytest.raises(errors.NotFound, match=uri):
            await anext(subfeed.amessages(strict=True))

    with at(lab.b):
        asyncio.run(main())
        feed = kc.load_feed(uri.removesuffix("/x"), timeout_sec=0.1)
        with pytest.raises(errors.NotFound, match=uri):
            next(feed.load_subfeed("x").message_stream(strict=True))


def test_a_name_that_is_taken_goes_to_the_feed_that_is_made_next(lab: Lab) -> None:
    with at(lab.a):
        first = kc.create_feed("twice")
        first.load_subfeed("n").append_message(1)
        second = kc.create_feed("twice")
        assert first.uri != second.uri
        assert kc.load_feed("twice", create=True).uri == second.uri
        assert kc.load_subfeed(f"{first.uri}/n").get_next_messages() == [1]
        assert kc.load_feed(first.uri).is_writeable
        with pytest.raises(errors.BadInput, match="another feed has it"):
            kc.create_feed("twice", replace=False)


def test_whether_a_feed_is_writeable_is_said_with_brackets_and_without(lab: Lab) -> None:
    with at(lab.a):
        feed = kc.create_feed()
        snapshot = feed.create_snapshot([])
        reading = kc.load_feed(f"feed://{'ab' * 32}")
        for each, writeable, constant in (
            (feed, True, False), (reading, False, False), (snapshot, False, True),
        ):  # fmt: skip
            for handle in (each, each.load_subfeed("n")):
                assert handle.is_writeable == handle.is_writeable() == writeable
                assert handle.is_snapshot == handle.is_snapshot() == constant
                assert bool(handle.is_writeable) is writeable
                assert f"{handle.is_writeable} {handle.is_snapshot()}" == f"{writeable} {constant}"


def test_a_snapshot_travels_as_a_file(lab: Lab) -> None:
    with at(lab.a):
        feed = kc.create_feed()
        feed.load_subfeed("a").append_messages([1, {"x": "é"}])
        feed.load_subfeed([1, 2]).append_messages(list(range(3_000)))
        snapshot = feed.create_snapshot(["a", [1, 2], "empty"])
        assert snapshot.uri.startswith("sha1://")
        feed.load_subfeed("a").append_message("too late")
        again = feed.create_snapshot(["a"])
        assert again.uri != snapshot.uri
    with at(lab.b):
        loaded = announced(lambda: kc.load_feed(snapshot.uri))
        assert loaded.is_snapshot
        assert loaded.load_subfeed("a").get_next_messages() == [1, {"x": "é"}]
        assert loaded.load_subfeed([1, 2]).get_next_messages() == list(range(3_000))
        assert kc.load_subfeed(loaded.load_subfeed("empty").uri).get_next_messages() == []
        later = announced(lambda: kc.load_feed(again.uri)).load_subfeed("a")
        assert later.get_next_messages()[-1] == "too late"

        async def all_of(subfeed: kc.Subfeed) -> list[Any]:
            return [message async for message in subfeed.amessages()]

        numbers = loaded.load_subfeed([1, 2])
        assert asyncio.run(all_of(numbers)) == list(range(3_000))
        assert asyncio.run(all_of(numbers)) == []


def test_who_was_granted_it_submits_and_others_do_not(lab: Lab) -> None:
    with at(lab.a):
        subfeed = made(["from the owner"], "answers")
        assert subfeed.get_access_rules() == {"rules": []}
    with at(lab.b), pytest.raises(errors.NotAWriter, match=lab.b.node_id):
        announced(lambda: kc.load_subfeed(subfeed.uri).submit_message("no"))
    with at(lab.a):
        subfeed.grant_write_access(node_id=lab.b.node_id)
        subfeed.grant_write_access(node_id="ab" * 32)
        granted = [{"nodeId": node, "write": True} for node in (lab.b.node_id, "ab" * 32)]
        assert subfeed.get_access_rules() == {"rules": granted}
    with at(lab.b):
        theirs = kc.load_subfeed(subfeed.uri)
        assert theirs.submit_message({"x": 1}) == 1
        assert theirs.submit_messages([2, 3]) == [2, 3]
        wanted = ["from the owner", {"x": 1}, 2, 3]
        found: list[Any] = []
        while len(found) < 4:
            found += (more := theirs.get_next_messages(wait_msec=PATIENT))
            assert more
        assert found == wanted
        with pytest.raises(errors.FeedReadOnly):
            theirs.grant_write_access(node_id="cd" * 32)
    with at(lab.a):
        first, second, *_ = subfeed.get_next_messages(signed=True)
        assert first["body"]["metaData"] == {}
        assert second["body"]["metaData"] == {"submittedByNodeId": lab.b.node_id}
        kc.check_signed_message(second, subfeed.uri)
        subfeed.revoke_write_access(node_id=lab.b.node_id)
        assert subfeed.get_access_rules() == {"rules": granted[1:]}
    with at(lab.b), pytest.raises(errors.NotAWriter):
        kc.load_subfeed(subfeed.uri).submit_message("no longer")


def test_the_number_of_messages_is_known_before_any_is_read(lab: Lab) -> None:
    with at(lab.a):
        subfeed = made(list(range(2000)))
    with at(lab.b):
        there = kc.load_subfeed(subfeed.uri)
        assert announced(there.get_num_messages) == 2000
        there.set_position(1997)
        assert there.get_next_messages(wait_msec=PATIENT) == [1997, 1998, 1999]
