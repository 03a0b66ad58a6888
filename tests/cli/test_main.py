"""The boundary: exit statuses, streams and what is imported."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import _kachery_p2p_command
from kachery_p2p._version import __version__
from kachery_p2p.cli.main import PROGRAM, group, main
from kachery_p2p.protocol.errors import BY_CODE
from tests import forked
from tests.daemons import Daemon


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, f"{path} {name}")


COMMANDS = list(commands(group, PROGRAM))


@pytest.fixture
def offline(short_folder: Path) -> Daemon:
    """The environment of a node that does not run, in offline mode."""
    daemon = Daemon(short_folder, "n")
    daemon.env["KACHERY_P2P_OFFLINE_STORAGE_DIR"] = str(short_folder / "s")
    return daemon


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_command_has_a_help_with_an_example_of_itself(
    path: str, command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*path.split()[1:], "--help"]) == 0
    shown = capsys.readouterr().out
    rest, _, examples = shown.partition("\n  Example:\n")
    assert f"{path} " in f"{examples} ".replace("\n", " \n")
    assert "--help" in rest, "help ends with the examples, below options and commands"
    assert all(line.startswith("    ") for line in examples.splitlines())


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_command_that_prints_has_json_and_quiet(path: str, command: click.Command) -> None:
    if not isinstance(command, click.Group):
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--quiet"} <= options


def test_help_imports_nothing_that_is_slow_to_import() -> None:
    code = (
        "import sys; from kachery_p2p.cli.main import main; main(['--help']);"
        "heavy = ('numpy', 'rich', 'websockets', 'uvloop', 'sqlite3', 'cryptography', 'cloudpickle',"
        " 'distributed', 'http', 'email', 'multiprocessing', 'unittest', 'xml');"
        "bad = [m for m in sys.modules if m.split('.')[0] in heavy"
        " or m.startswith(('kachery_p2p.node', 'urllib.request'))]; sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: kachery-p2p")


def test_version_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr() == (f"{__version__}\n", "")
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == __version__


@pytest.mark.parametrize(
    "arguments",
    [
        ["load"],
        ["nonsense"],
        ["info", "--nonsense"],
        ["daemon", "start", "--socket-mode", "888"],
        ["daemon", "start", "--api-port", "0"],
        ["channel", "create", "lab"],
        ["channel", "create", "lab", "--bootstrap", "ws://x", "--expires-in", "tomorrow"],
        ["cat", "sha1://" + "0" * 40, "--start", "-1"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: kachery-p2p" in err
    assert json.loads(err.splitlines()[-1])["error"]["code"] == "bad-input"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(["laod"], "load"), (["channel", "jion"], "join"), (["info", "--jsn"], "--json")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_slip_of_the_fingers_is_pointed_out(
    typed: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed) == 2
    assert f"Did you mean '{meant}'?" in capsys.readouterr().err


def test_an_error_is_one_line_and_with_json_one_of_json(offline: Daemon) -> None:
    plain = offline.cli("info", check=False)
    assert plain.returncode == BY_CODE["needs-node"].exit_status
    assert plain.stdout == ""
    assert len(plain.stderr.splitlines()) == 1
    assert plain.stderr.startswith("kachery-p2p: ")
    told = offline.cli("info", "--json", check=False)
    sentence, described = told.stderr.splitlines()
    error = json.loads(described)["error"]
    assert error["code"] == "needs-node"
    assert error["fields"] == {"what": "node_info"}
    assert sentence == f"kachery-p2p: {error['message']}"


def test_without_a_node_the_exit_status_is_3_and_says_how_to_start_one(short_folder: Path) -> None:
    done = Daemon(short_folder, "n").cli("info", check=False)
    assert done.returncode == 3
    assert "kachery-p2p daemon start" in done.stderr


def test_a_label_from_elsewhere_cannot_fake_a_line_or_steer_the_terminal(offline: Daemon) -> None:
    done = offline.cli("load", "sha1://\x1b[2J\nkachery-p2p: all is well", check=False)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_bug_is_70_and_shows_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr("kachery_p2p.client.sync.node_info", broken)
    assert main(["info"]) == 70
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("kachery-p2p: Internal error")


def test_a_reader_that_goes_away_ends_it_quietly(offline: Daemon) -> None:
    path = offline.home / "big"
    path.write_bytes(bytes(1_000_000))
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = forked.run(
            [sys.executable, "-m", "kachery_p2p.cli", "cat", str(path)],
            env=offline.env,
            stdout=writer,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_an_error(offline: Daemon) -> None:
    path = offline.home / "small"
    path.write_bytes(b"content")
    with open("/dev/full", "wb") as full:
        done = forked.run(
            [sys.executable, "-m", "kachery_p2p.cli", "store", str(path)],
            env=offline.env,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == BY_CODE["storage-full"].exit_status
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_is_130(offline: Daemon) -> None:
    process = forked.Popen(
        [sys.executable, "-m", "kachery_p2p.cli", "channel", "join", "-"],
        env=offline.env,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    # More than a pipe holds: once it is written, the command is in the middle of reading.
    process.stdin.write(bytes(1_000_000))
    process.stdin.flush()
    while process.poll() is None:
        # Between Python's look at its signals and the system call, one may be noticed too late.
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    process.stdin.close()
    assert process.stderr is not None
    complaint = process.stderr.read()
    process.stderr.close()
    assert process.returncode == 130
    assert b"Traceback" not in complaint


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["store", "load", "cat"])
def test_closed_standard_streams_are_as_dev_null(
    offline: Daemon, closed: str, command: str
) -> None:
    path = offline.home / "f"
    path.write_text("content")
    uri = offline.cli("store", str(path)).stdout.strip()
    argument = str(path) if command == "store" else uri
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'exec "$0" -m kachery_p2p.cli {command} "$1" {closed}',
            sys.executable,
            argument,
        ],
        env=offline.env,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (">&-" not in closed.replace("2>&-", ""))


INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
import _kachery_p2p_command
"""


