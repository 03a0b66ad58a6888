"""``task backend``: serve the functions of a module, anew whenever its files change."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Final

import click

import kachery_p2p
from kachery_p2p.cli import completions
from kachery_p2p.cli.output import Output, pass_output, with_output
from kachery_p2p.client import sync
from kachery_p2p.client.tasks import functions as task_functions
from kachery_p2p.client.tasks import serving as task_serving
from kachery_p2p.protocol.errors import BadInput, BadPath

_LOOK_SECONDS: Final = 0.5
"""How often it is looked whether a file has changed."""


@click.command()
@click.argument("target", metavar="MODULE:", shell_complete=completions.files)
@click.argument("names", metavar="[ID]...", nargs=-1)
@click.option(
    "--channel",
    "channels",
    shell_complete=completions.channels,
    multiple=True,
    help="Serve on this channel (name or id); may be repeated. Default: wherever this node may.",
)
@click.option("--slots", type=click.IntRange(min=1), help="Run so many at once; default: CPUs.")
@click.option("--label", default="", help="Shown to those who look what is on offer.")
@click.option(
    "--max-tasks-per-worker",
    type=click.IntRange(min=1),
    metavar="N",
    help="Renew a worker process after so many runs; default: never.",
)
@click.option(
    "--max-memory-per-worker",
    type=click.IntRange(min=1),
    metavar="MB",
    help="Renew one that holds more after a run; default: this computer's memory by slots.",
)
@click.option("--no-reload", is_flag=True, help="Do not look for changes of the files.")
@with_output
@pass_output
def backend(
    output: Output,
    target: str,
    names: tuple[str, ...],
    channels: tuple[str, ...],
    slots: int | None,
    label: str,
    max_tasks_per_worker: int | None,
    max_memory_per_worker: int | None,
    no_reload: bool,
) -> None:
    """Serve task functions until Ctrl-C: those with these IDs, or all that MODULE registers.

    MODULE is a .py file or the name of a module. When one of its files changes it is loaded again; what
    runs then is asked to stop.

    \b
    Example:
      kachery-p2p task backend functions.py: --channel lab
      kachery-p2p task backend my_package.functions: count_captain.1 --slots 4
    """
    module, _, rest = target.partition(":")
    wanted = [*filter(None, rest.split(",")), *names] or None
    source = _Source(module)
    on = list(channels) or _channels()
    while True:
        before = _stamps(source.files())  # of before they are read, so that no change is missed
        loaded = source.load()
        if loaded is not None:
            traceback.print_exception(loaded)
            if no_reload:
                raise BadInput(what=module, reason=f"it cannot be loaded: {loaded}") from loaded
            output.note(f"{module} cannot be loaded; it is tried again when a file changes")
        stop = threading.Event()
        watcher = _Watcher({**_stamps(source.files()), **before}, stop, enabled=not no_reload)
        try:
            if loaded is None:
                offered = ", ".join(task_functions.choose(wanted))
                output.note(f"serving {offered} on {', '.join(on)}")
                task_serving.run_task_backend(
                    on,
                    wanted,
                    slots=slots,
                    label=label,
                    stop=stop,
                    max_tasks_per_worker=max_tasks_per_worker,
                    max_memory_per_worker=max_memory_per_worker and max_memory_per_worker * 10**6,
                )
            else:
                stop.wait()
        finally:
            watcher.end()
        if not watcher.changed:
            return
        output.note("a file has changed; loading again")


def _channels() -> list[str]:
    found = [each["id"] for each in sync.get_channels() if "provide-tasks" in each["effective"]]
    if not found:
        reason = "this node has the role provide-tasks on no channel; see 'kachery-p2p info'"
        raise BadInput(what="--channel", reason=reason)
    return found


class _Source:
    """A module, by its name or file, and what it is made of: all modules below its folder."""

    def __init__(self, module: str) -> None:
        if module.endswith(".py") or os.sep in module:
            path = Path(module).resolve()
            if not path.is_file():
                raise BadPath(path=module, reason="there is no such file")
            self._name, folder = path.stem, path.parent
        else:
            self._name, folder = module, Path.cwd()
        self._folder = str(folder)
        if self._folder not in sys.path:
            sys.path.insert(0, self._folder)  # worker processes have the same path
        self._seen: set[str] = set()

    def load(self) -> BaseException | None:
        """Import it anew; what went wrong, if anything did."""
        for name, _ in self._modules():
            del sys.modules[name]
        importlib.invalidate_caches()
        try:
            with task_functions.only_registered():
                importlib.import_module(self._name)
        except ModuleNotFoundError as error:
            if error.name == self._name.partition(".")[0]:
                raise BadInput(what=self._name, reason="there is no module of that name") from error
            return error
        except Exception as error:  # it is the user's: anything may be wrong with it
            if isinstance(error, SyntaxError) and error.filename is not None:
                self._seen.add(os.path.abspath(error.filename))
            return error
        return None

    def _modules(self) -> list[tuple[str, str]]:
        own = os.path.dirname(kachery_p2p.__file__) + os.sep
        found: list[tuple[str, str]] = []
        for name, module in list(sys.modules.items()):
            file: Any = getattr(module, "__file__", None)
            if not isinstance(file, str) or name == "__main__" or "site-packages" in file:
                continue
            inside = os.path.abspath(file).startswith(self._folder + os.sep)
            named = name == self._name or name.startswith(f"{self._name.partition('.')[0]}.")
            if (inside or named) and not os.path.abspath(file).startswith(own):
                found.append((name, os.path.abspath(file)))
        return found

    def files(self) -> list[str]:
        """What to watch."""
        main = os.path.join(self._folder, *self._name.split(".")) + ".py"
        # What was part of it stays so, or the repair of a file that cannot be loaded went unnoticed.
        self._seen |= {main, *(file for _, file in self._modules())}
        return sorted(self._seen)


_Stamp = tuple[int, int] | None


def _stamps(files: list[str]) -> dict[str, _Stamp]:
    """When each was last written, and its size; None: it is not there, while an editor replaces it."""
    found: dict[str, _Stamp] = {}
    for file in files:
        try:
            stat = os.stat(file)
            found[file] = (stat.st_mtime_ns, stat.st_size)
        except OSError:
            found[file] = None
    return found


class _Watcher:
    """Sets ``stop`` when one of the files is no longer as it was."""

    def __init__(self, before: dict[str, _Stamp], stop: threading.Event, *, enabled: bool) -> None:
        self.changed = False
        self._before = before
        self._stop = stop
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if enabled:
            self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            if _stamps(list(self._before)) != self._before:
                self.changed = True
                self._stop.set()
                return

    def end(self) -> None:
        self._ended.set()
