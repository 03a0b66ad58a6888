"""Strangers at the port on which a node listens: many, silent, slow, or sent by a web page."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from websockets.exceptions import InvalidStatus

from kachery_p2p.node import websocket
from kachery_p2p.node.config import Config
from kachery_p2p.node.links import acceptor as acceptor_module
from kachery_p2p.node.links import listener as listener_module
from kachery_p2p.node.links import transport
from kachery_p2p.node.links.acceptor import Acceptor
from kachery_p2p.node.links.gate import Gate
from kachery_p2p.node.parties import KNOCKED, STRANGERS, Party
from kachery_p2p.protocol.channels.membership import channel_tag
from kachery_p2p.protocol.errors import BadInput, LinkClosed
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import (
    MAX_PENDING_HANDSHAKES,
    MAX_PENDING_PER_ADDRESS,
    MAX_RECORD,
    MAX_UPGRADE_BYTES,
)
from kachery_p2p.protocol.links.frames import Bye
from tests.node.harness import Lab, laboratory, until
from tests.node.links.raw import gone, rogue, wire
from tests.node.links.strangers import UPGRADE, crowd
from tests.node.links.test_transport import certificate
from tests.patience import patience


async def a_member_comes(lab: Lab) -> None:
    """C, which was not there, is linked, and is served."""
    sha1, _ = await lab.store("A", b"in the crowd")
    await lab.start("C")
    await lab.linked("C", "lab")
    await lab.load("C", sha1)


async def without_c(lab: Lab) -> None:
    await lab.stop("C")
    await until(lambda: len(lab["P"].network.links) == 2)


@pytest.mark.parametrize("says", [b"", b"G", UPGRADE % b""], ids=["nothing", "a byte", "upgrade"])
async def test_strangers_that_come_back_for_ever_do_not_lock_a_member_out(says: bytes) -> None:
    """From one address, as behind a reverse proxy everybody has."""
    async with laboratory("A", "B", "C") as lab:
        await without_c(lab)
        async with crowd(lab["P"].listening, 2 * MAX_PENDING_PER_ADDRESS, says):
            await until(lambda: lab["P"].gate.refused > MAX_PENDING_PER_ADDRESS)
            await a_member_comes(lab)
        await until(lambda: not len(lab["P"].gate), "the crowd is forgotten")


async def test_strangers_from_several_addresses_do_not_lock_a_member_out() -> None:
    sources = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
    async with laboratory("A", "B", "C") as lab:
        await without_c(lab)
        async with crowd(lab["P"].listening, 2 * MAX_PENDING_HANDSHAKES, UPGRADE % b"",
                         sources=sources):  # fmt: skip
            await until(lambda: lab["P"].gate.refused > MAX_PENDING_PER_ADDRESS)
            await a_member_comes(lab)
            assert len(lab["P"].gate) <= MAX_PENDING_HANDSHAKES + 1


async def test_strangers_do_not_lock_out_a_newcomer_with_an_invitation() -> None:
    async with laboratory("A", "B") as lab:
        await lab.start("C")
        line = (await lab.call("A", "channel.invite", channel="lab"))["line"]
        async with crowd(lab["P"].listening, 2 * MAX_PENDING_PER_ADDRESS, UPGRADE % b""):
            await until(lambda: lab["P"].gate.refused > MAX_PENDING_PER_ADDRESS)
            await lab.call("C", "channel.join", document=line, roles="all")
            await lab.linked("C", "lab")


async def test_the_work_for_who_knocks_is_not_on_the_account_of_strangers() -> None:
    """Else a newcomer waits for its turn behind a crowd, each step anew."""
    async with laboratory("A", "B") as lab:
        await lab.start("C")
        url, proxy, channel = f"ws://{lab['P'].listening}", lab["P"].network, lab.channels["lab"]

        def party_of(node: str) -> Party | None:
            links = [*proxy.links, *proxy._guests._links, *proxy._said]
            return next((link.party for link in links if link.peer == node), None)

        link = await lab["C"].reach.connect(url, lab.id("P"), guest_of=channel)
        assert party_of(lab.id("C")) == KNOCKED
        link.close(LinkClosed(peer="P", reason="seen"))
        key = NodeKey(os.urandom(32))
        async with rogue(lab["P"].listening, key):
            assert await until(lambda: party_of(key.public.hex())) == STRANGERS
        assert party_of(lab.id("A")) == Party(lab.id("A"))


async def test_who_says_nothing_is_shown_out_long_before_who_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener_module, "FIRST_BYTE_SECONDS", 0.1)
    async with laboratory() as lab:
        host, port = lab["P"].listening.rsplit(":", 1)
        silent, silent_writer = await asyncio.open_connection(host, int(port))
        slow, slow_writer = await asyncio.open_connection(host, int(port))
        slow_writer.write(b"GET")
        async with asyncio.timeout(patience(5)):
            assert await silent.read() == b""
        assert not slow.at_eof()
        slow_writer.write((UPGRADE % b"")[3:])
        assert (await slow.readline()).startswith(b"HTTP/1.1 101")
        for writer in (silent_writer, slow_writer):
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_silence_before_tls_is_counted_and_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "FIRST_BYTE_SECONDS", 0.5)
    cert, key = certificate(tmp_path)
    async with laboratory(channel=False, tls_cert=cert, tls_key=key) as lab:
        gate = lab["P"].gate
        async with crowd(lab["P"].listening, 3 * MAX_PENDING_PER_ADDRESS) as came:
            await until(lambda: gate.refused >= MAX_PENDING_PER_ADDRESS)
            assert len(gate) <= MAX_PENDING_PER_ADDRESS
        async with crowd(lab["P"].listening, 5, b"\x16\x03\x01\x02\x00\x01"):
            before = gate.refused
            await until(lambda: len(gate) == 5 or gate.refused > before)
        await until(lambda: not len(gate))
        assert came[0]


async def test_a_request_that_never_ends_is_cut_off() -> None:
    async with laboratory() as lab:
        host, port = lab["P"].listening.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(MAX_UPGRADE_BYTES // 20):
                writer.write(b"X-%04d: aaaaaaaaaaaaa\r\n" % number)
                await writer.drain()
            async with asyncio.timeout(patience(5)):
                await reader.read()
        await until(lambda: not len(lab["P"].gate))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_who_waits_for_a_document_that_does_not_come_still_waits_at_the_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A removed member knows the channel, and claims to have a newer document."""
    monkeypatch.setattr("kachery_p2p.node.links.network.HANDSHAKE_SECONDS", 1.0)
    async with laboratory("A", "B", "C") as lab:
        gate, channel = lab["P"].gate, lab.channels["lab"]
        links = gate.open
        key = NodeKey(b"r" * 32)
        async with rogue(lab["P"].listening, key) as peer:
            tag = channel_tag(channel, key.public, peer.session.handshake_hash)
            await peer.hello(channels={tag: (1_000, [])})
            await until(lambda: len(lab["P"].network.links) > links)
            assert (len(gate), gate.open) == (1, links)
            assert isinstance(await peer.hear(Bye), Bye)
        await until(lambda: not len(gate))


