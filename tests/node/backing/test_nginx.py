"""nginx as an origin: as it comes, and as administrators set it up."""

from __future__ import annotations

from pathlib import Path

import pytest

from kachery_p2p.protocol.errors import (
    KacheryError,
    OriginError,
    OriginObjectGone,
    OriginRefused,
    OriginUnreachable,
)
from kachery_p2p.protocol.limits import MANIFEST_CHUNK, MIB
from kachery_p2p.storage import paths
from tests.node.harness import Live

from .folders import content, put, write_index
from .lab import lab_with
from .servers import nginx

LARGE = MANIFEST_CHUNK + 30 * MIB


async def test_parts_of_a_large_file_move_little_more_than_was_asked(tmp_path: Path) -> None:
    data = content(LARGE)
    sha1, manifest = put(tmp_path, data)
    write_index(tmp_path)
    with nginx(tmp_path) as server:
        async with lab_with(server.url) as lab:
            before, wanted = server.sent(), 0
            for start in (1_000_000, 17 * MIB + 5, 40 * MIB):
                live, stop = Live(), start + 2 * MIB
                wanted += stop - start
                await lab.live(
                    "B", live, "load_bytes", sha1=sha1, manifest=manifest, ranges=[(start, stop)]
                )
                assert bytes(live.sent) == data[start:stop]
            assert wanted <= server.sent() - before < 1.1 * wanted
            await lab.load("B", sha1, manifest)
            assert lab.bytes_of("B", sha1) == data


@pytest.mark.parametrize(
    "setting",
    [
        "gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;",
        "default_type text/html; charset utf-8;",
        "expires max; add_header Cache-Control public; etag off;",
        "keepalive_timeout 0;",
        "limit_rate 2m;",
    ],
)
async def test_it_gives_the_bytes_as_they_are_however_it_is_set_up(
    tmp_path: Path, setting: str
) -> None:
    data = b"the same words again " * 200_000
    sha1, _ = put(tmp_path, data)
    small, _ = put(tmp_path, b"small words " * 100)
    empty, _ = put(tmp_path, b"")
    write_index(tmp_path)
    with nginx(tmp_path, setting) as server:
        async with lab_with(server.url) as lab:
            for name in (sha1, small, empty):
                await lab.load("B", name)
            assert lab.bytes_of("B", sha1) == data


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("max_ranges 0;", OriginError),
        ("auth_basic lab; auth_basic_user_file {folder}/passwords;", OriginRefused),
        ("location /sha1 {{ deny all; }}", OriginError),
        ("location /sha1 {{ return 503; }}", OriginUnreachable),
        ("location /sha1 {{ return 404; }}", OriginObjectGone),
        ("location /sha1 {{ return 302 /login.html; }}", OriginError),
    ],
)
async def test_what_it_does_not_give_is_an_error_that_says_why(
    tmp_path: Path, setting: str, kind: type[KacheryError]
) -> None:
    sha1, _ = put(tmp_path, content(3 * MIB))
    write_index(tmp_path)
    (tmp_path / "login.html").write_text("<h1>Who are you?</h1>")
    (tmp_path / "passwords").write_text("alice:{PLAIN}secret\n")
    with nginx(tmp_path) as server:
        async with lab_with(server.url) as lab:
            server.set(setting.format(folder=tmp_path))
            error = await lab.error("A", sha1)
            assert isinstance(error, kind)
            assert server.url in str(error)


async def test_a_password_in_the_url_lets_in_and_is_told_to_nobody(tmp_path: Path) -> None:
    sha1, _ = put(tmp_path, content(3 * MIB))
    write_index(tmp_path)
    (tmp_path / "passwords").write_text("alice:{PLAIN}secret\n")
    setting = f"auth_basic lab; auth_basic_user_file {tmp_path}/passwords;"
    with nginx(tmp_path, setting) as server:
        async with lab_with(server.url.replace("://", "://alice:secret@")) as lab:
            await lab.load("B", sha1)
            told = str(await lab.call("A", "origins"))
            assert "alice@" in told
            assert "secret" not in told
            paths.path_of(tmp_path, sha1).unlink()
