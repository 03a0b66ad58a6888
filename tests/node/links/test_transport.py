"""The routes of campus networks: TLS, and an HTTP proxy that everything must go through."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kachery_p2p.node.channels.bootstraps import Bootstrap
from kachery_p2p.node.links import transport
from kachery_p2p.protocol.errors import BadInput, Unreachable
from tests.node.harness import Lab, laboratory, until

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ws_proxy", "wss_proxy")


@pytest.fixture(autouse=True)
def no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kachery test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


class HttpProxy:
    """Answers CONNECT, and nothing else."""

    def __init__(self, *, refuse: bool = False) -> None:
        self.asked: list[str] = []
        self.moved = 0
        self._refuse = refuse
        self._writers: list[asyncio.StreamWriter] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        self.asked.append(f"{method} {target}")
        if self._refuse:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        host, port = target.rsplit(":", 1)
        there, onward = await asyncio.open_connection(host, int(port))
        self._writers.append(onward)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(self._pump(reader, onward), self._pump(there, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                self.moved += len(data)
                sink.write(data)
                await sink.drain()
        sink.close()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        try:
            yield f"http://{host}:{port}"
        finally:
            for writer in self._writers:
                writer.close()
            server.close()
            await server.wait_closed()


def is_waiting(status: Bootstrap) -> bool:
    return status.state == "waiting"


async def exchange(lab: Lab) -> None:
    data = bytes(range(256)) * 400
    sha1, _ = await lab.store("A", data)
    await lab.load("B", sha1)
    assert lab.bytes_of("B", sha1) == data


@contextlib.asynccontextmanager
async def secure_lab(folder: Path) -> AsyncIterator[Lab]:
    cert, key = certificate(folder)
    async with laboratory(channel=False, tls_cert=cert, tls_key=key) as lab:
        yield lab


async def test_wss_with_a_certificate_that_the_machine_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with secure_lab(tmp_path) as lab:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        await lab.channel("lab", {"A": "all", "B": "all"})
        assert all(each.url.startswith("wss://") for each in lab["A"].bootstraps.status.values())
        await exchange(lab)


async def test_wss_with_a_certificate_that_nobody_trusts_says_so(tmp_path: Path) -> None:
    async with secure_lab(tmp_path) as lab:
        await lab.channel("lab", {"A": "all", "B": "all"}, wait=False)
        for name in ("A", "B"):
            [status] = lab[name].bootstraps.status.values()
            await until(partial(is_waiting, status))
            assert status.code == "unreachable"
            assert "TLS failed" in status.error
            assert "certificate" in status.error


async def test_ws_to_a_port_that_speaks_tls_says_what_is_wrong(tmp_path: Path) -> None:
    async with secure_lab(tmp_path) as lab:
        with pytest.raises(Unreachable):
            await transport.dial(f"ws://{lab['P'].listening}")


async def test_wss_to_a_port_that_speaks_no_tls_says_what_is_wrong() -> None:
    async with laboratory(channel=False) as lab:
        with pytest.raises(Unreachable, match="does it speak TLS"):
            await transport.dial(f"wss://{lab['P'].listening}")


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "http_proxy"])
async def test_ws_goes_through_the_http_proxy_of_the_environment(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For ws:// either variable counts; https_proxy first, as websockets does it."""
    proxy = HttpProxy()
    async with proxy.listening() as url, laboratory(channel=False) as lab:
        monkeypatch.setenv(variable, url)
        await lab.channel("lab", {"A": "all", "B": "all"})
        # The owner may have come before the proxy node knew of the channel, and once more after that.
        assert len(proxy.asked) >= 2
        assert set(proxy.asked) == {f"CONNECT {lab['P'].listening}"}
        await exchange(lab)
        assert proxy.moved > 200_000


async def test_wss_goes_through_the_http_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = HttpProxy()
    async with proxy.listening() as url, secure_lab(tmp_path) as lab:
        monkeypatch.setenv("https_proxy", url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        await lab.channel("lab", {"A": "all", "B": "all"})
        assert proxy.asked == [f"CONNECT {lab['P'].listening}"] * 2
        await exchange(lab)


async def test_no_proxy_exempts_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = HttpProxy()
    async with proxy.listening() as url, laboratory(channel=False) as lab:
        monkeypatch.setenv("https_proxy", url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        await lab.channel("lab", {"A": "all", "B": "all"})
        assert not proxy.asked
        await exchange(lab)


async def test_a_proxy_that_refuses_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = HttpProxy(refuse=True)
    async with proxy.listening() as url, laboratory(channel=False) as lab:
        monkeypatch.setenv("https_proxy", url)
        with pytest.raises(Unreachable) as caught:
            await transport.dial(f"ws://{lab['P'].listening}")
        assert "proxy" in str(caught.value)
        assert "403" in str(caught.value)


async def test_a_proxy_that_is_dead_is_named_and_not_only_the_node_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("https_proxy", "HTTP_PROXY", "ALL_PROXY"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "http://user:secret@127.0.0.1:1")
            with pytest.raises(Unreachable) as caught:
                await transport.dial("ws://127.0.0.1:9")
        said = str(caught.value)
        assert "ws://127.0.0.1:9" in said
        assert f"http://127.0.0.1:1 ({variable})" in said
        assert "secret" not in said
    with monkeypatch.context() as patch:
        patch.setenv("https_proxy", "http://there.is.no.such.host.invalid:3128")
        with pytest.raises(Unreachable, match=r"no\.such\.host\.invalid:3128"):
            await transport.dial("ws://127.0.0.1:9")


@pytest.mark.parametrize("exempt", ["127.0.0.0/8", "*", "127.0.0.1:{port}"])
async def test_no_proxy_exempts_networks_and_ports(
    exempt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with laboratory(channel=False) as lab:
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
        where = lab["P"].listening
        assert where is not None
        monkeypatch.setenv("no_proxy", exempt.format(port=where.rpartition(":")[2]))
        connection = await transport.dial(f"ws://{where}")
        await connection.close()


async def test_a_proxy_setting_that_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in (
        ("https_proxy", "gopher://nowhere"),
        ("all_proxy", "socks5h://127.0.0.1:9"),  # not supported without another package
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with pytest.raises(Unreachable, match="proxy"):
                await transport.dial("ws://127.0.0.1:9")


@pytest.mark.parametrize("url", ["http://x", "ws://", "", "ws:/x", "ws://" + "h" * 3_000, "ws://[",
                                 "ws://h:99999", "ws://h:x", "ws://" + "h" * 70 + ":1"])  # fmt: skip
async def test_an_address_that_can_never_work_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput):
        await transport.dial(url)
