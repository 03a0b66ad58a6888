"""Messages and descriptors through a socket whose peer reads when it pleases."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.local.framed import FramedSocket
from kachery_p2p.protocol.errors import Busy, KacheryError, LinkClosed
from kachery_p2p.protocol.local import messages as local

SENT = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 500, 70_000]),  # bytes
        st.sampled_from(["now", "soon", "soon", "descriptor"]),
        st.booleans(),  # whether the loop has a turn afterwards
    ),
    max_size=150,
)


@settings(max_examples=60, deadline=None)
@given(sent=SENT)
def test_whatever_is_sent_arrives_whole_and_in_order(sent: list[tuple[int, str, bool]]) -> None:
    asyncio.run(_send_and_compare(sent))


async def _send_and_compare(sent: list[tuple[int, str, bool]]) -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    found: list[tuple[int, int, int | None]] = []
    all_came = asyncio.Event()

    def on_message(message: local.Message) -> None:
        assert isinstance(message, local.Call)
        descriptor = None
        if message.descriptors:
            taken = reader.take_descriptor()
            descriptor = os.fstat(taken).st_ino
            os.close(taken)
        found.append((message.id, len(message.params["data"]), descriptor))
        if len(found) == len(sent):
            all_came.set()

    writer = FramedSocket(ours, lambda message: None, lambda error: None)
    reader = FramedSocket(theirs, on_message, lambda error: None)
    reader.greeted()
    read_end, write_end = os.pipe()
    try:
        wanted = []
        for number, (size, how, turn) in enumerate(sent):
            riding = write_end if how == "descriptor" else None
            call = local.Call(number, "m", {"data": bytes(size)}, int(riding is not None))
            if how == "soon":
                writer.queue(local.encode_message(call))
            else:
                writer.send(call, riding)
            wanted.append((number, size, None if riding is None else os.fstat(riding).st_ino))
            if turn:
                writer.flush()
                await asyncio.sleep(0)
        writer.flush()
        if sent:
            await asyncio.wait_for(all_came.wait(), 10)
        assert found == wanted
        await writer.drained()
        assert not writer.backed_up
    finally:
        os.close(read_end)
        os.close(write_end)
        writer.close()
        reader.close()


async def test_what_is_queued_leaves_together() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    framed = FramedSocket(ours, lambda message: None, lambda error: None)
    one = local.encode_message(local.Finish(1))
    try:
        framed.flush()
        for _ in range(5):
            framed.queue(one)
        with pytest.raises(BlockingIOError):
            theirs.recv(1000)
        framed.flush()
        assert theirs.recv(1000) == 5 * one, "the peer wakes up once"
        framed.queue(one)
        framed.send(local.Finish(2))
        both = one + local.encode_message(local.Finish(2))
        assert theirs.recv(1000) == both, "nothing overtakes it"
    finally:
        framed.close()
        theirs.close()


async def test_a_socket_that_closes_with_messages_to_come_sends_nothing_more() -> None:
    ours, theirs = socket.socketpair()
    errors: list[KacheryError | None] = []
    framed = FramedSocket(ours, lambda message: None, errors.append)
    framed.queue(local.encode_message(local.Finish(1)))
    framed.close()
    framed.flush()
    assert errors == [None]
    with pytest.raises(LinkClosed):
        framed.queue(local.encode_message(local.Finish(3)))
    theirs.close()


async def test_a_descriptor_that_there_is_no_room_for_costs_its_call_and_nothing_else() -> None:
    ours, theirs = socket.socketpair()
    found: list[int | None] = []
    came = asyncio.Event()

    def on_message(message: local.Message) -> None:
        assert isinstance(message, local.Call)
        try:
            found.append(message.id)
            os.close(reader.take_descriptor())
        except Busy:
            found.append(None)
        came.set()

    writer = FramedSocket(ours, lambda message: None, lambda error: None)
    reader = FramedSocket(theirs, on_message, lambda error: None)
    reader.greeted()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    filled = [os.open(os.devnull, os.O_RDONLY)]
    try:
        # No process has less open than it may open in the end: all below this one are taken.
        most = max(map(int, os.listdir("/proc/self/fd"))) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                filled.append(os.dup(filled[0]))
        for number in (1, 2):
            writer.send(local.Call(number, "m", {}, 1), filled[0])
            await came.wait()
            came.clear()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert found == [1, None, 2]
        assert not reader.closed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in filled:
            os.close(descriptor)
        writer.close()
        reader.close()
