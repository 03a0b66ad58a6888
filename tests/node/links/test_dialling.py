"""A member, or a proxy, that wants to have others knock where it likes, by addresses that it names."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import Any

import pytest

from kachery_p2p.node import context as context_module
from kachery_p2p.node.links import dialling, transport
from kachery_p2p.node.links.dialling import Rules, dial_member
from kachery_p2p.protocol.errors import BadInput, LinkClosed, Unreachable
from kachery_p2p.protocol.gossip.messages import NodeInfo
from kachery_p2p.protocol.links.addresses import parse_network
from tests.node.harness import Lab, laboratory, until
from tests.node.links.strangers import Server

LOOPBACK = Rules(own=(ip_address("127.0.0.1"),))


async def say(lab: Lab, name: str, *urls: str) -> None:
    """From now on a node says that it is reached there."""
    lab[name].context.urls[:] = urls
    for link in list(lab[name].network.links):
        link.close(LinkClosed(peer="test", reason="so that it greets anew"))
    await until(lambda: not lab[name].network.links)
    await lab.linked(name, "lab")


@pytest.mark.parametrize("path", ["/anything", "/?delete=all", "/kachery-p2p/../admin"])
async def test_a_member_cannot_choose_what_others_ask_a_server_for(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The member signs whatever it likes; the others dial nothing but a host and a port."""
    monkeypatch.setattr(context_module, "member_urls", list, raising=False)
    async with Server().listening() as victim, laboratory() as lab:
        await say(lab, "A", f"ws://127.0.0.1:{victim.port}{path}")
        sha1, _ = await lab.store("A", b"bait")
        result = await lab.load("B", sha1)
        assert [source["via"] for source in result["sources"]] == ["P"]
        assert not victim.came


async def test_what_a_member_can_have_asked_is_always_the_same() -> None:
    """On one computer, where all addresses are those of everybody."""
    async with Server().listening() as other, laboratory() as lab:
        await say(lab, "A", f"ws://127.0.0.1:{other.port}")
        sha1, _ = await lab.store("A", b"bait")
        result = await lab.load("B", sha1)
        assert [source["via"] for source in result["sources"]] == ["P"]
        assert other.asked == ["GET /kachery-p2p HTTP/1.1"]


async def test_a_proxy_cannot_make_up_where_a_member_is_reached() -> None:
    async with Server().listening() as victim, laboratory() as lab:
        sha1, _ = await lab.store("A", b"bait")
        url = f"ws://127.0.0.1:{victim.port}"

        def lie(channel: bytes, origin: bytes) -> NodeInfo:
            return NodeInfo(origin, "A", [url], True, bytes(64))

        lab["P"].availability._describe = lie  # type: ignore[method-assign]
        await lab.load("B", sha1)
        assert not victim.came


async def test_a_hello_with_addresses_that_its_node_has_not_signed_ends_the_link() -> None:
    async with laboratory("A", "B", "C", listening=("C",)) as lab:
        context = lab["C"].context
        urls, signature = context.signed_urls()
        assert urls
        context._signed = (tuple(urls), signature[::-1])
        for link in list(lab["C"].network.links):
            link.close(LinkClosed(peer="test", reason="so that it greets anew"))
        [status] = lab["C"].bootstraps.status.values()
        await until(lambda: status.code == "protocol-violation")
        assert "not signed" in status.error
        context._signed = None
        await lab.linked("C", "lab")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "0x7f.1", "[::ffff:127.0.0.1]"]
)
async def test_a_node_that_is_not_reached_on_loopback_does_not_dial_there(host: str) -> None:
    async with Server().listening() as victim:
        elsewhere = Rules(own=(ip_address("10.0.0.1"), ip_address("8.8.8.8")))
        with pytest.raises(Unreachable, match="--private-network"):
            await dial_member(f"ws://{host}:{victim.port}", elsewhere)
        assert not victim.came


async def test_a_network_that_the_user_names_is_dialled() -> None:
    async with Server().listening() as other:
        with pytest.raises(Unreachable, match="no kachery-p2p node"):
            await dial_member(
                f"ws://127.0.0.1:{other.port}", Rules(networks=(parse_network("127.0.0.0/8"),))
            )
        assert other.asked == ["GET /kachery-p2p HTTP/1.1"]


async def test_metadata_services_and_addresses_of_no_host_are_never_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialled: list[Any] = []

    async def dial(url: str, **options: Any) -> Any:
        dialled.append((url, options))

    monkeypatch.setattr(dialling, "dial", dial)
    for host in ("169.254.169.254", "0.0.0.0", "[::]", "224.0.0.1", "255.255.255.255", "[fe80::1]"):
        with pytest.raises(Unreachable):
            await dial_member(f"ws://{host}:80", LOOPBACK)
    assert not dialled


async def test_the_connection_goes_to_the_address_that_was_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not to what the name means when it is asked again."""
    answers = iter([["93.184.216.34", "127.0.0.1", "10.0.0.9"], ["127.0.0.1"]])
    dialled: list[tuple[str, str]] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> Any:
        return [(socket.AF_INET, 1, 6, "", (each, port)) for each in next(answers)]

    async def dial(url: str, *, at: str, **_: Any) -> Any:
        dialled.append((url, at))
        raise Unreachable(what=url, reason="test")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(dialling, "dial", dial)
    monkeypatch.setattr(dialling, "_address_towards", lambda address: None)
    for _ in range(2):
        with pytest.raises(Unreachable):
            await dial_member("ws://name.example:80", Rules())
    assert dialled == [("ws://name.example:80/kachery-p2p", "93.184.216.34")]


async def test_a_private_network_is_dialled_from_inside_it_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialled: list[str] = []

    async def dial(url: str, *, at: str, **_: Any) -> Any:
        dialled.append(at)

    monkeypatch.setattr(dialling, "dial", dial)
    for mine in ("192.168.1.2", "10.9.9.9"):
        monkeypatch.setattr(
            dialling, "_address_towards", lambda address, mine=mine: ip_address(mine)
        )
        try:
            await dial_member("ws://10.1.2.3:80", Rules())
        except Unreachable:
            assert mine == "192.168.1.2"
    assert dialled == ["10.1.2.3"]


async def test_nobody_sends_a_node_elsewhere_by_a_redirect() -> None:
    async with Server().listening() as victim:
        answer = (
            f"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:{victim.port}/anything\r\n"
            "Content-Length: 0\r\n\r\n"
        ).encode()
        async with Server(answer).listening() as sly:
            with pytest.raises(Unreachable, match="302"):
                await transport.dial(f"ws://127.0.0.1:{sly.port}")
            assert sly.came
        assert not victim.came


async def test_an_http_proxy_is_asked_for_public_numbers_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It, not this node, would look a name up, from inside the institution's network."""
    async with Server(b"HTTP/1.1 403 Forbidden\r\n\r\n").listening() as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        for url in ("wss://intranet.example", "ws://10.0.0.1:80", "ws://127.0.0.1:80"):
            with pytest.raises(Unreachable, match="HTTP proxy"):
                await dial_member(url, Rules())
        assert not proxy.asked
        with pytest.raises(Unreachable):
            await dial_member("ws://8.8.8.8:80", Rules())
        assert proxy.asked == ["CONNECT 8.8.8.8:80 HTTP/1.1"]


async def test_a_name_that_cannot_be_one_is_unreachable() -> None:
    for url in ("ws://" + "h" * 70 + ":1", "ws://a..b:1"):
        with pytest.raises(Unreachable):
            await dial_member(url, Rules())
    with pytest.raises(BadInput):
        await dial_member("ws://[:1", Rules())
