"""What the tests with running nodes share."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

import kachery_p2p as kc
from tests.daemons import Daemon

ABSENT = "sha1://" + "0" * 40 + "/absent.txt"


def content(name: str, size: int) -> bytes:
    return hashlib.shake_128(name.encode()).digest(size)


def blob_path(daemon: Daemon, uri: str) -> Path:
    sha1 = kc.parse_uri(uri).hash
    return daemon.storage / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6] / sha1


def sync_call(name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(kc, name)(*arguments, **options)


def async_call(name: str, *arguments: Any, **options: Any) -> Any:
    async def main() -> Any:
        return await getattr(kc, f"a{name}")(*arguments, **options)

    return asyncio.run(main())


BOTH = pytest.mark.parametrize("call", [sync_call, async_call], ids=["sync", "async"])
