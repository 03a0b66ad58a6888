"""Runs what a document tells people to type, in the order in which it stands.

``console`` blocks hold commands: ``A$ command`` is typed in terminal A, ``$ command`` in the
project's folder; a line without a prompt goes on with the command above it. A trailing ``# exit
status N`` says how a command ends, ``# until Ctrl-C`` that it stays. ``python`` blocks stand below
``<!-- on A -->`` and run in that terminal. A block below ``<!-- file PATH -->`` is a file, and is
written there. A ``text`` block below ``<!-- prints -->`` is what the command before it printed, as far
as it is shown: ``...`` is anything. ``<!-- Ctrl-C on A -->`` ends what stays in a terminal.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.daemons import ROOT

COMMAND_SECONDS = 300
END_SECONDS = 60

_PART = re.compile(
    r"^(?:<!-- (?P<comment>[^\n]*?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$"
    r"|^<!-- Ctrl-C on (?P<ended>\w+) -->$",
    re.DOTALL | re.MULTILINE,
)
_PROMPT = re.compile(r"(\w*)\$ (.*)", re.DOTALL)
_STATUS = re.compile(r"#.*exit status (\d+)")
_STAYS = re.compile(r"#.*until Ctrl-C")


class Block(NamedTuple):
    language: str
    """``console``, ``python``, ...; ``ended``: the terminal in ``text`` gets Ctrl-C."""
    comment: str
    text: str


def blocks(document: Path) -> list[Block]:
    found = []
    for match in _PART.finditer(document.read_text(encoding="utf-8")):
        if match["ended"]:
            found.append(Block("ended", "", match["ended"]))
        else:
            found.append(Block(match["language"], match["comment"] or "", match["text"]))
    return found


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """(terminal, command) of each command of a console block."""
    for text in re.split(r"\n(?=\w*\$ )", block.text.rstrip("\n")):
        prompt = _PROMPT.fullmatch(text)
        assert prompt, f"no prompt before {text!r}"
        yield prompt[1], prompt[2]


class Shell:
    """A bash that stays, as a terminal does: variables and folders hold from command to command."""

    def __init__(self, argv: list[str], environment: dict[str, str], scratch: Path) -> None:
        self._out, self._err = (Path(tempfile.mkstemp(dir=scratch)[1]) for _ in range(2))
        for path in (self._out, self._err):
            path.chmod(0o666)
        self.printed = ""
        self._process = subprocess.Popen(
            argv, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, command: str) -> tuple[int, str]:
        """Exit status, and what went to standard error; :attr:`printed` is the rest."""
        assert self._process.stdin
        assert self._process.stdout
        typed = f"{{ {command}\n}} </dev/null >{self._out} 2>{self._err}\necho $?\n"
        self._process.stdin.write(typed.encode())
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], COMMAND_SECONDS)
        assert ready, f"still running after {COMMAND_SECONDS} s: {command}"
        status = int(self._process.stdout.readline())
        self.printed = self._out.read_text()
        return status, self._err.read_text()

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(END_SECONDS)
        self._process.stdout.close()


def moved(text: str, **folders: Path) -> str:
    """The text with other folders at the root, such as ``tmp``; this project stays where it is."""
    ours, stands_for = str(ROOT), "\0"
    text = text.replace(ours, stands_for)
    for name, folder in folders.items():
        text = text.replace(f"/{name}/", f"{folder}/")
    return text.replace(stands_for, ours)


class Place(Protocol):
    """Where a document is followed: what its terminals are, and what it calls by other names."""

    def shell(self, terminal: str) -> Shell: ...
    def adapted(self, text: str) -> str: ...
    def write(self, path: str, text: str) -> None: ...


class ThisComputer:
    """Terminals as ``scripts/terminal`` makes them. The folder stands for /tmp, a port for 8080."""

    def __init__(self, folder: Path, port: int, **environment: str) -> None:
        self._folder = folder
        self._port = port
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("KACHERY", "XDG_")) and name != "PYTHONPATH"
        }
        self._environment = {**kept, "TMPDIR": str(folder), **environment}

    def shell(self, terminal: str) -> Shell:
        shell = Shell(["bash", "--norc"], self._environment, self._folder)
        if terminal:
            status, errors = shell.run(f"source scripts/terminal {terminal}")
            assert status == 0, errors
        return shell

    def adapted(self, text: str) -> str:
        return moved(text.replace("8080", str(self._port)), tmp=self._folder)

    def write(self, path: str, text: str) -> None:
        Path(self.adapted(path)).write_text(text, encoding="utf-8")


@dataclass
class Reading:
    """One document being followed."""

    place: Place
    replaced: dict[str, str] = field(default_factory=dict)
    """Commands that are typed in another form."""
    fill: Callable[[str, str], str] = lambda text, printed: text
    """Puts what was printed before (its second argument) where a placeholder stands."""
    printed: str = ""
    started: set[str] = field(default_factory=set)
    """The terminals in which a node runs."""
    _shells: dict[str, Shell] = field(default_factory=dict)
    _staying: dict[str, tuple[Shell, subprocess.Popen[bytes]]] = field(default_factory=dict)
    _last: str = ""

    def follow(self, document: Path) -> None:
        try:
            for block in blocks(document):
                self._one(block)
            assert not self._staying, f"{document.name} does not say how {self._staying} end"
            assert not self.started, f"{document.name} does not say how {self.started} end"
        finally:
            self._end()

    def _one(self, block: Block) -> None:
        match block.comment.split(maxsplit=1), block.language:
            case _, "ended":
                self._interrupt(block.text)
            case ["file", path], _:
                self.place.write(path, block.text)
            case ["on", terminal], "python":
                code = self.fill(block.text, self.printed)
                self.type(terminal, f"python - <<'END OF BLOCK'\n{code}\nEND OF BLOCK")
            case _, "console":
                for terminal, command in commands(block):
                    self.type(terminal, self.fill(command, self.printed))
            case ["prints"], "text":
                self._compare(block.text)
            case _:
                assert block.language == "text", f"nothing runs this:\n{block.text}"

    def type(self, terminal: str, command: str) -> str:
        """Run it, check how it ends, and return what it printed."""
        if terminal not in self._shells:
            self._shells[terminal] = self.place.shell(terminal)
        shell = self._shells[terminal]
        if _STAYS.search(command):
            self._stay(terminal, command)
            return ""
        if command.startswith("kachery-p2p daemon start"):
            self.started.add(terminal)
        status, errors = shell.run(self.place.adapted(self.replaced.get(command, command)))
        wanted = int(found[1]) if (found := _STATUS.search(command)) else 0
        assert status == wanted, f"{terminal}$ {command}\n{shell.printed}\n{errors}"
        if command.startswith("kachery-p2p daemon stop"):
            self.started.discard(terminal)
        self._last = shell.printed
        self.printed += shell.printed.removesuffix("\n") + "\n"
        return shell.printed

    def _stay(self, terminal: str, command: str) -> None:
        shell = self.place.shell(terminal)
        assert terminal not in self._staying, f"something stays in {terminal} already"
        # A job of its own, as in a terminal: otherwise bash makes it deaf to Ctrl-C.
        typed = self.place.adapted(_STAYS.sub("", command))
        status, errors = shell.run(f"set -m\n{typed} >/dev/null & echo $!")
        assert status == 0, errors
        self._staying[terminal] = (shell, int(shell.printed))

    def _interrupt(self, terminal: str) -> None:
        shell, pid = self._staying.pop(terminal)
        status, errors = shell.run(f"kill -INT -- -{pid}; wait {pid}")
        assert status in (0, 130), f"Ctrl-C in {terminal}: {status}\n{errors}"
        shell.close()

    def _compare(self, text: str) -> None:
        """Each line of ``text`` is one that the last command printed, in that order."""
        lines = iter(self._last.splitlines())
        for wanted in self.place.adapted(text).splitlines():
            pattern = ".*".join(map(re.escape, wanted.split("...")))
            assert any(re.fullmatch(pattern, line) for line in lines), (
                f"{wanted!r} was not printed, but:\n{self._last}"
            )

    def _end(self) -> None:
        for terminal in self.started:
            self._shells[terminal].run("kachery-p2p daemon stop")
        for terminal in list(self._staying):
            shell, pid = self._staying.pop(terminal)
            shell.run(f"kill -KILL -- -{pid}")
            shell.close()
        for shell in self._shells.values():
            shell.close()
