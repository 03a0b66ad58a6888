"""The page as it is handed out: what it may do, who may connect from it, what is said without it."""

from __future__ import annotations

import asyncio
import gzip
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from kachery_p2p.node.web.page import Page
from tests.node.harness import laboratory

UPGRADE = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Protocol: kachery-p2p",
]
NAMES = [
    "index.html",
    "kachery.js",
    "media.js",
    "kachery.css",
    "view.html",
    "icon.svg",
    "licences.txt",
]


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page that stands for the built one."""
    for name in NAMES:
        (tmp_path / name).write_text(f"this is {name}\n" * 1_000)
    monkeypatch.setattr("kachery_p2p.node.web.page.FOLDER", tmp_path)
    monkeypatch.setattr(Page.__init__, "__defaults__", (tmp_path,))
    return tmp_path


async def get(address: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in lower case) and body of the answer to a GET."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"GET {path} HTTP/1.1", f"Host: {address}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    named = {name.lower(): value for name, _, value in (line.partition(": ") for line in fields)}
    return int(status.split()[1]), named, body


async def test_the_page_comes_with_a_policy_that_lets_it_do_little(built: Path) -> None:
    async with laboratory(channel=False) as lab:
        address = str(lab["P"].listening)
        for path, name in [
            ("/", "index.html"),
            ("/kachery.js", "kachery.js"),
            ("/?a", "index.html"),
        ]:
            status, headers, body = await get(address, path)
            assert (status, body) == (200, (built / name).read_bytes())
            policy = headers["content-security-policy"].split("; ")
            assert "default-src 'none'" in policy
            assert "connect-src 'self'" in policy
            assert "unsafe-inline" not in headers["content-security-policy"]
            assert headers["referrer-policy"] == "no-referrer"
        _, headers, body = await get(address, "/", Accept_Encoding="gzip, br")
        assert gzip.decompress(body) == (built / "index.html").read_bytes()
        status, _, body = await get(address, "/", If_None_Match=headers["etag"])
        assert (status, body) == (304, b"")
        # Behind a reverse proxy it may be anywhere; a mail program may have spoiled the #.
        for path in ("/lab/kachery.js", "/a/b/", "/%23c2VjcmV0", "/lab/%23c2VjcmV0"):
            assert (await get(address, path))[0] == 200
        for path in ("/../../etc/passwd", "/page.py", "/kachery", "/sha1/aa/bb/cc"):
            assert (await get(address, path))[0] == 404


async def test_the_frame_of_views_has_a_policy_without_any_network(built: Path) -> None:
    script = b"start()"
    (built / "view.html").write_bytes(b"<head><script>" + script + b"</script></head>")
    async with laboratory(channel=False) as lab:
        status, headers, _ = await get(str(lab["P"].listening), "/lab/view.html")
    assert status == 200
    policy = dict(
        each.partition(" ")[::2] for each in headers["content-security-policy"].split("; ")
    )
    digest = b64encode(sha256(script).digest()).decode()
    assert policy["script-src"] == f"'sha256-{digest}' 'unsafe-eval' blob:"
    assert policy["sandbox"] == "allow-scripts"
    assert policy["default-src"] == policy["connect-src"] == policy["frame-src"] == "'none'"
    assert "self" not in " ".join(
        value for name, value in policy.items() if name != "frame-ancestors"
    )


async def test_without_a_built_page_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Page.__init__, "__defaults__", (tmp_path,))
    async with laboratory(channel=False) as lab:
        status, _, body = await get(str(lab["P"].listening), "/")
        assert status == 503
        assert b"scripts/web" in body


async def test_who_is_no_proxy_or_will_not_serves_no_page(built: Path) -> None:
    async with laboratory("A", listening=("A",), channel=False, web=False) as lab:
        for name in ("A", "P"):
            assert (await get(str(lab[name].listening), "/"))[0] == 426


async def test_only_the_nodes_own_page_may_connect(built: Path) -> None:
    async with laboratory(channel=False, public_url="wss://lab.example.org") as lab:
        address = str(lab["P"].listening)
        port = address.rsplit(":", 1)[1]

        async def outcome(origin: str, *hosts: str) -> int:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
            fields = [f"Origin: {origin}", *(f"Host: {host}" for host in hosts)]
            writer.write("\r\n".join(["GET / HTTP/1.1", *fields, *UPGRADE, "", ""]).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            return int(head.split()[1])

        assert await outcome("https://lab.example.org", "lab.example.org") == 101
        assert await outcome("https://LAB.example.org:443", "lab.example.org") == 101
        assert await outcome(f"http://127.0.0.1:{port}", address) == 101
        assert await outcome(f"http://localhost:{port}", f"localhost:{port}") == 101
        # Other sites, other ports, names that somebody else made lead here, and nonsense.
        for origin, host in [
            ("https://evil.example", "lab.example.org"),
            ("https://evil.example", "evil.example"),
            (f"http://evil.example:{port}", f"evil.example:{port}"),
            ("http://lab.example.org", "lab.example.org"),
            ("https://lab.example.org:8443", "lab.example.org"),
            ("https://lab.example.org.evil.example", "lab.example.org"),
            ("null", address),
            ("https://[::1", address),
            ("https://lab.example.org:port", "lab.example.org:port"),
        ]:
            assert await outcome(origin, host) == 403, origin
        assert await outcome("https://lab.example.org", "lab.example.org", "evil.example") == 403
        assert await outcome("https://lab.example.org") == 403
