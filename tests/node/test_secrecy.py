"""What a proxy, and whoever listens on its wires, gets to see: nothing of what travels."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.node.links import circuit
from kachery_p2p.node.links import link as link_module
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.links.session import SealedBody, Session
from tests.node.harness import laboratory, until

WINDOW = 32


class Forwarder:
    """A TCP relay in front of a node that keeps every byte, both ways."""

    def __init__(self, address: str) -> None:
        self._host, port = address.rsplit(":", 1)
        self._port = int(port)
        self.seen: list[bytes] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, onward]
        await asyncio.gather(self._pump(reader, onward), self._pump(there, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                self.seen.append(data)
                sink.write(data)
                await sink.drain()
        sink.close()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            for writer in self._writers:
                writer.close()
            server.close()
            await server.wait_closed()


def capture_proxy(monkeypatch: pytest.MonkeyPatch, node: Any) -> list[bytes]:
    """All that is plain inside a node: headers, opened bodies, and what its relay moves."""
    seen: list[bytes] = []
    mine: set[int] = set()
    open_record, opened_body = Session.open, SealedBody.open
    handshake = link_module.Link.__init__

    def init(self: Any, transport: Any, session: Any, **options: Any) -> None:
        handshake(self, transport, session, **options)
        if options["handler"] is node.network:
            mine.add(id(session))

    def opened(self: Session, record: Any) -> Any:
        frames = open_record(self, record)
        for frame, body in frames if id(self) in mine else ():
            seen.append(codec.encode(frame))
            if isinstance(body, memoryview):
                seen.append(bytes(body))
            elif isinstance(body, SealedBody):
                seen.append(opened_body(body))
        return frames

    pump = circuit.Relay._pump

    async def pumped(self: Any, source: Any, sink: Any) -> None:
        send = sink.send

        async def sending(meta: Any, body: Any = None, **options: Any) -> None:
            seen.append(bytes(body))
            await send(meta, body, **options)

        sink.send = sending
        await pump(self, source, sink)

    monkeypatch.setattr(link_module.Link, "__init__", init)
    monkeypatch.setattr(Session, "open", opened)
    monkeypatch.setattr(circuit.Relay, "_pump", pumped)
    return seen


async def link(node: Any, path: Path) -> str:
    """Link a file of the user's, as the local API does."""
    fd = os.open(path, os.O_RDONLY)
    try:
        stored = await node.context.workers.disk(node.store.link_fd, fd, path)
    finally:
        os.close(fd)
    node.announcer.provide(file_key(stored.sha1))
    return str(stored.sha1)


async def test_neither_the_wire_nor_the_proxy_sees_content_names_or_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with laboratory(channel=False) as lab:
        inside = capture_proxy(monkeypatch, lab["P"])
        forwarder = Forwarder(lab["P"].listening)
        async with forwarder.listening() as address:
            lab["P"].listening = address  # what the channel's document will say
            key = await lab.channel("lab-of-doctor-who", {"A": "all", "B": "all"}, wait=True)
            lab.channels["lab"] = key
            data = b"".join(b"%019d confidential " % n for n in range(24_000_000 // 33))
            sha1, manifest = await lab.store("A", data)
            small, _ = await lab.store("A", b"a small but very confidential file")
            assert manifest is not None
            await lab.load("B", sha1, manifest)
            await lab.load("B", small)
            # A file whose name the node itself knows, since it is linked where it lies.
            named = tmp_path / "surgery-of-patient-42.dat"
            named.write_bytes(b"named and confidential " * 5000)
            linked = await link(lab["A"], named)
            await lab.announced("A", "lab")
            await lab.load("B", linked)
            assert lab.bytes_of("B", linked) == named.read_bytes()
            assert lab.bytes_of("B", sha1) == data
            manifest_text = lab.bytes_of("B", manifest)
            secret = lab["A"].context.book.secret(key)
            assert secret is not None
            for name in ("A", "B"):
                await lab.stop(name)
            await until(lambda: not lab["P"].network.links)

        wire, plain = b"".join(forwarder.seen), b"".join(inside)
        assert len(wire) > 2 * len(data), "both legs were captured"
        assert len(plain) > len(data), "and what went through the proxy"
        assert lab["P"].relay.relayed_bytes > len(data)
        for needle in (b"who-has", b"circuit", b"gossip.batch"):
            assert needle in plain, "the proxy's own conversations are seen, so the tap works"
        draw = random.Random(0)
        samples = [draw.randrange(len(data) - WINDOW) for _ in range(40)]
        needles = {
            "content": [data[at : at + WINDOW] for at in samples] + [b"confidential"],
            "small content": [b"a small but very confidential file"],
            "a file's label": [b"surgery-of-patient-42", b"surgery"],
            "file hashes": [
                form(name)
                for name in (sha1, small, manifest, linked)
                for form in (str.encode, bytes.fromhex)
            ],
            "manifest": [manifest_text[at : at + WINDOW] for at in range(0, 400, 50)],
            "channel secret": [secret[1], secret[1].hex().encode()],
        }
        for captured, where in ((wire, "wire"), (plain, "proxy")):
            for what, all_of_it in needles.items():
                for needle in all_of_it:
                    assert needle not in captured, f"{what} seen on the {where}"
        for needle in (b"lab-of-doctor-who", key, key.hex().encode(), b"who-has", b"kachery_p2p/"):
            assert needle not in wire, "the wire does not even show which channel"
