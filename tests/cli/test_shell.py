"""Completion on Tab: the printed scripts, and what the command answers to them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kachery_p2p.cli.main import main
from kachery_p2p.cli.shell import SHELLS

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
