"""Completion on Tab: the printed scripts, and what the command answers to them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kachery_p2p.cli.main import main
from kachery_p2p.cli.shell import SHELLS
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
    typed = " ".join(f"'{word}'" for word in words)
    script = f"""
        PATH="{tmp_path}:$PATH"
        eval "$(kachery-p2p completion bash)"
        COMP_WORDS=({typed})
        COMP_CWORD={len(words) - 1}
        _kachery_p2p_completion kachery-p2p
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [expected], done.stderr


def offered(node: Daemon, *words: str) -> list[str]:
    """What the command answers to Tab after these words: kind and value of each."""
    env = {
        **node.env, VARIABLE: "bash_complete", "COMP_WORDS": shlex.join(["kachery-p2p", *words]),
        "COMP_CWORD": str(len(words)),
    }  # fmt: skip
    done = subprocess.run(
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
