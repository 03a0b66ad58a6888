"""Fixtures for pytest, there as soon as kachery_p2p is installed: ``kachery_node`` and
``kachery_network``.

>>> def test_something(kachery_node):
...     assert kc.load_text(kc.store_text("some text")) == "some text"

Marks: ``@pytest.mark.kachery_network(3, processes=True)`` gives the arguments of
:class:`kachery_p2p.testing.Network`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import AnyNode, Network

_MARK = "kachery_network(nodes, **options): arguments of kachery_p2p.testing.Network"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARK)


@pytest.fixture
def kachery_node(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[AnyNode]:
    """A node that all functions of kachery_p2p talk to during the test, from every thread and in the
    programs that it starts. It is on a channel of its own, and nothing of it stays."""
    from .testing import Network

    with Network(1, lines=False) as network:
        node = network["A"]
        _use(monkeypatch, node.env)
        yield node


@pytest.fixture
def kachery_network(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Network]:
    """Two nodes, ``A`` and ``B``, and a proxy on one channel; see :class:`kachery_p2p.testing.Network`.

    Outside ``with network['A'].at():`` no node answers, so that a test does not by mistake ask the
    one of whoever runs it.
    """
    from .testing import Network

    mark = request.node.get_closest_marker("kachery_network")
    arguments, options = (mark.args, mark.kwargs) if mark else ((), {})
    with Network(*arguments, **options) as network, tempfile.TemporaryDirectory() as nowhere:
        _use(monkeypatch, {"XDG_RUNTIME_DIR": nowhere})
        yield network


def _use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Nothing of the environment says where a node is but what is given."""
    for name in [name for name in os.environ if name.startswith("KACHERY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", environment["XDG_RUNTIME_DIR"])
