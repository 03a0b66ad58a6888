"""Share links as text."""

from __future__ import annotations

import pytest

from kachery_p2p.protocol.channels.share_link import (
    VERSION,
    ShareLink,
    id_of,
    is_secure,
    page_of,
    to_url,
)
from kachery_p2p.protocol.identity import NodeKey

SEED = bytes([9]) * 32
LINK = ShareLink(VERSION, "lab", b"a pass", SEED, "sha1://" + "ab" * 20, (b"k" * 16,), 1, bytes(32))


@pytest.mark.parametrize(
    ("url", "page", "secure"),
    [
        ("wss://proxy.example", "https://proxy.example/", True),
        ("wss://proxy.example:8443/lab", "https://proxy.example:8443/lab/", True),
        ("ws://proxy.example/", "http://proxy.example/", False),
        ("ws://127.0.0.1:8080", "http://127.0.0.1:8080/", True),
        ("ws://[::1]:8080", "http://[::1]:8080/", True),
    ],
)
def test_the_page_is_where_the_proxy_is(url: str, page: str, secure: bool) -> None:
    assert (page_of(url), is_secure(url)) == (page, secure)


def test_a_link_is_known_by_its_pass_unless_it_was_changed() -> None:
    url = to_url(LINK, "https://proxy.example/")
    assert id_of(url) == NodeKey(SEED).node_id
    assert id_of(f" {url}\n") == NodeKey(SEED).node_id
    for text in (url[:-1], url.partition("#")[0], "", "#", "#é", url[:40] + "A" + url[41:]):
        assert id_of(text) is None, text
