"""The line between a node under test and the others, with plain bytes on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from kachery_p2p.testing.links import Line

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write(b"<end>")
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def a_line() -> AsyncIterator[tuple[Line, int]]:
    """A line, and the port of somebody who says everything again, and at the end '<end>'."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    line = Line()
    await line.start()
    try:
        yield line, server.sockets[0].getsockname()[1]
    finally:
        await line.close()
        server.close()


async def ask(line: Line, head: str) -> tuple[bytes, Ends]:
    ends = await asyncio.open_connection("127.0.0.1", urlsplit(line.url).port)
    ends[1].write(head.encode())
    return (await ends[0].readline()).strip(), ends


async def through(line: Line, port: int) -> Ends:
    status, ends = await ask(line, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == b"HTTP/1.1 200 connected"
    assert await ends[0].readline() == b"\r\n"
    return ends


async def said_again(ends: Ends, data: bytes) -> bytes:
    ends[1].write(data)
    return await asyncio.wait_for(ends[0].readexactly(len(data)), 30)


async def test_bytes_and_their_end_pass_both_ways() -> None:
    async with a_line() as (line, port):
        ends = await through(line, port)
        data = bytes(range(256)) * 4_000
        assert await said_again(ends, data) == data
        ends[1].write_eof()
        assert await ends[0].read() == b"<end>"
        ends[1].close()


@pytest.mark.parametrize(
    ("rate", "size"), [(10.0, 1), (50_000.0, 10_000), (1e9, 1_000_000), (None, 1_000_000)]
)
async def test_a_slow_line_changes_no_byte(rate: float | None, size: int) -> None:
    async with a_line() as (line, port):
        line.slow(rate, 0.01)
        ends = await through(line, port)
        data = os.urandom(size)
        assert await said_again(ends, data) == data
        ends[1].close()


async def test_a_cut_line_ends_connections_and_makes_none() -> None:
    async with a_line() as (line, port):
        ends = await through(line, port)
        line.cut(silently=False)
        assert line.is_cut
        with contextlib.suppress(ConnectionResetError):
            assert await ends[0].read() == b""
        ends[1].close()
        status, refused = await ask(line, "CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n")
        assert status == b"HTTP/1.1 503 the line is cut"
        refused[1].close()
        line.restore()
        ends = await through(line, port)
        assert await said_again(ends, b"again") == b"again"
        ends[1].close()


async def test_what_was_said_into_a_silent_line_comes_when_it_is_mended() -> None:
    async with a_line() as (line, port):
        ends = await through(line, port)
        line.cut(silently=True)
        ends[1].write(b"later")
        reading = asyncio.create_task(ends[0].readexactly(5))
        done, _ = await asyncio.wait([reading], timeout=0.1)
        assert not done
        line.restore()
        assert await asyncio.wait_for(reading, 30) == b"later"
        ends[1].close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.1\r\n\r\n", b"405"),
        ("\r\n\r\n", b"405"),
        ("CONNECT 127.0.0.1:x HTTP/1.1\r\n\r\n", b"502"),
        ("CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n", b"502"),
        ("x" * 200_000, b""),
    ],
)
async def test_what_is_no_way_through_is_refused(head: str, status: bytes) -> None:
    async with a_line() as (line, _):
        said = b""
        with contextlib.suppress(ConnectionError):
            said, ends = await ask(line, head)
            ends[1].close()
        assert status in said


async def test_closing_ends_what_is_under_way() -> None:
    async with a_line() as (line, port):
        ends = await through(line, port)
        await line.close()
        with contextlib.suppress(ConnectionResetError):
            assert await ends[0].read() == b""
        ends[1].close()
