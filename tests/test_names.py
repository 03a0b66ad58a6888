"""docs/names.md: what it says is here under an older name, is here."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

import kachery_client
import kachery_p2p
from kachery_p2p.cli.main import PROGRAM, group
from tests import forked
from tests.daemons import ROOT, short_folder

STATUSES = ("same", "changed", "renamed", "another way", "left out")
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]+")
ARGUMENT = re.compile(r"(.*)\((\w+)=\)")
HEAD = "| name | of | status | here | note |"


class Row(NamedTuple):
    name: str
    of: str
    status: str
    here: str
    note: str


def rows() -> list[Row]:
    """Each line of each table: what is between its bars."""
    text = (ROOT / "docs/names.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [Row(*(cell.strip() for cell in line.strip().strip("|").split("|"))) for line in lines]


ROWS = rows()


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


HERE = sorted({name for row in ROWS for name in spans(row.here)})


def programs() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, str] = project["scripts"]
    return found


def option_names(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


def check_command(words: list[str]) -> None:
    """A program of the package, with the commands and options that follow it."""
    program, *rest = words
    module, _, function = programs()[program].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    command: click.Command = group
    for word in rest:
        if word.startswith("--"):
            assert word in option_names(command), f"{word} is no option of {command.name}"
        else:
            assert isinstance(command, click.Group), f"{command.name} has no commands"
            command = command.commands[word]


def check_python(path: str) -> None:
    """A name of kachery_client, an attribute of what it names, an argument of a function."""
    argument = ARGUMENT.fullmatch(path)
    found: Any = kachery_client
    if (Path(kachery_client.__file__).parent / f"{path}.py").is_file():
        assert importlib.import_module(f"kachery_client.{path}").__all__
        assert importlib.import_module(f"kachery_p2p.{path}").__all__
        return
    for part in (argument[1] if argument else path).split("."):
        if inspect.isclass(found) and not hasattr(found, part):
            # An attribute that each object gets when it is made, or a field.
            told = inspect.getsource(found.__init__) + " ".join(found.__annotations__)
            assert re.search(rf"\b{part}\b", told), f"{found.__name__} has no {part}"
            assert not argument
            return
        found = getattr(found, part)
    if argument:
        assert argument[2] in inspect.signature(found).parameters


def sources() -> str:
    return "\n".join(
        path.read_text(encoding="utf-8") for path in Path(kachery_p2p.__file__).parent.rglob("*.py")
    )


def test_every_row_is_complete() -> None:
    assert len(ROWS) > 150
    text = (ROOT / "docs/names.md").read_text(encoding="utf-8")
    assert text.count(HEAD) == text.count("|---|---|---|---|---|") == text.count("\n| name |")
    for row in ROWS:
        assert spans(row.name) == [row.name.strip("`")], row
        assert row.of in ("client", "daemon", "p2p", "client, p2p"), row
        assert row.status in STATUSES, row
        # What is missing, and what is otherwise, needs a word of why.
        assert bool(spans(row.here)) == (row.status != "left out"), row
        assert row.note or row.status in ("same", "renamed", "another way"), row
    names = [(row.name, of) for row in ROWS for of in row.of.split(", ")]
    assert len(names) == len(set(names)), "a name stands there twice"


@pytest.mark.parametrize("name", HERE)
def test_what_is_said_to_be_here_is_here(name: str) -> None:
    if VARIABLE.fullmatch(name):
        assert f'"{name}"' in sources()
    elif name.split()[0] in programs():
        check_command(name.split())
    else:
        check_python(name)


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.status in ("same", "changed")],
    ids=lambda row: row.name.strip("`"),
)
def test_what_is_the_same_has_its_old_name(row: Row) -> None:
    old = row.name.strip("`").replace("OutgoingTaskRequest.", "TaskRequest.")
    program = old.split()[0]
    if program in programs() or program.startswith("kachery-"):
        last = old.split()[-1].removeprefix("kachery-")
        assert any(last in here.split()[-1] for here in spans(row.here)), row
    elif row.status == "same" and ARGUMENT.fullmatch(old) and old not in spans(row.here):
        # It is taken under its older name: tests/client/test_older_names.py calls it.
        assert row.note, row
    elif row.status == "same" or not ARGUMENT.fullmatch(old):
        assert old.removesuffix("()") in spans(row.here), row


@pytest.mark.parametrize("program", sorted(set(programs()) - {PROGRAM}))
def test_the_older_programs_are_the_commands_of_today(program: str) -> None:
    """Each is started with ``--help``, as its entry point would be."""
    module, _, function = programs()[program].partition(":")
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    done = forked.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    older = program.removeprefix("kachery-").removeprefix("p2p-")
    command = {
        "client": "", "daemon": "", "daemon-info": "info", "daemon-start": "start-daemon",
        "node-info": "info", "store": "store-file", "get-channels": "channel list",
        "join-channel": "channel join", "leave-channel": "channel leave",
        "stop-daemon": "daemon stop",
    }.get(older, older)  # fmt: skip
    assert f"Usage: {PROGRAM} {command}".strip() in done.stdout


def test_older_commands_run_and_are_not_advertised() -> None:
    help_text = forked.run(
        [sys.executable, "-m", "kachery_p2p.cli", "--help"],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    assert "load-file" not in help_text
    with short_folder() as folder:
        (folder / "notes.txt").write_text("some-random-text")
        stored = forked.run(
            [sys.executable, "-m", "kachery_p2p.cli", "store-file", str(folder / "notes.txt")],
            capture_output=True, text=True, timeout=60, check=True,
            env={"KACHERY_OFFLINE_STORAGE_DIR": str(folder / "storage"), "PYTHONPATH": str(ROOT)},
        ).stdout  # fmt: skip
        assert stored == "sha1://6af826b3d648ccba6b4bbe58e93e22add640d728/notes.txt\n"
        assert (folder / "storage/sha1/6a/f8/26").is_dir()
