"""With what it requires and nothing else, all that needs no extra works: what an extra brings is asked
for where it is used, and nowhere else."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.daemons import Lab, announced, at

REQUEST = """
import sys
import kachery_p2p as kc
assert kc.load_text(sys.argv[1]) == "plain"
subfeed = kc.load_feed(sys.argv[2]).load_subfeed("s")
assert subfeed.get_next_messages(wait_msec=0) == [1]
assert kc.store_npy(kc.load_npy(sys.argv[3])) == sys.argv[3]
with kc.open(sys.argv[3]) as file:
    assert file.read(6) == b"\\x93NUMPY"
"""


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _required() -> set[str]:
    """The distributions that come with this one when no extra is asked for."""
    found: set[str] = set()
    waiting = [("kachery_p2p", frozenset[str]())]
    while waiting:
        name, extras = waiting.pop()
        found.add(_plain(name))
        try:
            texts = requires(name) or []
        except PackageNotFoundError:  # for another system, say
            continue
        for text in texts:
            needed = Requirement(text)
            wanted = [{"extra": extra} for extra in extras] or [{"extra": ""}]
            marker = needed.marker
            if _plain(needed.name) not in found and (
                marker is None or any(marker.evaluate(each) for each in wanted)
            ):
                waiting.append((needed.name, frozenset(needed.extras)))
    return found


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Processes that are started find nothing that an extra brought."""
    required = _required()
    folder = tmp_path / "missing"
    folder.mkdir()
    for module, names in packages_distributions().items():
        if module.isidentifier() and not required & {_plain(name) for name in names}:
            text = f"raise ModuleNotFoundError('No module named {module!r}', name={module!r})\n"
            (folder / f"{module}.py").write_text(text)
    assert (folder / "pytest.py").exists()
    assert not (folder / "websockets.py").exists()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_two_nodes_do_all_that_needs_no_extra(plain: Path, tmp_path: Path) -> None:
    import numpy as np

    import kachery_p2p as kc

    with Lab(tmp_path / "lab", direct=True) as lab:
        with at(lab.a):
            text, array = kc.store_text("plain"), kc.store_npy(np.arange(1_000_000))
            feed = kc.create_feed()
            feed.load_subfeed("s").append_message(1)
        with at(lab.b):
            announced(array)
        done = subprocess.run(
            [sys.executable, "-c", REQUEST, text, feed.uri, array],
            env={**lab.b.env, "PYTHONPATH": str(plain)},
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for node in (lab.a, lab.b, lab.proxy):
            assert "Traceback" not in node.cli("status", "--json").stdout
            assert node.cli("doctor", check=False).returncode in (0, 1)
