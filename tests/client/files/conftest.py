"""Fixtures of this room's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemons import Lab, free_port, short_folder


@pytest.fixture(scope="package")
def lab() -> Iterator[Lab]:
    """One for the whole room; what a test stores is its own by content."""
    with short_folder() as folder:
        made = Lab(folder)
        made.a.options["api_port"] = free_port()
        with made:
            yield made
