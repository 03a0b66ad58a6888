"""``daemon start`` and ``daemon stop``: the node as a process of its own.

Invariants: ``start`` returns 0 only after the very process that it started has answered on its
socket; otherwise that process is gone and the error says why. ``stop`` returns 0 only after the
process has ended. Both are bounded in time.

The node is started with ``-P`` and from its state folder, so that a file called ``random.py`` in
the user's folder does no harm and no mounted disk is kept busy. It lives in a session of its own:
closing the terminal does not end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

import kachery_p2p
from kachery_p2p.client import nodes, sync
from kachery_p2p.client.session import portal
from kachery_p2p.client.session.loop_connection import LoopConnection
from kachery_p2p.local import places
from kachery_p2p.protocol.errors import (
    BadPath,
    DaemonAlreadyRunning,
    DaemonNotStarted,
    DeadlineExceeded,
    KacheryError,
    from_wire,
)
from kachery_p2p.protocol.limits import DEFAULT_API_PORT, START_SECONDS, STOP_SECONDS
from kachery_p2p.storage.disk import disk_errors

from .output import Output, clean, pass_output, with_output

_POLL_SECONDS = 0.02
_LOG_LINES = 10
_LOG_TAIL = 20_000
"""Bytes of the log's end in which its last lines are looked for."""


