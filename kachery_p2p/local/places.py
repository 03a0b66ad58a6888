"""Where things lie on this machine: storage folder, state folder, sockets.

Read from the environment at each call, never at import. Client and daemon use the same functions, so
they cannot disagree. A program that runs nodes of its own names one of them with :func:`talking_to`;
in that block the environment does not count.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import DEFAULT_API_PORT
from kachery_p2p.protocol.local.proof import RIGHTS

OFFLINE_VARIABLE = "KACHERY_P2P_OFFLINE_STORAGE_DIR"
OLD_OFFLINE_VARIABLE = "KACHERY_OFFLINE_STORAGE_DIR"
"""Its name in kachery_client; it counts where the new one is not set."""
PORT_VARIABLE = "KACHERY_P2P_API_PORT"
STORAGE_VARIABLE = "KACHERY_STORAGE_DIR"

_VARIABLES = (PORT_VARIABLE, STORAGE_VARIABLE, "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME")

SYSTEM_RUNTIME = Path("/run/kachery-p2p")
SOCKET_NAME = "node.sock"


@dataclass(frozen=True)
class Target:
    """A node that was named, rather than looked for in the environment."""

    socket: Path
    thread: int | None = None
    """The thread on whose event loop the node runs, if that is in this process: its identifier.
    Whoever blocks that thread waits for ever for the node's answer."""


_target: ContextVar[Target | None] = ContextVar("kachery_p2p_target", default=None)


def target() -> Target | None:
    """The node that :func:`talking_to` names here, or None."""
    return _target.get()


@contextlib.contextmanager
def talking_to(named: Target) -> Iterator[None]:
    """In this block, this thread or asyncio task (and the tasks it starts) talks to that node."""
    before = _target.get()
    _target.set(named)
    try:
        yield
    finally:
        # Not by token: a fixture may end in another context than it began in.
        _target.set(before)


def _named(environ: Mapping[str, str]) -> Target | None:
    return _target.get() if environ is os.environ else None


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's home folder: ``$HOME``, else as the system's list of users has it.

    Raises:
        BadInput: nothing says where it is.
    """
    value = environ.get("HOME")
    if value:
        return Path(value)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise BadInput(
            what="the home folder",
            reason=f"$HOME is not set, and the system knows no user {os.getuid()}; set HOME, or "
            f"XDG_STATE_HOME and {STORAGE_VARIABLE}",
        ) from None


def user_path(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> str:
    """A path as a user means it: ``~`` and ``~/x`` are in the home folder and ``~user`` is that user's,
    also where no shell has looked at it: in a variable, after ``--option=``, in a program.

    Raises:
        BadInput: there is no such home folder.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or not text.startswith("~"):
        return text
    name, slash, rest = text.partition("/")
    if name == "~":
        return os.path.join(home(environ), rest) if slash else str(home(environ))
    known = os.path.expanduser(name)
    if known == name:
        reason = f"there is no user {name[1:]!r}; a folder of that name is ./{name}"
        raise BadInput(what=text, reason=reason)
    return known + slash + rest


def _home(environ: Mapping[str, str], variable: str, default: str) -> Path:
    value = environ.get(variable)
    return Path(user_path(value, environ)) if value else home(environ) / default


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The node's key, its database and its log: ``$XDG_STATE_HOME/kachery-p2p``."""
    return _home(environ, "XDG_STATE_HOME", ".local/state") / "kachery-p2p"


def default_storage_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """``$KACHERY_STORAGE_DIR``, else ``~/kachery-storage`` as kachery users have it."""
    value = environ.get(STORAGE_VARIABLE)
    return Path(user_path(value, environ)) if value else home(environ) / "kachery-storage"


def login_runtime(environ: Mapping[str, str] = os.environ) -> Path | None:
    """``$XDG_RUNTIME_DIR``, if it is this user's to use.

    It is not after ``su``, which leaves the other user's in the environment, and where nobody has
    made it: in containers, in batch jobs, under cron. A relative one has no meaning, as its
    specification says.
    """
    value = environ.get("XDG_RUNTIME_DIR")
    path = Path(user_path(value, environ)) if value else None
    return path if path is not None and path.is_absolute() and _is_ours(path) else None


def _is_ours(folder: Path) -> bool:
    """Whether this user owns the folder and may write there, or may make it."""
    for path in (folder, *folder.parents):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        except OSError:
            return False
        owned = path != folder or status.st_uid == os.geteuid()
        return owned and os.access(path, os.W_OK | os.X_OK)
    return False


def private_runtime(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of a personal node's socket.

    ``$XDG_RUNTIME_DIR/kachery-p2p``; where there is no such folder of this user's (su, cron,
    containers), one in the state folder.
    """
    folder = login_runtime(environ)
    return default_state_dir(environ) / "run" if folder is None else folder / "kachery-p2p"


def socket_candidates(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """The sockets at which a client looks, in order."""
    named = _named(environ)
    if named is not None:
        return [named.socket]
    return [folder / SOCKET_NAME for folder in _runtimes(environ)]


def _runtimes(environ: Mapping[str, str]) -> list[Path]:
    """Where a client looks for a node's socket and tokens. It may use another user's node, if that lets
    it in; a node's own socket is never put into another user's folder."""
    value = environ.get("XDG_RUNTIME_DIR")
    named = [Path(user_path(value, environ)) / "kachery-p2p"] if value else []
    return list(dict.fromkeys([*named, private_runtime(environ), SYSTEM_RUNTIME]))


def token_name(port: int | str, right: str) -> str:
    """The name of the file with the token for a right (``full``, ``read-only``)."""
    return f"api-{port}.{right}.token"


def token_candidates(port: int, environ: Mapping[str, str] = os.environ) -> list[tuple[Path, str]]:
    """The files in which a client finds the token of a loopback TCP port, each with its right, in
    order."""
    return [
        (folder / token_name(port, right), right)
        for folder in _runtimes(environ)
        for right in RIGHTS
    ]


def api_port(environ: Mapping[str, str] = os.environ) -> int | None:
    """``KACHERY_P2P_API_PORT``, or None.

    Raises:
        BadInput: it is set and is no port number.
    """
    text = environ.get(PORT_VARIABLE)
    if not text or _named(environ) is not None:
        return None
    try:
        port = int(text)
    except ValueError:
        port = 0
    if not 0 < port < 65_536:
        raise BadInput(
            what=PORT_VARIABLE,
            reason=f"{text!r} is no port number; unset it or set it to {DEFAULT_API_PORT}",
        )
    return port


def offline_dir(environ: Mapping[str, str] = os.environ) -> Path | None:
    """``KACHERY_P2P_OFFLINE_STORAGE_DIR``, or ``KACHERY_OFFLINE_STORAGE_DIR``, or None.

    A relative one is one folder for the life of the process, and for the programs that it starts: it is
    in the folder that the process was in when it was first asked for.
    """
    name = OFFLINE_VARIABLE if environ.get(OFFLINE_VARIABLE) else OLD_OFFLINE_VARIABLE
    value = environ.get(name)
    if not value or _named(environ) is not None:
        return None
    value = user_path(value, environ)
    if not os.path.isabs(value):
        value = os.path.abspath(value)
        if environ is os.environ:
            os.environ[name] = value
    return Path(value)


def whereabouts() -> tuple[Target | str | None, ...]:
    """What the answers of this module follow from, at this moment: as long as it is the same, a
    client that looks for its node finds the same one."""
    named = _target.get()
    if named is not None:
        return (named,)
    return tuple(map(os.environ.get, _VARIABLES))
