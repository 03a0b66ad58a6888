"""A forked program does what it does in an interpreter of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.daemons import ROOT

SECONDS = 60

PROGRAMS = {
    "prints": "print('text'); print('é'.encode())",
    "arguments": "import sys; print(sys.argv, sys.orig_argv[1:], sys.path[0])",
    "raises": "def divide():\n    return 1 / 0\ndivide()",
    "has a hook": "import sys\nsys.excepthook = lambda *what: print('hook', what[0])\n1 / 0",
    "does not compile": "print(",
    "exits": "raise SystemExit(7)",
    "exits with a text": "import sys; sys.exit('bye')",
    "exits with nothing": "import sys; sys.exit()",
    "ends at once": "import os, sys; sys.stdout.write('lost'); os._exit(3)",
    "is killed": "import os; print('seen', flush=True); os.kill(os.getpid(), 9)",
    "aborts": "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()",
    "writes no line": "import sys; sys.stdout.write('at the end'); sys.stderr.write('too')",
    "at exit": "import atexit; atexit.register(print, 'later'); print('now')",
    "a thread": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.05), print('joined'))).start()",
    "reads": "import sys; print(repr(sys.stdin.read()), sys.stdin.closed)",
    "streams": "import sys\nfor s in sys.stdin, sys.stdout, sys.stderr, sys.__stdout__:\n"
    "    print(s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.newlines, s.fileno())",
    "environment": "import os; print(sorted(os.environ.items()))\nos.system('echo $MINE $HOME')",
    "folder": "import os; print(os.getcwd(), os.path.abspath('here'))",
    "descriptors": "import os\nfor n in range(64):\n"
    "    try: print(n, os.fstat(n).st_mode, os.get_inheritable(n))\n"
    "    except OSError: pass",
    "signals": "import signal\nfor n in signal.valid_signals(): print(n, signal.getsignal(n))\n"
    "print(signal.pthread_sigmask(0, []))",
    "ignored signals": "print([x for x in open('/proc/self/status') if x[:3] == 'Sig'])",
    "limits": "import resource\nprint([resource.getrlimit(n) for n in range(16)])",
    "umask": "import os; print(os.umask(0))",
    "group": "import os; print(os.getpgrp() == os.getpid(), os.getsid(0) == os.getpid())",
    "main": "print(sorted(globals()), __name__, bool(__spec__), __doc__, __package__)",
    "threads": "import threading; print(threading.active_count(), threading.main_thread().name)",
    "loop": "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    print('ran')\n"
    "asyncio.run(f())",
    "another process": "import multiprocessing as m\n"
    "p = m.get_context('fork').Process(target=print, args=('there',)); p.start(); p.join()\n"
    "print(p.exitcode)",
    "knows no tests": "import sys; print([n for n in sys.modules if n.split('.')[0] == 'tests'])",
    "warns": "import warnings; warnings.warn('careful'); print('done')",
}


def both(command: list[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it in both ways; what is to be seen is the same."""
    # Libraries set variables that os.environ does not show (readline: LINES), and a new process has.
    env = dict(os.environ)
    given = {"capture_output": True, "text": True, "timeout": SECONDS, "env": env, **options}
    usual = subprocess.run([sys.executable, *command], **given)
    ours = forked.run([sys.executable, *command], **given)
    assert ours.stdout == usual.stdout
    assert ours.stderr == usual.stderr
    assert ours.returncode == usual.returncode
    return ours


