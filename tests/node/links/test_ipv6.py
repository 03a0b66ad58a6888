"""A node that listens at an IPv6 address says it so that it can be dialled."""

from __future__ import annotations

import socket

import pytest

from tests.node.harness import laboratory


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
async def test_a_proxy_at_an_ipv6_address_is_reached_at_what_it_says() -> None:
    """It said ws://::1:8080, which is no URL, to its user and to other nodes."""
    async with laboratory("A", channel=False) as lab:
        await lab.start("Q", listen="[::1]:0", proxy=True)
        port = lab["Q"].listening.rpartition(":")[2]  # type: ignore[union-attr]
        assert lab["Q"].listening == f"[::1]:{port}"
        assert lab["Q"].context.signed_urls()[0] in ([f"ws://[::1]:{port}"], [])
        assert lab["Q"].context.urls == [f"ws://[::1]:{port}"]
        made = await lab.call("A", "channel.create", name="lab", bootstraps=lab["Q"].context.urls)
        lab.channels["lab"] = bytes.fromhex(made["id"])
        await lab.call("Q", "channel.join", document=await lab.export("A", "lab"), roles="none")
        await lab.linked("A", "lab", "Q")
        await lab.restart("Q")
        await lab.linked("A", "lab", "Q")
