"""Shell scripts that are written in Python, run and waited for: kachery_client's ``ShellScript``.

Invariants: what still runs when the interpreter ends is stopped; a folder that was made for a script
goes when the script has ended.

Non-goal: anything that :mod:`subprocess` does not do itself.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import weakref
from typing import IO, Any, Final

from kachery_p2p.protocol.arguments import text
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import TASK_CANCEL_SECONDS

from .older_folders import kachery_temp_dir

_SHELL: Final = "#!/bin/sh\n"
_running: weakref.WeakSet[ShellScript] = weakref.WeakSet()


class ShellScript:
    """A script with a ``#!`` line (without one, for ``/bin/sh``), as a process of its own.

    Args:
        script: its text; blank lines before it, and what the first line is indented by, are dropped.
        script_path: where it is written; a temporary folder by default.
        keep_temp_files: leave that folder.
        verbose: print what is run.
        label: for people; not used.
        redirect_output_to_stdout: print what it writes, with Python's ``print``.

    Raises:
        BadInput: a line is indented less than the first.
    """

    def __init__(
        self,
        script: str,
        script_path: str | None = None,
        keep_temp_files: bool = False,
        verbose: bool = False,
        label: str = "",
        redirect_output_to_stdout: bool = False,
    ) -> None:
        self._script = _dedented(text("script", script))
        self._path = script_path
        self._keep = keep_temp_files
        self._verbose = verbose
        self._label = label
        self._redirect = redirect_output_to_stdout
        self._folder: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._printing: threading.Thread | None = None
        self._started: float | None = None

    def substitute(self, old: str, new: Any) -> None:
        """Put ``new``, as text, where ``old`` stands."""
        self._script = self._script.replace(old, str(new))

    def write(self, script_path: str | None = None) -> None:
        """Write it to a file that its owner may run. Raises BadInput without any path."""
        path = script_path or self._path
        if path is None:
            raise BadInput(what="ShellScript.write", reason="there is no path; give script_path")
        text = self._script if self._script.startswith("#!") else _SHELL + self._script
        with open(path, "w", newline="\n", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o744)

    def start(self) -> None:
        """Run it, and come back at once."""
        path = self._path
        if path is None:
            parent = kachery_temp_dir()
            self._folder = tempfile.mkdtemp(prefix="tmp_shellscript_", dir=parent)
            path = os.path.join(self._folder, "script.sh")
        self.write(path)
        if self._verbose:
            print(f"RUNNING SHELL SCRIPT: {path}")
        self._started = time.time()
        output = subprocess.PIPE if self._redirect else None
        errors = subprocess.STDOUT if self._redirect else None
        self._process = subprocess.Popen([os.path.abspath(path)], stdout=output, stderr=errors)
        _running.add(self)
        if self._process.stdout is not None:
            self._printing = threading.Thread(
                target=_print_all, args=(self._process.stdout,), daemon=True
            )
            self._printing.start()

    def wait(self, timeout: float | None = None) -> int | None:
        """Its return code; None if it has not ended within so many seconds."""
        try:
            code = self._begun("wait").wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            return None
        self._clean()
        return code

    def stop(self) -> None:
        """End it: ask with SIGINT, then with SIGTERM, and do not ask with SIGKILL."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.stopWithSignal(number, TASK_CANCEL_SECONDS):
                break

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.stopWithSignal(signal.SIGKILL, None)

    def stopWithSignal(self, sig: int, timeout: float | None) -> bool:
        """Send a signal; whether it has ended within so many seconds."""
        if not self.isRunning():
            return True
        self._begun("stop").send_signal(sig)
        return self.wait(timeout) is not None

    def elapsedTimeSinceStart(self) -> float | None:
        """Seconds; None before the start."""
        return None if self._started is None else time.time() - self._started

    def isRunning(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def isFinished(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def returnCode(self) -> int | None:
        """Of a script that has ended. Raises BadInput if it has not."""
        if not self.isFinished():
            raise BadInput(what="ShellScript.returnCode", reason="it has not ended; use wait()")
        return self._begun("returnCode").returncode

    def scriptPath(self) -> str | None:
        """Where it is written, if that was said."""
        return self._path

    def _begun(self, method: str) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BadInput(what=f"ShellScript.{method}", reason="it was not started; use start()")
        return self._process

    def _clean(self) -> None:
        _running.discard(self)
        if self._printing is not None:
            self._printing.join()
            self._printing = None
        if self._folder is not None and not self._keep:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _dedented(script: str) -> str:
    lines = script.splitlines()
    while lines and not lines[0].strip():
        del lines[0]
    first = lines[0][: len(lines[0]) - len(lines[0].lstrip(" "))] if lines else ""
    for line in lines:
        if line.strip() and not line.startswith(first):
            reason = f"the line {line.strip()!r} is indented less than the first one"
            raise BadInput(what="ShellScript", reason=reason)
    return textwrap.dedent("\n".join(line if line.strip() else "" for line in lines))


def _print_all(stream: IO[bytes]) -> None:
    with stream:
        for line in stream:
            print(line.decode(errors="replace").rstrip("\n"), file=sys.stdout)


@atexit.register
def stop_all_scripts() -> None:
    """End all that run."""
    for script in list(_running):
        with contextlib.suppress(OSError):
            script.stop()
