"""The page's own implementation of the protocol computes what this one does."""

from __future__ import annotations

import subprocess
from pathlib import Path

from . import vectors


def test_the_file_of_vectors_is_what_this_implementation_computes() -> None:
    again = "run 'python -m tests.web.vectors' if the protocol was to change"
    assert vectors.PLACE.read_text(encoding="ascii") == vectors.to_text(), again


def test_the_page_computes_the_same_and_refuses_what_was_changed(programs: Path) -> None:
    done = subprocess.run(
        ["node", programs / "vectors.mjs", vectors.PLACE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    checked = {line.removeprefix("ok ") for line in done.stdout.splitlines()}
    assert checked == {"limits", "outbox", "ranges", *vectors.compute()["vectors"]}
