"""For tests that become another user, who may be unable to read the folder that this Python is in."""

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
import pwd
import traceback
from collections.abc import Callable

import kachery_p2p

_LATE = (
    "uvloop",
    "encodings.idna",
    "concurrent.futures.thread",
    "numpy",
    "rich.console",
    "cloudpickle",
)
"""What is imported only when it is needed."""


def import_everything() -> None:
    """All that a call may import while it runs."""
    for module in pkgutil.walk_packages(kachery_p2p.__path__, "kachery_p2p."):
        if not module.name.endswith("__main__") and "pytest" not in module.name:
            importlib.import_module(module.name)
    for name in _LATE:
        importlib.import_module(name)
    asyncio.new_event_loop().close()


def as_nobody(work: Callable[[], None]) -> None:
    """Do it in a process of its own and, if this one is root's, as the user nobody. An AssertionError
    says what it raised there."""
    import_everything()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                nobody = pwd.getpwnam("nobody")
                os.setgroups([])
                os.setgid(nobody.pw_gid)
                os.setuid(nobody.pw_uid)
            work()
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-60_000:])
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    assert not said, said
