"""The process that is forked: it has no thread and no loop, and holds nothing open but its sockets. It
ends when the process of pytest does."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import selectors
import signal
import socket
import warnings
from dataclasses import dataclass, field

from . import popen
from .program import Program
from .request import Reply, Request, receive, send_reply

_IMPORTED = (
    "kachery_p2p",
    "kachery_p2p.cli.main",
    "kachery_p2p.client.tasks.worker",
    "kachery_p2p.node.node",
)
_REQUEST_SECONDS = 60.0


@dataclass
class _Child:
    pid: int
    descriptor: int
    sock: socket.socket | None
    """To whoever asked for it: it is a zombie as long as somebody may ask how it ended."""
    ended: bool = False


@dataclass
class _Server:
    listener: socket.socket
    control: socket.socket
    """Ends when the test process does."""
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    children: list[_Child] = field(default_factory=list)

    def serve(self) -> Program | None:
        """None: no more will be asked for. Otherwise this is a child, and the program is to be run."""
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.control, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.control:
                    return None
                if key.fileobj is self.listener:
                    program = self._accept()
                    if program is not None:
                        return program
                else:
                    self._follow(key.data, key.fd == key.data.descriptor)

    def _accept(self) -> Program | None:
        sock, _ = self.listener.accept()
        sock.settimeout(_REQUEST_SECONDS)
        received = None
        with contextlib.suppress(OSError):
            received = receive(sock)
        if received is None:
            sock.close()
            return None
        request, descriptors = received
        pid = os.fork()
        if pid == 0:
            return self._child(request, descriptors, sock)
        for each in descriptors:
            os.close(each)
        child = _Child(pid, os.pidfd_open(pid), sock)
        self.children.append(child)
        self.selector.register(child.descriptor, selectors.EVENT_READ, child)
        self.selector.register(sock, selectors.EVENT_READ, child)
        return None

    def _child(self, request: Request, descriptors: list[int], sock: socket.socket) -> Program:
        self.selector.close()
        self.listener.close()
        self.control.close()
        for child in self.children:
            os.close(child.descriptor)
            if child.sock is not None:
                child.sock.close()
        return Program(request, descriptors, sock)

    def _follow(self, child: _Child, has_ended: bool) -> None:
        if has_ended:
            self.selector.unregister(child.descriptor)
            child.ended = True
            if child.sock is not None:
                told = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
                assert told is not None
                with contextlib.suppress(OSError):
                    send_reply(child.sock, Reply.ENDED, _wait_status(told))
        elif (
            child.sock is not None
        ):  # nobody writes there: who asked has read how it ended, or has gone
            self.selector.unregister(child.sock)
            child.sock.close()
            child.sock = None
        if child.ended and child.sock is None:
            os.waitpid(child.pid, 0)
            os.close(child.descriptor)
            self.children.remove(child)


def _wait_status(told: os.waitid_result) -> int:
    """As waitpid() tells it."""
    if told.si_code == os.CLD_EXITED:
        return told.si_status << 8
    return told.si_status | (0x80 if told.si_code == os.CLD_DUMPED else 0)


def main(listener: int, control: int, address: popen.Address) -> None:
    popen.adopt(address)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and they end this
    with warnings.catch_warnings():
        # What comes with the packages is said where they are tested.
        warnings.simplefilter("ignore")
        for name in _IMPORTED:
            importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not be forked"
    gc.collect()
    gc.freeze()  # no child copies the pages of what is here by looking through it
    program = _Server(
        socket.socket(fileno=listener),
        socket.socket(fileno=control),
    ).serve()
    if program is None:
        os._exit(0)  # there is nothing to tidy away; programs that still run go on
    program.become()
    program.run()