@pytest.mark.parametrize("code", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_program_does_what_it_does_in_an_interpreter_of_its_own(
    code: str, tmp_path: Path
) -> None:
    env = {**os.environ, "MINE": "a b", "HOME": "/nowhere", "EMPTY": ""}
    both(["-c", code, "one", "two words", "--three"], input="lines\r\nof it", cwd=tmp_path, env=env)


@pytest.mark.parametrize("code", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_so_do_a_script_and_a_module(code: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    for command in (["mine.py", "one"], [f"{tmp_path}/mine.py"], ["-m", "mine", "one"]):
        both(command, cwd=tmp_path, stdin=subprocess.DEVNULL)


def test_the_command_line_and_its_errors(tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    for arguments in (["--help"], ["no-such-command"], ["info"], ["load", "sha1://nothing"], []):
        both(["-m", "kachery_p2p.cli", *arguments], env=env)
    both(["-m", "kachery_p2p.node", "{}"], env=env)
    both(["-m", "no.such.module"], env=env)
    both(["-m", "kachery_p2p.local"], env=env)  # a package that is no program


def test_it_is_a_process_of_its_own() -> None:
    process = forked.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        assert process.is_forked
        assert process.pid != os.getpid()
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
        assert process.poll() == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_signals_end_it_as_they_end_any_program(number: signal.Signals) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(
            f"{number.name} is ignored by whatever runs the tests, and so by all that they start"
        )
    ends = []
    for kind in (subprocess.Popen, forked.Popen):
        command = [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)"]
        with kind(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout.readline() == b"1\n"
            process.send_signal(number)
            ends.append(process.wait(SECONDS))
    assert ends[0] == ends[1] == -number


def test_what_ended_can_be_asked_for_as_long_as_nobody_has_waited() -> None:
    process = forked.Popen([sys.executable, "-c", "print('done')"], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.read() == b"done\n"
        os.kill(process.pid, 0)  # a zombie perhaps, but no other process has its number
        assert process.wait(SECONDS) == 0
    for _ in range(1000):
        try:
            os.kill(process.pid, 0)
        except ProcessLookupError:
            return
        forked.run([sys.executable, "-c", ""])  # by then the server has seen to it
    pytest.fail("it is still there")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"start_new_session": True}, "os.getpgrp() - os.getpid(), os.getsid(0) - os.getpid()"),
        ({"process_group": 0}, "os.getpgrp() - os.getpid()"),
        ({"umask": 0o27}, "os.umask(0)"),
    ],
)
def test_a_session_a_group_and_a_umask_of_its_own(options: dict[str, Any], code: str) -> None:
    both(["-c", f"import os; print({code})"], **options)


def test_it_has_the_descriptors_that_it_is_given_and_no_others(tmp_path: Path) -> None:
    out, into = os.pipe()
    try:
        code = (
            "import os, sys; os.write(int(sys.argv[1]), b'hello'); "
            "print(sorted(n for n in os.listdir('/proc/self/fd') if int(n) != 3))"
        )
        for kind in (subprocess.run, forked.run):
            command = [sys.executable, "-c", code, str(into)]
            done = kind(command, pass_fds=[into], capture_output=True, text=True, check=True)
            assert os.read(out, 5) == b"hello"
            assert {*eval(done.stdout)} <= {"0", "1", "2", str(into), "4"}
    finally:
        os.close(out)
        os.close(into)


def test_random_numbers_differ() -> None:
    code = "import random, uuid, os; print(random.random(), uuid.uuid4(), os.urandom(8))"
    seen = {forked.run([sys.executable, "-c", code], capture_output=True).stdout for _ in range(3)}
    assert len(seen) == 3


def test_what_it_was_asked_for_and_cannot_have_is_an_error_here(tmp_path: Path) -> None:
    for kind in (subprocess.Popen, forked.Popen):
        with pytest.raises(FileNotFoundError):
            kind([sys.executable, "-c", ""], cwd=tmp_path / "nowhere")
        with pytest.raises(OSError, match="permitted"):
            kind([sys.executable, "-c", ""], process_group=1)


def test_text_that_is_no_utf8() -> None:
    env = {**os.environ, "NAME": os.fsdecode(b"caf\xe9")}
    code = "import os, sys; print(ascii(sys.argv), ascii(os.environ['NAME']))"
    both(["-c", code, b"caf\xe9"], env=env)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ([sys.executable, "-W", "error", "-c", ""], {}),
        ([sys.executable, "-I", "-c", ""], {}),
        ([sys.executable, "-X", "importtime", "-c", ""], {}),
        (["/bin/true"], {}),
        ([sys.executable, "-c", ""], {"env": {**os.environ, "PYTHONUTF8": "0"}}),
        ([sys.executable, "-c", ""], {"env": {**os.environ, "LC_ALL": "C"}}),
        ([sys.executable, "-c", ""], {"env": {**os.environ, "PYTHONPATH": "/elsewhere"}}),
        ([sys.executable, "-c", ""], {"preexec_fn": lambda: None}),
        ([sys.executable, "-c", ""], {"close_fds": False}),
        ([sys.executable, "-c", ""], {"user": os.getuid()}),
    ],
)
def test_what_depends_on_the_start_of_an_interpreter_has_one(
    command: list[str], options: dict[str, Any]
) -> None:
    with forked.Popen(command, stderr=subprocess.DEVNULL, **options) as process:
        assert not process.is_forked
        assert process.wait(SECONDS) == 0


@pytest.mark.parametrize("started", ["['-P', '-m', 'kachery_p2p.node', '{}']", "['-c', '0']"])
def test_of_what_a_forked_program_starts_only_daemons_are_forked(started: str) -> None:
    """Others are its children, which it waits for in ways of its own."""
    code = (
        "import os, subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, *{started}], stderr=subprocess.DEVNULL,\n"
        "    start_new_session=True)\n"
        "try: os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT); mine = True\n"
        "except ChildProcessError: mine = False\n"
        "print(p.is_forked, mine, p.wait())\n"
    )
    done = forked.run([sys.executable, "-c", code], capture_output=True, text=True)
    wanted = "True False 1\n" if "node" in started else "False True 0\n"
    assert (done.stdout, done.stderr) == (wanted, "")


def test_the_server_ends_with_the_tests_and_what_still_runs_goes_on() -> None:
    code = (
        "import os, subprocess, sys, tests.forked as forked, tests.forked.popen as popen\n"
        "code = 'import os; os.write(1, b\"1\\\\n\"); input(); print(2)'\n"
        "p = forked.Popen([sys.executable, '-c', code],\n"
        "    stdin=0, stdout=1, start_new_session=True)\n"
        "p.returncode = 0\n"
        "os.write(1, f'{popen._server().path}\\n'.encode())\n"
    )  # lines in one go: both write to one pipe
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        lines = {process.stdout.readline(), process.stdout.readline()}
        assert process.wait(SECONDS) == 0
        (path,) = (Path(line.strip()) for line in lines if line != "1\n")
        assert not path.parent.exists()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stdout.read() == "2\n"
