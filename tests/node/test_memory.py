"""What was in use once and is free again goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CROWD = """
import random, sys
from kachery_p2p.node import memory
memory.keep_freed()
giving = memory.Giving()
before = memory.used()
crowd = [b'x' * 1_000_000 + b'%d' % number for number in range(200)]
few = [bytes(1_000) for _ in range(100)]
most = memory.used()
del crowd[:-1]
giving.give_back()
print((most - before) >> 20, (memory.used() - before) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only there is it kept")
def test_memory_of_a_crowd_that_has_gone_is_given_back() -> None:
    """It stayed with the process for ever: hundreds of megabytes."""
    done = subprocess.run(
        [sys.executable, "-c", CROWD], capture_output=True, text=True, timeout=60, check=True
    )
    most, left = map(int, done.stdout.split())
    assert most > 150
    assert left < 60