def _octal(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise click.BadParameter(f"{text!r} is no file mode; write it like 660")
    return mode


@click.group()
def daemon() -> None:
    """Start and stop this computer's node.

    \b
    Example:
      kachery-p2p daemon start
      kachery-p2p daemon stop
    """


@daemon.command()
@click.option("--label", help="Name that members of your channels see; default: the host's name.")
@click.option("--listen", metavar="HOST:PORT", help="Let other nodes connect; default: no port.")
@click.option("--public-url", metavar="URL", help="ws:// or wss:// URL that reaches this node.")
@click.option(
    "--proxy", is_flag=True, help="Relay and index for channels that ask it of this node."
)
@click.option("--storage-dir", type=click.Path(path_type=Path), help="Default: ~/kachery-storage.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Key, database, log.")
@click.option(
    "--api-port",
    metavar="[PORT]",
    is_flag=False,
    flag_value=str(DEFAULT_API_PORT),
    type=click.IntRange(1, 65_535),
    help=f"Local API on loopback TCP too (port {DEFAULT_API_PORT} if none is given).",
)
@click.option("--auth-group", metavar="GROUP", help="Let the members of this group use the node.")
@click.option(
    "--socket-mode", metavar="OCTAL", callback=_octal, help="Of the socket; default: 600."
)
@click.option("--others-read-only", is_flag=True, help="Other users may load, but change nothing.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain for --listen.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key.")
@click.option(
    "--durability",
    type=click.Choice(["full", "relaxed"]),
    default="full",
    help="relaxed: nothing waits for the disk; a power cut may cost the last moments of what was "
    "acknowledged, a crash of the node costs nothing. Other nodes hear of appended messages 5 ms "
    "later.",
)
@click.option(
    "--allow-task",
    "allow_tasks",
    metavar="ID",
    multiple=True,
    help="Let others run this task function here; may be repeated. Default: all that are served.",
)
@click.option("--foreground", is_flag=True, help="Stay in this terminal (or under systemd).")
@with_output
@pass_output
def start(output: Output, /, *, foreground: bool, **options: Any) -> None:
    """Start the node and wait until it answers.

    The socket is in $XDG_RUNTIME_DIR/kachery-p2p, and only you can use it. With --auth-group,
    --socket-mode or --others-read-only, and for root, it is in /run/kachery-p2p. Clients look in
    both places. KACHERY_P2P_API_PORT is for clients: the node opens a TCP port only if --api-port is
    given here.

    \b
    Example:
      kachery-p2p daemon start
      kachery-p2p daemon start --listen 0.0.0.0:8080 --public-url wss://lab.example.org --proxy
      sudo kachery-p2p daemon start --auth-group lab --storage-dir /data/kachery
    """
    config = _config(**options)
    _refuse_second(Path(config["runtime_dir"]))
    _make_folder(Path(config["state_dir"]))
    command = [sys.executable, "-P", "-m", "kachery_p2p.node", json.dumps(config)]
    if foreground:
        if sys.stdout is not None:
            sys.stdout.flush()
        os.execve(sys.executable, [*command, "--foreground"], _environment())
    info = portal.run(lambda: _start(command, config, output), name="daemon start")
    output.result(info, _describe(info))
    output.note("Next:")
    for line in _next_commands(info):
        output.note(f"  {line}")
    _check_environment(output, info)


def _config(
    *,
    label: str | None,
    storage_dir: Path | None,
    state_dir: Path | None,
    auth_group: str | None,
    socket_mode: int | None,
    others_read_only: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    durability: str,
    allow_tasks: tuple[str, ...],
    **options: Any,
) -> dict[str, Any]:
    """What the node's process is given, with every path absolute."""
    shared = auth_group is not None or socket_mode is not None or others_read_only
    if socket_mode is None:
        # With a group, the node lets that group in and nobody else.
        socket_mode = 0o666 if others_read_only and auth_group is None else 0o600
    root = os.getuid() == 0 and not os.environ.get("XDG_RUNTIME_DIR")
    paths = {
        "state_dir": state_dir or places.default_state_dir(),
        "storage_dir": storage_dir or places.default_storage_dir(),
        "runtime_dir": places.SYSTEM_RUNTIME if shared or root else places.private_runtime(),
        "tls_cert": tls_cert,
        "tls_key": tls_key,
    }
    return {
        **{name: None if path is None else str(path.absolute()) for name, path in paths.items()},
        "label": socket.gethostname() if label is None else label,
        "auth_group": auth_group,
        "socket_mode": socket_mode,
        "others_read_only": others_read_only,
        "durable": durability == "full",
        "allow_tasks": list(allow_tasks) or None,
        **options,
    }


def _environment() -> dict[str, str]:
    """This one, such that the node's Python finds this very package without the current folder."""
    environment = dict(os.environ)
    folder = Path(kachery_p2p.__file__).absolute().parent.parent
    if folder.name not in ("site-packages", "dist-packages"):
        before = environment.get("PYTHONPATH", "").split(os.pathsep)
        paths = [os.path.abspath(path) for path in before if path]
        environment["PYTHONPATH"] = os.pathsep.join([*paths, str(folder)])
    return environment


def _make_folder(path: Path) -> None:
    with disk_errors("the node's state", path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)


def _refuse_second(runtime_dir: Path) -> None:
    """Raise DaemonAlreadyRunning if somebody answers at the socket, even one that hangs."""
    if runtime_dir == places.SYSTEM_RUNTIME and not _may_write(runtime_dir):
        raise BadPath(
            path=str(runtime_dir),
            reason="only root may make the folder for a shared node's socket; run 'sudo install -d "
            f"-o $USER {runtime_dir}' once, or start the node as root",
        )
    path = runtime_dir / places.SOCKET_NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:  # nobody, or none of our business: then the node itself will say so
            return
        raise DaemonAlreadyRunning(reason=f"{_owner(probe)} answers at {path}")


def _may_write(folder: Path) -> bool:
    existing = folder if folder.exists() else folder.parent
    return os.access(existing, os.W_OK | os.X_OK)


def _owner(sock: socket.socket) -> str:
    if not hasattr(socket, "SO_PEERCRED"):
        return "one"
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return f"pid {struct.unpack('3i', raw)[0]}"


# --- the process -------------------------------------------------------------------------------


async def _start(command: list[str], config: dict[str, Any], output: Output) -> dict[str, Any]:
    """Start the process and return what it says of itself. If that fails, it is ended."""
    log = Path(config["state_dir"]) / "daemon.out"
    child = _spawn(command, log)
    try:
        async with asyncio.timeout(START_SECONDS):
            info = await _until_ready(child, Path(config["runtime_dir"]) / places.SOCKET_NAME, log)
    except BaseException as error:
        child.kill()
        child.wait()
        if not isinstance(error, TimeoutError):
            raise
        told = log.with_name("node.log")
        for line in _last_lines(told):
            output.note(line)
        raise DaemonNotStarted(
            reason=f"it did not answer within {START_SECONDS:g} s, so it was ended again",
            log=str(told),
        ) from error
    child.returncode = 0  # it lives on; without this, Popen would warn that it does
    return info


def _spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with disk_errors("the node's log", log):
        # Appending, so that nobody who still has the file open writes into the middle of it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(log, flags, 0o600)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=log.parent,
            env=_environment(),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


async def _until_ready(child: subprocess.Popen[bytes], path: Path, log: Path) -> dict[str, Any]:
    while True:
        status = child.poll()
        if status is not None:
            raise _failure(log, status)
        info = await _ask(path)
        # Another one may have been quicker; then ours is about to say so.
        if info is not None and info["pid"] == child.pid:
            return info
        await asyncio.sleep(_POLL_SECONDS)


async def _ask(path: Path) -> dict[str, Any] | None:
    """What the node at this socket says of itself, if there is one."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        return None
    connection = LoopConnection(sock)
    try:
        await connection.greet(None)
        info: dict[str, Any] = await connection.call("info", {})
    except (KacheryError, TimeoutError):
        return None
    else:
        return info
    finally:
        connection.close()


def _failure(log: Path, status: int) -> KacheryError:
    """Why the process ended: its last words if they are an error, else all that is known."""
    lines = _last_lines(log)
    try:
        told = json.loads(lines[-1])
        return from_wire(told["code"], told["fields"])
    except (IndexError, ValueError, TypeError, KeyError):
        if not lines:
            # It may have had no room to say anything.
            with disk_errors("the node's log", log):
                log.write_bytes(b"\n")
        said = lines[-1] if lines else "it said nothing"
        return DaemonNotStarted(reason=f"it ended with status {status}: {said}", log=str(log))


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL))
            text = file.read(_LOG_TAIL).decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-_LOG_LINES:]


def _describe(info: dict[str, Any]) -> list[str]:
    lines = [
        f"The node runs (pid {info['pid']}).",
        f"  node id   {info['node_id']}",
        f"  storage   {clean(info['storage_dir'])}",
        f"  socket    {clean(info['socket'])}",
    ]
    if info["listening"]:
        lines.append(f"  listening {info['listening']}")
    return lines


def _next_commands(info: dict[str, Any]) -> list[str]:
    """The two commands that somebody who has just started a node types next."""
    if info["channels"]:
        return [
            "kachery-p2p store PATH    # prints a URI, which others load with",
            "kachery-p2p load URI",
        ]
    return [
        "kachery-p2p channel join INVITATION    # or make one: kachery-p2p channel create --help",
        "kachery-p2p store PATH                 # prints a URI, with which others load it",
    ]


def _check_environment(output: Output, info: dict[str, Any]) -> None:
    """Whether the other commands, with the environment as it is, will find this node."""
    try:
        found = sync.get_node_id()
    except KacheryError as error:
        output.note(f"Note: other commands will not use this node here: {error}")
        return
    if found != info["node_id"]:
        output.note(
            f"Note: other commands use another node here ({found}): they look at "
            f"{places.PORT_VARIABLE}, then at {' and '.join(map(str, places.socket_candidates()))}."
        )


# --- stopping ----------------------------------------------------------------------------------


@daemon.command()
@with_output
@pass_output
def stop(output: Output) -> None:
    """Stop the node and wait until it is gone.

    \b
    Example:
      kachery-p2p daemon stop
    """
    pid = portal.run(_stop, name="daemon stop")
    output.result({"stopped": True, "pid": pid}, [f"The node (pid {pid}) has stopped."])


async def _stop() -> int:
    pid: int = (await nodes.anode_info())["pid"]
    with contextlib.ExitStack() as stack:
        gone = _Watch(pid)
        stack.callback(gone.close)
        await nodes.astop_node()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await gone.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(what=f"Stopping pid {pid}", seconds=STOP_SECONDS) from error
    return pid


class _Watch:
    """Sees a process end that is not our child, even one that nobody reaps."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor: int | None = None
        if hasattr(os, "pidfd_open"):
            # Without it: another system, or a node in another container. Then ask for the number.
            with contextlib.suppress(OSError):
                self._descriptor = os.pidfd_open(pid)

    async def wait(self) -> None:
        if self._descriptor is None:
            while _exists(self._pid):  # noqa: ASYNC110  # nothing tells us of a stranger's end
                await asyncio.sleep(_POLL_SECONDS)
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
