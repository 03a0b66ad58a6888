"""Which HTTP proxy is used, and what is reached without one, as curl and requests have it."""

from __future__ import annotations

import pytest

from kachery_p2p.protocol.links.http_proxy import HttpProxy, bypasses, choose_http_proxy


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("", "example.org", False),
        ("*", "example.org", True),
        ("a.org, *", "10.1.2.3", True),
        ("example.org", "example.org", True),
        ("example.org", "node.example.org", True),
        (".example.org", "example.org", True),
        (".example.org", "node.example.org", True),
        ("*.example.org", "node.example.org", True),
        ("example.org", "badexample.org", False),
        ("example.org", "example.org.evil.net", False),
        ("EXAMPLE.org", "Node.Example.ORG.", True),
        ("a.org b.org\tc.org", "b.org", True),
        (" , ,", "b.org", False),
        ("10.0.0.0/8", "10.200.3.4", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.1.2.3/8", "10.200.3.4", True),
        ("10.0.0.0/8", "ten.example.org", False),
        ("10.0.0.0/99,b.org", "10.0.0.1", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "110.0.0.1", False),
        ("0.0.1", "10.0.0.1", False),
        ("fd00::/8", "fd12::1", True),
        ("::1", "::1", True),
        ("[::1]", "[::1]", True),
        ("0:0::1", "::1", True),
        ("localhost", "127.0.0.1", False),
        ("example.org:8080", "example.org", True),
        ("example.org:8081", "example.org", False),
        (".example.org:8080", "a.example.org", True),
        ("10.0.0.1:8080", "10.0.0.1", True),
        ("10.0.0.1:1", "10.0.0.1", False),
        ("[::1]:8080", "::1", True),
        ("[::1]:1", "::1", False),
        ("10.0.0.0/8:8080", "10.200.3.4", True),
        ("10.0.0.0/8:1", "10.200.3.4", False),
        ("[fd00::/8]:8080", "fd12::1", True),
        ("[fd00::]/8", "fd12::1", True),
        ("[fd00::]/8:1", "fd12::1", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("::ffff:10.1.2.3", "10.1.2.3", True),
        ("10.0.0.0/99", "10.1.2.3", False),
        ("::8080", "::8080", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("fe80::1", "[fe80::1%eth0]", True),
        ("example.org.", "node.example.org", True),
        (".", "node.example.org", False),
        ("192.168.0.0/255.255.0.0", "192.168.7.7", True),
    ],
)
def test_what_is_reached_directly(no_proxy: str, host: str, direct: bool) -> None:
    assert bypasses(no_proxy, host, 8080) is direct


@pytest.mark.parametrize(
    ("environ", "scheme", "proxy"),
    [
        ({}, "ws", None),
        ({"http_proxy": "http://h:1"}, "ws", HttpProxy("http://h:1", "http_proxy")),
        ({"http_proxy": "http://h:1"}, "wss", None),
        ({"HTTPS_PROXY": "h:1"}, "wss", HttpProxy("http://h:1", "HTTPS_PROXY")),
        ({"https_proxy": "http://a", "HTTPS_PROXY": "http://b"}, "ws",
         HttpProxy("http://a", "https_proxy")),
        ({"https_proxy": "", "HTTPS_PROXY": "http://b"}, "ws", None),
        ({"https_proxy": "", "HTTP_PROXY": "http://b"}, "ws", HttpProxy("http://b", "HTTP_PROXY")),
        ({"ALL_PROXY": "http://a:1"}, "ws", HttpProxy("http://a:1", "ALL_PROXY")),
        ({"ALL_PROXY": "http://a:1"}, "wss", HttpProxy("http://a:1", "ALL_PROXY")),
        ({"all_proxy": "socks5://a:1", "https_proxy": "http://b"}, "wss",
         HttpProxy("http://b", "https_proxy")),
        ({"socks_proxy": "http://a:1"}, "wss", None),
        ({"socks_proxy": "http://a:1", "https_proxy": "http://b"}, "wss",
         HttpProxy("http://b", "https_proxy")),
        ({"wss_proxy": "http://w", "https_proxy": "a:1"}, "wss", HttpProxy("http://w", "wss_proxy")),
        ({"ws_proxy": "http://w"}, "wss", None),
        ({"HTTP_PROXY": "http://h:1", "REQUEST_METHOD": "GET"}, "ws", None),
        ({"http_proxy": "http://h:1", "REQUEST_METHOD": "GET"}, "ws",
         HttpProxy("http://h:1", "http_proxy")),
        ({"https_proxy": " http://a:1\n"}, "wss", HttpProxy("http://a:1", "https_proxy")),
        ({"ALL_PROXY": "http://a:1", "NO_PROXY": "node.org:443"}, "wss", None),
        ({"ALL_PROXY": "http://a:1", "no_proxy": "", "NO_PROXY": "*"}, "wss",
         HttpProxy("http://a:1", "ALL_PROXY")),
    ],
)  # fmt: skip
def test_which_proxy_the_environment_names(
    environ: dict[str, str], scheme: str, proxy: HttpProxy | None
) -> None:
    assert choose_http_proxy(environ, scheme, "node.org", 443) == proxy


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("proxy.org:3128", "http://proxy.org:3128"),
        ("HTTP://proxy.org:3128/", "http://proxy.org:3128/"),
        ("user:secret@proxy.org:3128", "http://user:secret@proxy.org:3128"),
        ("http://user@proxy.org:3128", "http://user:@proxy.org:3128"),
        ("http://user:p@ss@proxy.org:3128", "http://user:p@ss@proxy.org:3128"),
        ("socks://127.0.0.1:9050/", "socks5h://127.0.0.1:9050/"),
        ("socks://127.0.0.1/", "socks5h://127.0.0.1:1080"),
        ("socks5://[::1]", "socks5://[::1]:1080"),
        ("socks5h://user@proxy.org", "socks5h://user:@proxy.org:1080"),
        ("socks5h://proxy.org:x", "socks5h://proxy.org:x"),
    ],
)
def test_what_others_let_one_leave_out_of_a_proxy_is_completed(written: str, url: str) -> None:
    chosen = choose_http_proxy({"ALL_PROXY": written}, "wss", "node.org", 443)
    assert chosen == HttpProxy(url, "ALL_PROXY")


def test_a_password_is_not_shown() -> None:
    shown = HttpProxy("http://user:secret@proxy.org:3128", "HTTPS_PROXY").shown
    assert shown == "the HTTP proxy http://proxy.org:3128 (HTTPS_PROXY)"
    assert "secret" not in HttpProxy("http://user:secret@[proxy", "HTTPS_PROXY").shown
