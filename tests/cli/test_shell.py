"""Completion on Tab: the printed scripts, and what the command answers to them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from kachery_p2p.cli import completions
from kachery_p2p.cli.main import group, main
from kachery_p2p.cli.shell import SHELLS, Line, read_line
from tests import forked
from tests.daemons import Daemon, Lab

VARIABLE = "_KACHERY_P2P_COMPLETE"


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script_that_asks_this_command(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"{VARIABLE}={shell}_complete" in script
    assert "kachery-p2p" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n", "-c", script], check=True)
    assert main(["completion", shell, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["script"].strip() == script.strip()


def test_an_unknown_shell_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "bash" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["kachery-p2p", "chan"], "channel"),
        (["kachery-p2p", "channel", "jo"], "join"),
        (["kachery-p2p", "store", "--base"], "--basename"),
        (["kachery-p2p", "completion", "z"], "zsh"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_bash_completes(words: list[str], expected: str, tmp_path: Path) -> None:
    command = tmp_path / "kachery-p2p"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kachery_p2p.cli "$@"\n')
    command.chmod(0o755)
    script = f"""
        PATH="{tmp_path}:$PATH"
        eval "$(kachery-p2p completion bash)"
        COMP_LINE={shlex.quote(" ".join(words) + "and what comes after the cursor")}
        COMP_POINT={len(" ".join(words))}
        _kachery_p2p_completion kachery-p2p
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [expected], done.stderr


BREAKS = "\"'><=;|&(:"
"""As bash has it."""

LINES = [
    ("k load", Line(["k"], "load", "", 0)),
    ("k load ", Line(["k", "load"], "", "", 0)),
    ("k  'a b' c\\ d", Line(["k", "a b"], "c d", "", 0)),
    ("k 'my la", Line(["k"], "my la", "'", 0)),
    ('k "my \\"la', Line(["k"], 'my "la', '"', 0)),
    ("k --channel=la", Line(["k"], "--channel=la", "", 10)),
    ('k --channel="my la', Line(["k"], "--channel=my la", '"', 10)),
    ("k f.py:so", Line(["k"], "f.py:so", "", 5)),
    ("k f.py:so x", Line(["k", "f.py:so"], "x", "", 0)),
    ("", Line([], "", "", 0)),
    ("k \\", Line(["k"], "", "", 0)),
]


@pytest.mark.parametrize(("line", "read"), LINES, ids=[line for line, _ in LINES])
def test_a_line_is_read_as_bash_reads_it(line: str, read: Line) -> None:
    assert read_line(line, BREAKS) == read


NAMES = [
    "lab", "my lab", "a:b", "x=y", "$HOME", "`id`", "a;b", "it's", 'say "x"', "back\\slash", "*",
    "~root", "#1", "labör", "(x)", "a&b|c<d>e", "!1", "{a,b}", "",
]  # fmt: skip
HALVES = [("", ""), ("'", "'"), ('"', '"')]
"""What stands before what is completed, and what is typed after it."""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_completed_name_is_that_name_and_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    made = completion_of()
    lines = []
    for before, after in HALVES:
        monkeypatch.setenv("COMP_LINE", f"kachery-p2p channel show {before}")
        made.get_completion_args()
        for name in NAMES:
            kind, _, value = made.format_completion(CompletionItem(name)).partition(",")
            assert kind == "plain"
            lines.append(f"printf '%s\\n' {before}{value}{after}")
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == NAMES * len(HALVES)


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        ("task request spike:so", "spike:sort.1", "sort.1"),
        ("feed tail --channel=la", "lab", "lab"),
        ("feed tail --channel=my:la", "my:lab", "lab"),
        ("feed tail la", "lab", "lab"),
    ],
)
def test_what_stands_before_a_colon_or_equals_sign_is_not_repeated(
    typed: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", f"kachery-p2p {typed}")
    monkeypatch.setenv("COMP_BREAKS", BREAKS)
    made = completion_of()
    made.get_completion_args()
    assert made.format_completion(CompletionItem(name)) == f"plain,{value}"


def completion_of() -> ShellComplete:
    kind = get_completion_class("bash")
    assert kind is not None
    return kind(group, {}, "kachery-p2p", VARIABLE)


def test_names_that_would_steer_the_terminal_are_not_completed() -> None:
    names = ["lab", "la\x1b[2J", "la\nb", "la\u202eb"]
    assert [each.value for each in completions._of(lambda: names, "la")] == ["lab"]


def offered(node: Daemon, *words: str) -> list[str]:
    """What the command answers to Tab after these words: kind and value of each."""
    line = shlex.join(["kachery-p2p", *words])
    env = {**node.env, VARIABLE: "bash_complete", "COMP_LINE": line}
    done = forked.run(
        [sys.executable, "-m", "kachery_p2p.cli"],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not done.stderr
    return [line for line in done.stdout.splitlines() if line]


def test_files_are_completed_where_files_go(short_folder: Path) -> None:
    node = Daemon(short_folder, "n")  # it does not run
    for words in (("store", "emp"), ("link", "emp"), ("channel", "join", "emp")):
        assert offered(node, *words) == ["file,emp"]
    # Without a node there is nothing, and no error, in the middle of the line.
    for words in (("channel", "show", "l"), ("feed", "tail", "m"), ("task", "request", "d")):
        assert offered(node, *words) == []


@pytest.mark.processes
def test_names_that_the_node_knows_are_completed(lab: Lab) -> None:
    lab.a.cli("feed", "create", "myfeed")
    lab.a.cli("feed", "append", "myfeed/primes", "2")
    assert offered(lab.a, "channel", "show", "l") == ["plain,lab"]
    assert offered(lab.a, "channel", "remove-node", "lab", "b") == ["plain,b"]
    assert offered(lab.a, "load", "--channel", "") == ["plain,lab"]
    assert offered(lab.a, "feed", "tail", "m") == ["plain,myfeed"]
    assert offered(lab.a, "feed", "tail", "myfeed/p") == ["plain,myfeed/primes"]
