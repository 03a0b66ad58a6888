"""Everything that README.md tells people to type is typed here, in the order in which it stands.

``console`` blocks hold commands: ``A$ command`` is typed in terminal A (``source scripts/terminal
A``), ``$ command`` in the project's folder. A trailing ``# exit status N`` says how it ends.
``python`` blocks stand below a comment ``<!-- on A -->`` and run in that terminal.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import ROOT, free_port, short_folder

pytestmark = pytest.mark.processes

BLOCK = re.compile(r"(?:<!-- on (\w+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
STATUS = re.compile(r"#.*exit status (\d+)")


def blocks() -> list[tuple[str | None, str, str]]:
    """(terminal, language, text) of each fenced block."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [match.groups() for match in BLOCK.finditer(text)]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    with short_folder() as folder:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("KACHERY", "XDG_")) and name != "PYTHONPATH"
        }
        yield {**kept, "TMPDIR": str(folder)}


class Terminals:
    """bash, once per command, with what the terminal's name stands for."""

    def __init__(self, environment: dict[str, str], port: int) -> None:
        self.environment = environment
        self.port = port

    def type(self, terminal: str | None, command: str, stdin: str | None = None) -> str:
        command = command.replace("8080", str(self.port))
        command = command.replace("/tmp/", self.environment["TMPDIR"] + "/")
        wanted = int(found.group(1)) if (found := STATUS.search(command)) else 0
        if terminal is not None:
            command = f"source scripts/terminal {terminal}\n{command}"
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=ROOT,
            env=self.environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == wanted, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def test_every_block_does_what_it_says(environment: dict[str, str]) -> None:
    terminals = Terminals(environment, free_port())
    started: set[str] = set()
    printed: list[str] = []
    try:
        for terminal, language, text in blocks():
            if language == "python":
                assert terminal is not None, f"on which terminal does this run?\n{text}"
                text = filled_in(text, "".join(printed))
                printed.append(terminals.type(terminal, "python -", stdin=text))
            elif language == "console":
                for line in text.splitlines():
                    name, _, command = line.partition("$ ")
                    printed.append(run_line(terminals, name or None, command, started))
            else:
                assert language == "text", f"a block of {language} is not run by anything"
    finally:
        for name in started:
            terminals.type(name, "kachery-p2p daemon stop")
    assert "Prime 1: 2\n" in "".join(printed)
    assert "Prime 25: 97\n" in "".join(printed)
    assert not started, "README does not say how it ends"


def filled_in(text: str, printed: str) -> str:
    """What stands there as a placeholder is what was printed before."""
    for uri in re.findall(r"feed://[0-9a-f]{64}(/\w+)", printed):
        found = re.findall(r"feed://[0-9a-f]{64}" + uri, printed)
        text = text.replace(f"feed://<64 hex digits>{uri}", found[-1])
    assert "<64 hex" not in text.replace("# feed://<64 hex digits>", "")
    return text


def run_line(terminals: Terminals, name: str | None, command: str, started: set[str]) -> str:
    if command == "./scripts/test":
        # This very test runs inside it; that the script works at all is what can be tried here.
        command = "./scripts/test --collect-only -q tests/test_readme.py"
    if command.startswith("kachery-p2p daemon stop") and name is not None:
        started.discard(name)
    if command.startswith("kachery-p2p daemon start") and name is not None:
        started.add(name)
    printed = terminals.type(name, command)
    if command.startswith("kachery-p2p store"):
        uri = printed.strip()
        assert any(uri in text for _, _, text in blocks()), f"README shows another URI than {uri}"
    if command.startswith("kachery-p2p cat"):
        assert printed == "some-random-text\n"
    return printed


def test_the_project_has_its_papers() -> None:
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"):
        assert (ROOT / name).stat().st_size > 500, name
    assert (Path(ROOT) / "docs/protocol.md").exists()