# --- web pages ---------------------------------------------------------------------------------


async def test_a_page_of_another_site_is_refused() -> None:
    async with laboratory() as lab:
        for origin in ("https://evil.example", "null", "http://127.0.0.1"):
            with pytest.raises(InvalidStatus) as caught:
                async with wire(lab["P"].listening, origin=origin):
                    pass
            assert caught.value.response.status_code == 403


async def test_a_page_of_a_site_that_the_user_names_may_connect() -> None:
    origins = ("https://lab.example.org", "null")
    async with laboratory(origins=origins) as lab:
        for origin in origins:
            async with wire(lab["P"].listening, origin=origin) as connection:
                await connection.send(b"nonsense")
                await gone(connection)
        with pytest.raises(InvalidStatus):
            async with wire(lab["P"].listening, origin="https://lab.example.org.evil.example"):
                pass


async def test_a_page_cannot_hide_its_site_behind_another_header() -> None:
    async with laboratory(origins=("https://good.example",)) as lab:
        host, port = lab["P"].listening.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(UPGRADE % b"Origin: https://good.example\r\nOrigin: https://evil.example\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 403")
        writer.close()
        await writer.wait_closed()


# --- reverse proxies ---------------------------------------------------------------------------


def forwarded(address: str) -> bytes:
    return UPGRADE % f"X-Forwarded-For: {address}\r\n".encode()


