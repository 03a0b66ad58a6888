"""Where things lie on this machine: storage folder, state folder, sockets.

Read from the environment at each call, never at import. Client and daemon use the same functions, so
they cannot disagree.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import DEFAULT_API_PORT

OFFLINE_VARIABLE = "KACHERY_P2P_OFFLINE_STORAGE_DIR"
PORT_VARIABLE = "KACHERY_P2P_API_PORT"
STORAGE_VARIABLE = "KACHERY_STORAGE_DIR"

SYSTEM_RUNTIME = Path("/run/kachery-p2p")
SOCKET_NAME = "node.sock"


def _home(environ: Mapping[str, str], variable: str, default: str) -> Path:
    value = environ.get(variable)
    return Path(value) if value else Path(environ.get("HOME") or Path.home()) / default


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The node's key, its database and its log: ``$XDG_STATE_HOME/kachery-p2p``."""
    return _home(environ, "XDG_STATE_HOME", ".local/state") / "kachery-p2p"


def default_storage_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """``$KACHERY_STORAGE_DIR``, else ``~/kachery-storage`` as kachery users have it."""
    value = environ.get(STORAGE_VARIABLE)
    return Path(value) if value else _home(environ, "", "kachery-storage")


def private_runtime(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of a personal node's socket.

    ``$XDG_RUNTIME_DIR/kachery-p2p``; where there is no such variable (cron, containers), a folder
    in the state folder.
    """
    value = environ.get("XDG_RUNTIME_DIR")
    return Path(value) / "kachery-p2p" if value else default_state_dir(environ) / "run"


def socket_candidates(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """The sockets at which a client looks, in order."""
    return [private_runtime(environ) / SOCKET_NAME, SYSTEM_RUNTIME / SOCKET_NAME]


def token_candidates(port: int, environ: Mapping[str, str] = os.environ) -> list[Path]:
    """The files in which a client finds the token of a loopback TCP port, in order."""
    name = f"api-{port}.token"
    return [private_runtime(environ) / name, SYSTEM_RUNTIME / name]


def api_port(environ: Mapping[str, str] = os.environ) -> int | None:
    """``KACHERY_P2P_API_PORT``, or None.

    Raises:
        BadInput: it is set and is no port number.
    """
    text = environ.get(PORT_VARIABLE)
    if not text:
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
    """``KACHERY_P2P_OFFLINE_STORAGE_DIR``, or None."""
    value = environ.get(OFFLINE_VARIABLE)
    return Path(value) if value else None
