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
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from kachery_p2p.client import nodes, sync
from kachery_p2p.client.files.origins import settings_of
from kachery_p2p.client.session import portal
from kachery_p2p.local import places
from kachery_p2p.local.notice import read_notice
from kachery_p2p.local.socket_path import connect
from kachery_p2p.protocol.errors import (
    BadInput,
    BadPath,
    DaemonAlreadyRunning,
    DaemonElsewhere,
    DaemonHangs,
    DaemonNotPermitted,
    DaemonNotRunning,
    KacheryError,
)
from kachery_p2p.protocol.limits import DEFAULT_API_PORT, NOTICE_LATE_SECONDS, STOP_SECONDS
from kachery_p2p.storage.disk import disk_errors

from .daemon_options import (
    backing_options,
    door_options,
    name_of_host,
    octal,
    rate_options,
    size,
)
from .daemon_process import POLL_SECONDS, ProcessEnd, environment, start_process
from .output import Output, clean, pass_output, rates_text, size_text, with_output
from .user_path import UserPath


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
@click.option(
    "--web/--no-web",
    default=True,
    help="Whether a proxy serves the page that opens share links; default: it does.",
)
@click.option("--storage-dir", type=UserPath(), help="Default: ~/kachery-storage.")
@click.option("--state-dir", type=UserPath(), help="Key, database, log.")
@click.option(
    "--max-storage",
    metavar="SIZE",
    callback=size,
    help="What the storage may hold, such as 500G, or none; default: as it was set last.",
)
@rate_options
@backing_options
@click.option(
    "--api-port",
    metavar="[PORT]",
    is_flag=False,
    flag_value=str(DEFAULT_API_PORT),
    type=click.IntRange(1, 65_535),
    help=f"Local API on loopback TCP too (port {DEFAULT_API_PORT} if none is given).",
)
@click.option("--auth-group", metavar="GROUP", help="Let the members of this group use the node.")
@click.option("--socket-mode", metavar="OCTAL", callback=octal, help="Of the socket; default: 600.")
@click.option("--others-read-only", is_flag=True, help="Other users may load, but change nothing.")
@door_options
@click.option("--tls-cert", type=UserPath(), help="Certificate chain for --listen.")
@click.option("--tls-key", type=UserPath(), help="Its private key.")
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
    both places, and then where the node's notice in its state folder says that it is.
    KACHERY_P2P_API_PORT is for clients: the node opens a TCP port only if --api-port is given here.

    \b
    Example:
      kachery-p2p daemon start
      kachery-p2p daemon start --listen 0.0.0.0:8080 --public-url wss://lab.example.org --proxy
      sudo kachery-p2p daemon start --auth-group lab --storage-dir /data/kachery
    """
    config = _config(**options)
    if config["proxy"] and not config["listen"]:
        reason = "others must be able to connect to a proxy; add --listen HOST:PORT"
        raise BadInput(what="--proxy", reason=reason)
    _refuse_second(Path(config["runtime_dir"]), Path(config["state_dir"]))
    _make_folder(Path(config["state_dir"]))
    command = [sys.executable, "-P", "-m", "kachery_p2p.node", json.dumps(config)]
    if foreground:
        if sys.stdout is not None:
            sys.stdout.flush()
        os.execve(sys.executable, [*command, "--foreground"], environment())
    info = portal.run(lambda: start_process(command, config, output), name="daemon start")
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
    origins: list[str] | None = None,
    private_networks: tuple[str, ...] = (),
    origins_read: tuple[str, ...] = (),
    archives: tuple[str, ...] = (),
    archive_own: bool = False,
    no_origins: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """What the node's process is given, with every path absolute."""
    shared = auth_group is not None or socket_mode is not None or others_read_only
    if socket_mode is None:
        # With a group, the node lets that group in and nobody else.
        socket_mode = 0o666 if others_read_only and auth_group is None else 0o600
    root = os.getuid() == 0 and places.login_runtime() is None
    paths = {
        "state_dir": state_dir or places.default_state_dir(),
        "storage_dir": storage_dir or places.default_storage_dir(),
        "runtime_dir": places.SYSTEM_RUNTIME if shared or root else places.private_runtime(),
        "tls_cert": tls_cert,
        "tls_key": tls_key,
    }
    return {
        **{name: None if path is None else str(path.absolute()) for name, path in paths.items()},
        "label": name_of_host() if label is None else label,
        "auth_group": auth_group,
        "socket_mode": socket_mode,
        "others_read_only": others_read_only,
        "durable": durability == "full",
        "allow_tasks": list(allow_tasks) or None,
        "origins": origins or [],
        "private_networks": list(private_networks),
        "backing": _backing_of(origins_read, archives, archive_own, no_origins),
        **options,
    }


def _backing_of(
    origins: tuple[str, ...], archives: tuple[str, ...], own: bool, none: bool
) -> list[dict[str, Any]] | None:
    """What these options say; None if they say nothing. Raises BadInput."""
    if none and (origins or archives):
        raise BadInput(what="--no-origins", reason="it goes with no --origin and no --archive")
    if not (origins or archives or own or none):
        return None
    return settings_of(origins, archives, own)


def _make_folder(path: Path) -> None:
    with disk_errors("the node's state", path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)


