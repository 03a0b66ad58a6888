"""The Unix-domain socket at which clients find the node, and the notice that says where it is.

The folder of a login session goes with the session, and people tidy up: so it is looked again and again
whether the socket is still there. One that was lost is bound anew, in the folder in which it was, else
(if that cannot be, or another one is there) in the state folder, where clients look as well
(:mod:`kachery_p2p.local.notice`).

Invariants: a socket at which somebody answers is never taken away; only who may use the node can
connect, whatever the umask of who started it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from pathlib import Path

from kachery_p2p.local.notice import Notice, NoticeFile, host_name, process_numbers
from kachery_p2p.local.places import SOCKET_NAME
from kachery_p2p.local.socket_path import bind, connect, fits
from kachery_p2p.node.config import Config
from kachery_p2p.protocol.errors import DaemonAlreadyRunning, StorageDamaged
from kachery_p2p.storage.disk import disk_errors

log = logging.getLogger(__name__)


class UnixDoor:
    """All methods block for a moment; :meth:`look` is for a worker thread, and may still run there when
    the door is closed: then it leaves nothing behind."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._notice = NoticeFile(config.state_dir)
        self._identity: tuple[int, int] | None = None
        self.path = config.socket_path
        self._lock = threading.Lock()
        self._closed = False
        self._new: socket.socket | None = None

    def open(self) -> socket.socket:
        """The socket, bound and listening, and the notice of it.

        Raises:
            DaemonAlreadyRunning: somebody answers there.
            StorageDamaged: it cannot be made there.
        """
        sock = self._bind(self._config.socket_path)
        try:
            self._leave_notice()
        except OSError as error:
            sock.close()
            raise StorageDamaged(
                path=str(self._config.state_dir), reason=f"the notice: {error.strerror}"
            ) from error
        return sock

    def look(self) -> None:
        """Make a new socket, for :meth:`take`, if the one that was is no longer there. Raises as
        :meth:`open`, if there can be none; it is tried again."""
        with self._lock:
            if not self._closed and self._new is None:
                self._new = self._look()

    def take(self) -> socket.socket | None:
        """The new socket, if there is one; it is the caller's to close."""
        with self._lock:
            new, self._new = self._new, None
            return new

    def _look(self) -> socket.socket | None:
        with contextlib.suppress(OSError):  # it is worth less than the socket
            self._notice.touch()
        if self._is_there():
            return None
        try:
            sock = self._rebind(self._config.socket_path)
        except (StorageDamaged, DaemonAlreadyRunning):
            spare = self._config.state_dir / "run" / SOCKET_NAME
            if not fits(spare) or self._config.is_shared:
                raise
            sock = self._rebind(spare)
        log.warning("the socket was gone; it is at %s now", self.path)
        with contextlib.suppress(OSError):
            self._leave_notice()
        return sock

    def close(self) -> None:
        """Take socket and notice away, if they are still ours."""
        with self._lock:
            self._closed = True
            if self._new is not None:
                self._new.close()
                self._new = None
            if self._is_there():
                with contextlib.suppress(OSError):
                    self.path.unlink()
            self._notice.remove()

    def _leave_notice(self) -> None:
        storage = str(self._config.storage_dir)
        self._notice.write(
            Notice(str(self.path), storage, host_name(), os.getpid(), process_numbers())
        )

    def _is_there(self) -> bool:
        try:
            status = os.lstat(self.path)
        except OSError:
            return False
        return self._identity == (status.st_dev, status.st_ino)

    def _rebind(self, path: Path) -> socket.socket:
        # A socket that is there now is that of a node of another computer, for all that can be known:
        # if each took the place from the other, neither would be found.
        if os.path.lexists(path):
            raise DaemonAlreadyRunning(reason=f"{path} is another node's now")
        return self._bind(path)

    def _bind(self, path: Path) -> socket.socket:
        self._make_folder(path.parent)
        self._refuse_another(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        config = self._config
        group = config.group_id()
        # Under another name first: nobody finds it before it is theirs to use, and no umask, which
        # belongs to all threads, is changed for it.
        # No longer than the name that it is to have, for there is a bound.
        hidden = path.with_name(f".{os.urandom(2).hex()[:3]}.sock")
        try:
            bind(sock, hidden)
            os.chmod(hidden, 0o600)
            if group is not None:
                os.chown(hidden, -1, group)
            os.chmod(hidden, config.socket_mode | (0o060 if group is not None else 0))
            sock.listen(128)
            sock.setblocking(False)
            status = os.lstat(hidden)
            try:
                os.link(hidden, path)
            except FileExistsError:
                raise DaemonAlreadyRunning(reason=f"another one was quicker at {path}") from None
            except OSError:  # a file system without links
                os.rename(hidden, path)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            raise StorageDamaged(path=str(path), reason=error.strerror) from error
        finally:
            with contextlib.suppress(OSError):
                hidden.unlink()
        self.path, self._identity = path, (status.st_dev, status.st_ino)
        return sock

    def _make_folder(self, folder: Path) -> None:
        mode = 0o755 if self._config.is_shared else 0o700
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=mode)
            status = folder.stat()
            if status.st_uid == os.getuid() and mode & ~status.st_mode:
                # What the umask of whoever started it took away from those who are let in.
                os.chmod(folder, (status.st_mode & 0o7777) | mode)
        except OSError as error:
            raise StorageDamaged(path=str(folder), reason=error.strerror) from error

    def _refuse_another(self, path: Path) -> None:
        if not os.path.lexists(path):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                connect(probe, path)
            except (ConnectionRefusedError, FileNotFoundError):
                with disk_errors("what lies where its socket is to be", path):
                    path.unlink(missing_ok=True)  # left behind by a node that was killed
                return
            except OSError as error:
                raise DaemonAlreadyRunning(reason=f"{path}: {error.strerror}") from error
            raise DaemonAlreadyRunning(reason=f"something answers at {path}")
