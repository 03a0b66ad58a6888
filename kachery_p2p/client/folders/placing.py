"""Writing the files of a folder to where the user wants them.

Invariants: nothing is written outside the destination, whatever its names or the links that lie there:
each folder is opened by its name in the one above, and no link is followed. A file is whole when it
gets its name, so nobody sees half of one, and what a killed load left can be gone on with. What has the
right content is left alone; what has another is replaced only if that was asked for.

Non-goals: owners, times, and modes but for whether a file can be executed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

from kachery_p2p.client.session import blocking
from kachery_p2p.protocol.errors import BadPath
from kachery_p2p.protocol.files.directory import FileEntry
from kachery_p2p.storage.disk import CANNOT, FULL, where_possible, write_all

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS: Final = (*CANNOT, errno.EMLINK, errno.EXDEV)
_OTHER: Final = (
    "something else is there, and would be lost; choose another folder, or say that it may be replaced "
    "(replace=True, or --force)"
)
_TWIN: Final = "its name and {other!r} are one and the same on this disk; load it to another one"


class Target:
    """The destination, which is made if need be. All methods block; any thread may call them."""

    def __init__(self, path: str, *, replace: bool) -> None:
        """Raises BadPath, StorageFull."""
        self.path = path
        self._replace = replace
        with self._errors(""):
            os.makedirs(path, exist_ok=True)
            # The folder that the user names may be a link; what is below it may not.
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._root)

    @contextlib.contextmanager
    def folder(self, inside: str, *, make: bool = True) -> Iterator[int | None]:
        """A descriptor of a folder in it, which is made if need be; None if it is not to be made."""
        current = os.dup(self._root)
        try:
            found: int | None = current
            at = ""
            for name in filter(None, inside.split("/")):
                at += f"/{name}"
                below = self._enter(current, name, at, make)
                if below is None:
                    found = None
                    break
                os.close(current)
                found = current = below
            yield found
        finally:
            os.close(current)

    def _enter(self, folder: int, name: str, at: str, make: bool) -> int | None:
        with self._errors(at):
            for _ in range(2):
                try:
                    return os.open(name, _FOLDER, dir_fd=folder)
                except FileNotFoundError:
                    if not make:
                        return None
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, dir_fd=folder)
                except NotADirectoryError as error:  # a symbolic link, too
                    raise BadPath(
                        path=self.path + at,
                        reason="it is there and no folder, or a link that may lead elsewhere; move it",
                    ) from error
            raise BadPath(path=self.path + at, reason="it goes away while it is written to")

    def is_right(self, folder: int, inside: str, name: str, entry: FileEntry) -> bool:
        """Whether a file has the content already. Raises BadPath: something else is there that may not
        be replaced."""
        with self._errors(f"{inside}/{name}"):
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return False
            if stat.S_ISREG(status.st_mode):
                if entry.size in (None, status.st_size) and self._holds(folder, name, entry):
                    self._set_executable(folder, name, status, entry)
                    return True
                if self._replace:
                    return False
        raise self._in_the_way(inside, name)

    def _holds(self, folder: int, name: str, entry: FileEntry) -> bool:
        descriptor = os.open(name, _FILE, dir_fd=folder)
        with open(descriptor, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha1").hexdigest() == entry.sha1

    def _set_executable(
        self, folder: int, name: str, status: os.stat_result, entry: FileEntry
    ) -> None:
        mode = stat.S_IMODE(status.st_mode)
        if entry.executable and not mode & stat.S_IXUSR:
            readable = mode & (stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
            mode |= readable >> 2
        elif self._replace and not entry.executable:
            mode &= ~(stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        if mode != stat.S_IMODE(status.st_mode):
            with where_possible():  # it may be somebody else's; its content is right
                os.chmod(name, mode, dir_fd=folder)

    def check_twin(self, folder: int, inside: str, name: str, other: str) -> None:
        """Raises BadPath: the file system does not tell two names apart."""
        with self._errors(f"{inside}/{name}"):
            names = os.listdir(folder)
            try:
                os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return
        if name not in names:
            where = os.path.join(self.path, inside, name)
            raise BadPath(path=where, reason=_TWIN.format(other=other))

    def put(
        self,
        folder: int,
        inside: str,
        name: str,
        entry: FileEntry,
        content: bytes | str,
        gone: Callable[[], bool] = lambda: False,
        right: blocking.Right | None = None,
    ) -> None:
        """Give a file its content: bytes, or what is at a path. Raises BadPath, StorageFull, Cancelled;
        NotFound: it is not ``right`` any more."""
        mode = 0o777 if entry.executable else 0o666

        def fill(descriptor: int) -> None:
            if isinstance(content, bytes):
                write_all(descriptor, content)
            else:
                with blocking.opened(content, right) as source:
                    blocking.copy_bytes(source.fileno(), descriptor, gone, lambda done: None, right)

        with self._errors(f"{inside}/{name}"):
            descriptor = _unnamed(folder, mode)
            if descriptor >= 0:
                try:
                    fill(descriptor)
                    opened = f"/proc/self/fd/{descriptor}"
                    if self._linked(folder, inside, name, opened, follow=True):
                        return
                finally:
                    os.close(descriptor)
            temporary = f".kachery-{os.urandom(8).hex()}"
            descriptor = os.open(temporary, _NEW, mode, dir_fd=folder)
            try:
                try:
                    fill(descriptor)
                finally:
                    os.close(descriptor)
                if not self._linked(folder, inside, name, temporary, follow=False):
                    self._renamed(folder, inside, name, temporary)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)

    def _linked(self, folder: int, inside: str, name: str, source: str, *, follow: bool) -> bool:
        """Give a file its name; False if the file system does not give one so. Raises BadPath:
        another one has it."""

        def link(as_name: str) -> None:
            os.link(source, as_name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=follow)

        try:
            link(name)
        except FileExistsError:
            if not self._replace:
                raise self._in_the_way(inside, name) from None
            between = f".kachery-{os.urandom(8).hex()}"
            link(between)
            os.replace(between, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            # What is open has no path where /proc is not there.
            if error.errno in _NO_LINKS or (follow and error.errno == errno.ENOENT):
                return False
            raise
        return True

    def _renamed(self, folder: int, inside: str, name: str, temporary: str) -> None:
        if not self._replace:
            with contextlib.suppress(FileNotFoundError):
                os.stat(name, dir_fd=folder, follow_symlinks=False)
                raise self._in_the_way(inside, name)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)

    def _in_the_way(self, inside: str, name: str) -> BadPath:
        return BadPath(path=os.path.join(self.path, inside, name), reason=_OTHER)

    @contextlib.contextmanager
    def _errors(self, at: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = os.path.join(self.path, at.lstrip("/"))
            raise blocking.path_error(path, error) from error


def _unnamed(folder: int, mode: int) -> int:
    """A new file without a name, which goes by itself if we are killed; -1 where there are none."""
    unnamed = getattr(os, "O_TMPFILE", 0)
    if not unnamed:
        return -1
    try:
        return os.open(".", os.O_RDWR | os.O_CLOEXEC | unnamed, mode, dir_fd=folder)
    except OSError as error:
        if error.errno in FULL:
            raise
        return -1