def _refuse_second(runtime_dir: Path, state_dir: Path) -> None:
    """Raise DaemonAlreadyRunning if a node has this state folder, here or on another computer, or
    somebody answers at the socket, even one that hangs."""
    notice = read_notice(state_dir)
    if notice is not None and notice.is_here:
        raise DaemonAlreadyRunning(reason=f"pid {notice.pid}, with its socket at {notice.socket}")
    if notice is not None:
        raise DaemonAlreadyRunning(
            reason=f"pid {notice.pid} on computer {notice.host}, which has this state folder, "
            f"{state_dir}, as well (if it was killed there, this goes by within "
            f"{NOTICE_LATE_SECONDS:g} s)"
        )
    if runtime_dir == places.SYSTEM_RUNTIME and not _may_write(runtime_dir):
        raise BadPath(
            path=str(runtime_dir),
            reason="only root may make the folder for a shared node's socket; run 'sudo install -d "
            f"-o $USER {runtime_dir}' once, or start the node as root",
        )
    path = runtime_dir / places.SOCKET_NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            connect(probe, path)
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


# --- changing ----------------------------------------------------------------------------------


@daemon.command("set")
@click.option(
    "--max-storage",
    metavar="SIZE",
    callback=size,
    help="What the storage may hold, such as 500G, or none.",
)
@rate_options
@backing_options
@with_output
@pass_output
def set_(
    output: Output,
    /,
    max_storage: int | None,
    max_upload: int | None,
    max_download: int | None,
    origins_read: tuple[str, ...],
    archives: tuple[str, ...],
    archive_own: bool,
    no_origins: bool,
) -> None:
    """Change settings of the running node, from now on and after restarts.

    What is over a smaller limit goes at once, as far as it may: what was fetched and is not pinned.
    Origins and archives are those that are given, and no others.

    \b
    Example:
      kachery-p2p daemon set --max-storage 500G
      kachery-p2p daemon set --max-upload 10M --max-download none
      kachery-p2p daemon set --origin /data/kachery --archive s3://lab/kachery --archive-own
    """
    backing = _backing_of(origins_read, archives, archive_own, no_origins)
    if all(each is None for each in (max_storage, max_upload, max_download, backing)):
        raise click.UsageError("Say what is to be changed.")
    if backing is not None:
        told = sync.set_origins(
            [each["url"] for each in backing if not each["archive"]],
            archives=[each["url"] for each in backing if each["archive"]],
            archive_own=archive_own,
        )
        output.result({"origins": told}, [clean(each["url"]) for each in told])
    if max_storage is not None:
        _set_limit(output, max_storage)
    if max_upload is not None or max_download is not None:
        rates = sync.set_rates(upload=_rate(max_upload), download=_rate(max_download))
        output.result({"rates": rates}, [rates_text(rates)])


def _rate(rate: int | None) -> str | int | None:
    return "none" if rate == 0 else rate


def _set_limit(output: Output, max_storage: int) -> None:
    answer = sync.set_max_storage(max_storage or None)
    limit = size_text(answer["limit"]) if answer["limit"] else "no limit"
    output.result(answer, [f"{size_text(answer['used'])} used, {limit}"])
    if answer["limit"] and answer["used"] > answer["limit"]:
        output.note("That is more than the limit: the rest may not go. See 'kachery-p2p du'.")


# --- stopping ----------------------------------------------------------------------------------


@daemon.command()
@click.option("--state-dir", type=UserPath(), help="Of the node, if it was started with one.")
@click.option("--force", is_flag=True, help="Kill it if it does not stop by itself.")
@with_output
@pass_output
def stop(output: Output, /, state_dir: Path | None, force: bool) -> None:
    """Stop the node and wait until it is gone.

    One that does not answer is found by the notice in its state folder, and ended by a signal.

    \b
    Example:
      kachery-p2p daemon stop
      kachery-p2p daemon stop --force
    """
    pid = portal.run(lambda: _stop(state_dir, force), name="daemon stop")
    output.result({"stopped": True, "pid": pid}, [f"The node (pid {pid}) has stopped."])


async def _stop(state_dir: Path | None, force: bool) -> int:
    asked = None
    if state_dir is None:
        try:
            info = await nodes.anode_info()
            there = read_notice(Path(info["state_dir"]))
            if there is not None and not there.is_here:
                return await _end_elsewhere(Path(info["state_dir"]), there.pid)
            pid: int = info["pid"]
            return await _end(pid, force, nodes.astop_node)
        except DaemonNotRunning as error:
            asked = error
    notice = read_notice(state_dir or places.default_state_dir())
    if notice is None:
        raise asked or DaemonNotRunning(reason=f"no node has the state folder {state_dir}")
    if not notice.is_here:
        raise DaemonElsewhere(host=notice.host, pid=notice.pid, storage=notice.storage_dir)

    async def terminate() -> None:
        _signal(notice.pid, signal.SIGTERM)

    return await _end(notice.pid, force, terminate)


async def _end_elsewhere(state_dir: Path, pid: int) -> int:
    """Stop a node in another container that shares our folders. Its process number is another process
    here: it is neither waited for nor ever killed."""
    await nodes.astop_node()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            while read_notice(state_dir) is not None:  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError as error:
        reason = f"pid {pid} of another container was told to stop, and is still there"
        raise DaemonHangs(reason=reason) from error
    return pid


async def _end(pid: int, force: bool, order: Callable[[], Awaitable[object]]) -> int:
    with contextlib.ExitStack() as stack:
        gone = ProcessEnd(pid)
        stack.callback(gone.close)
        await order()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await gone.wait()
        except TimeoutError as error:
            if not force:
                reason = f"pid {pid} was told to stop {STOP_SECONDS:g} s ago, and is still there"
                raise DaemonHangs(reason=reason) from error
            _signal(pid, signal.SIGKILL)
            async with asyncio.timeout(STOP_SECONDS):
                await gone.wait()
    return pid


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError:
        raise DaemonNotPermitted(reason=f"pid {pid} is another user's") from None