@pytest.mark.parametrize("at", ["kachery_p2p", "click", "kachery_p2p.cli.main"])
def test_ctrl_c_while_it_is_imported_shows_no_traceback(at: str) -> None:
    code = INTERRUPTED + "sys.exit(_kachery_p2p_command.main())"
    done = subprocess.run([sys.executable, "-c", code, at], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_the_command_that_is_installed_begins_there() -> None:
    (found,) = importlib.metadata.entry_points(group="console_scripts", name=PROGRAM)
    assert found.load() is _kachery_p2p_command.main
    # A handler that a parent set, as nohup and shells do for the background, stays.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import _kachery_p2p_command as c; sys.argv[1:] = ['version']; c.main()\n"
        "print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "True"


def test_each_exit_status_has_one_meaning_that_the_help_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    said = dict(
        part.split(" ", 1) for part in text.split("Exit status: ")[1].split(".")[0].split(", ")
    )
    used = {str(kind.exit_status) for kind in BY_CODE.values()} - {"1"}
    assert used | {"0", "141"} == set(said)
    of = {
        "no node answers": {"daemon-not-running", "daemon-hangs", "daemon-elsewhere"}
        | {"daemon-not-started", "needs-node"},
        "a node runs already": {"daemon-already-running", "storage-in-use"},
        "the time was up": {"deadline-exceeded"},
        "no files or threads left": {"loop-not-made"},
        "network": {"transport", "link-closed", "unreachable", "stalled", "not-known-yet"},
    }
    for meaning, codes in of.items():
        status = next(int(number) for number, text in said.items() if text == meaning)
        assert {code for code, kind in BY_CODE.items() if kind.exit_status == status} == codes


def test_names_go_out_where_the_locale_has_no_letters_for_them(
    offline: Daemon, short_folder: Path
) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    name = "é → ω.txt".encode()
    path = os.fsencode(short_folder) + b"/" + name
    Path(os.fsdecode(path)).write_text("x")

    def run(*arguments: bytes) -> bytes:
        done = forked.run(
            [sys.executable, "-m", "kachery_p2p.cli", *arguments],
            env={**offline.env, **ascii_only},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    uri = run(b"store", path)
    assert uri.endswith(name.replace(b" ", b"%20"))
    assert run(b"store", b"--quiet", path) == uri


def test_columns_and_lines_of_zero_are_not_known(
    offline: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setenv("LINES", "0")
    assert main(["version", "--quiet"]) == 0
    assert "COLUMNS" not in os.environ
    assert "LINES" not in os.environ


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 4, "No space left"),
        (["channel", "--help"], 4, "No space left"),
        (["--version"], 4, "No space left"),
        (["version"], 4, "No space left"),
        (["no-such-command"], 2, ""),
        (["load", "sha1://zz"], 2, ""),
        (["load", f"sha1://{40 * '0'}", "--json"], 8, ""),
    ],
)
def test_the_status_counts_where_what_is_written_is_full(
    arguments: list[str], status: int, said: str, offline: Daemon
) -> None:
    with open("/dev/full", "w") as full:
        done = forked.run(
            [sys.executable, "-m", "kachery_p2p", *arguments],
            env=offline.env,
            stdout=full if said else subprocess.PIPE,
            stderr=subprocess.PIPE if said else full,
            text=True,
        )
    assert done.returncode == status
    assert said in (done.stderr or "")
    assert "Traceback" not in (done.stderr or "")