async def test_behind_a_reverse_proxy_one_client_uses_up_its_own_places_only() -> None:
    async with laboratory(trust_forwarded=()) as lab:
        gate = lab["P"].gate
        async with (
            crowd(lab["P"].listening, 1, forwarded("7.7.7.7")) as other,
            crowd(lab["P"].listening, 2 * MAX_PENDING_PER_ADDRESS, forwarded("6.6.6.6")),
        ):
            await until(lambda: gate.refused > MAX_PENDING_PER_ADDRESS)
            await until(lambda: gate.strangers("7.7.7.7") == 1)
            assert gate.strangers("6.6.6.6") <= MAX_PENDING_PER_ADDRESS
            assert other[0] == 1, "it never had to come back"


async def test_the_word_of_a_client_on_its_address_counts_for_nothing_by_itself() -> None:
    async with laboratory() as lab, crowd(lab["P"].listening, 1, forwarded("7.7.7.7")):
        gate = lab["P"].gate
        await until(lambda: gate._by_address)
        assert set(gate._by_address) == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("trust_forwarded", ("nonsense",)),
        ("private_networks", ("10.0.0.1/8",)),
        ("origins", ("lab.example.org",)),
        ("origins", ("https://lab.example.org/page",)),
        ("origins", ("https://x",) * 100),
        ("label", "\udcff"),
        ("label", "x" * 201),
        ("auth_group", "\udcff"),
        ("public_url", "ws://\udcff"),
        ("allow_tasks", ("sort.1", "\udcff")),
    ],
)
def test_an_option_that_cannot_work_is_bad_input(option: str, value: str | tuple[str, ...]) -> None:
    config = Config(Path("/a"), Path("/b"), Path("/c"), **{option: value})  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        config.check()


# --- descriptors -------------------------------------------------------------------------------


class Short(socket.socket):
    """A listening socket of a process that is out of descriptors."""

    tries = 0
    short = True

    def accept(self) -> Any:
        self.tries += 1
        if self.short:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_a_node_out_of_descriptors_says_so_does_not_spin_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acceptor_module, "ACCEPT_RETRY_SECONDS", 0.05)
    listener = Short(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    taken: list[socket.socket] = []
    told: list[str] = []
    acceptor = Acceptor(listener, lambda sock, _: taken.append(sock), told.append)
    with socket.create_connection(listener.getsockname()):
        await until(lambda: len(told) == 3)
        assert listener.tries == 3, "once each time, however long the connection waits"
        assert "ulimit" in told[0]
        listener.short = False
        await until(lambda: taken)
    taken[0].close()
    acceptor.close()
    acceptor.close()


def test_a_daemon_uses_all_descriptors_that_it_may() -> None:
    code = (
        "import resource as r\n"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1]\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, hard))\n"
        "from kachery_p2p.node.__main__ import raise_descriptor_limit\n"
        "raise_descriptor_limit()\n"
        "soft, hard = r.getrlimit(r.RLIMIT_NOFILE)\n"
        "assert soft == hard or hard == r.RLIM_INFINITY and soft > 64, (soft, hard)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- the loops ---------------------------------------------------------------------------------


async def carry(folder: Path, *, tls: bool) -> tuple[int, int]:
    """Send much more than a request may have; bytes that came, and links that are left."""
    cert, key = certificate(folder)
    server = client = None
    if tls:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(cert, key)
        client = ssl.create_default_context(cafile=str(cert))
    came, over, gate = [0], asyncio.Event(), Gate()

    async def accept(route: transport.WebSocketTransport, proved: Callable[[], None]) -> None:
        proved()
        route.belong_to(Party("them"))
        with contextlib.suppress(LinkClosed):
            while True:
                came[0] += len(await route.receive())
        over.set()

    listener = await transport.listen("127.0.0.1", 0, accept, gate, tls=server)
    scheme, port = "wss" if tls else "ws", listener.sockets[0].getsockname()[1]
    route = await transport.dial(f"{scheme}://127.0.0.1:{port}", tls=client)
    for _ in range(50):
        await route.send(bytes(100_000))
    await route.close()
    await over.wait()
    await until(lambda: not listener.visits)
    listener.close()
    return came[0], gate.open


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_connection_carries_what_it_should_on_either_loop(
    run: Callable[[Any], tuple[int, int]],
    tls: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # There is no handshake here, and what comes first is as large as what follows.
    monkeypatch.setattr(websocket, "MAX_HANDSHAKE_MESSAGE", MAX_RECORD)
    assert run(carry(tmp_path, tls=tls)) == (5_000_000, 0)
