"""What a node says of where it is reached is signed by it, and names a host and a port only."""

from __future__ import annotations

import pytest

from kachery_p2p.protocol.channels.member_urls import (
    member_url,
    member_urls,
    sign_urls,
    verify_urls,
)
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.identity import NodeKey

KEY, OTHER = NodeKey(b"a" * 32), NodeKey(b"b" * 32)


@pytest.mark.parametrize(
    ("said", "dialled"),
    [
        ("ws://h.example:8080", "ws://h.example:8080/kachery-p2p"),
        ("wss://H.example/", "wss://h.example/kachery-p2p"),
        ("ws://[::1]:5/kachery-p2p", "ws://[::1]:5/kachery-p2p"),
        ("ws://10.0.0.1", "ws://10.0.0.1/kachery-p2p"),
    ],
)
def test_the_path_is_fixed(said: str, dialled: str) -> None:
    assert member_url(said) == dialled


@pytest.mark.parametrize(
    "said",
    [
        "ws://127.0.0.1:80/anything",
        "ws://h/kachery-p2p/../admin",
        "ws://h/kachery-p2p?delete=all",
        "ws://h/?x",
        "ws://h/#x",
        "ws://user:password@h",
        "http://h",
        "ws://h:0",
        "ws://h:99999",
        "ws://h\r\nX: y",
        "ws:// h",
        "ws://",
        "",
    ],
)
def test_nothing_but_a_host_and_a_port_can_be_named(said: str) -> None:
    with pytest.raises(BadInput):
        member_url(said)
    assert member_urls([said, "ws://h"]) == ["ws://h"]


def test_what_another_node_says_of_it_is_not_believed() -> None:
    urls = ["ws://h:1", "wss://h"]
    signature = sign_urls(KEY, urls)
    assert verify_urls(KEY.public, urls, signature)
    assert not verify_urls(OTHER.public, urls, signature)
    assert not verify_urls(KEY.public, urls[:1], signature)
    assert not verify_urls(KEY.public, [*urls, "ws://127.0.0.1"], signature)
    assert not verify_urls(KEY.public, urls, b"")
    assert verify_urls(KEY.public, [], b"")
