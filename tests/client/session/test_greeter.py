"""Whoever has the port, or the socket, of a node that is gone learns nothing and is not believed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kachery_p2p as kc
from kachery_p2p.client.session import portal
from kachery_p2p.client.session.greeter import Greeter
from kachery_p2p.protocol import errors
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import PROTOCOL_VERSION
from kachery_p2p.protocol.local import messages as local
from kachery_p2p.protocol.local.proof import FULL, READ_ONLY, Challenge, Token
from kachery_p2p.storage.files.marker import marker_of

KEY, OTHER = NodeKey(b"k" * 32), NodeKey(b"o" * 32)
TOKEN = Token(b"t" * 32, KEY.public, FULL)
SECRET_TEXT = "what I store is nobody's business"

Answer = Callable[[local.Message], list[local.Message]]
VARIABLES = ("XDG_RUNTIME_DIR", "KACHERY_P2P_API_PORT", "KACHERY_STORAGE_DIR",
             "KACHERY_P2P_OFFLINE_STORAGE_DIR", "KACHERY_OFFLINE_STORAGE_DIR")  # fmt: skip


class Impostor:
    """Listens where a node did, and answers each message as a test says. ``heard``: all bytes."""

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        self.heard = bytearray()
        self.messages: list[local.Message] = []
        self._listener = listener
        self._answer = answer
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(sock)
            self._threads.append(threading.Thread(target=self._talk, args=(sock,), daemon=True))
            self._threads[-1].start()

    def _talk(self, sock: socket.socket) -> None:
        reader = local.FrameReader()
        try:
            while data := sock.recv(65_536):
                self.heard += data
                for value in reader.feed(data):
                    message = local.decode_message(value)
                    self.messages.append(message)
                    for reply in self._answer(message):
                        sock.sendall(local.encode_message(reply))
        except OSError:
            pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for sock in self._open:
            sock.close()


@pytest.fixture
def folder(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An environment of its own; its runtime folder."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    portal.shutdown()
    (short_folder / "kachery-p2p").mkdir()
    yield short_folder / "kachery-p2p"
    portal.shutdown()


def squat(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> Impostor:
    """On the port for which a node that was killed left a token."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    (folder / f"api-{port}.full.token").write_text(TOKEN.to_text())
    monkeypatch.setenv("KACHERY_P2P_API_PORT", str(port))
    return Impostor(listener, answer)


def welcome(storage: str = "/x", marker: str = "") -> local.Welcome:
    return local.Welcome(PROTOCOL_VERSION, "x", KEY.node_id, storage, "x", False, marker)


def at_once(message: local.Message) -> list[local.Message]:
    return [welcome()]


def not_found(message: local.Message) -> list[local.Message]:
    return [local.Failure(0, *errors.to_wire(errors.NotFound(what="it", detail="really")))]


def echo(message: local.Message) -> list[local.Message]:
    nonce = message.nonce if isinstance(message, local.Greeting) else None
    return [local.Challenge(nonce or b"", nonce or b"", bytes(64))]


def knows_the_token(message: local.Message) -> list[local.Message]:
    """A colleague in the group, who may read the file."""
    if not isinstance(message, local.Greeting):
        return [welcome()]
    assert message.nonce is not None
    challenge = Challenge(TOKEN, message.nonce, b"d" * 32)
    return [local.Challenge(b"d" * 32, challenge.daemon_proof(), challenge.sign(OTHER))]


def replays(message: local.Message) -> list[local.Message]:
    """What the true node said to somebody else."""
    challenge = Challenge(TOKEN, b"c" * 32, b"d" * 32)
    return [local.Challenge(b"d" * 32, challenge.daemon_proof(), challenge.sign(KEY))]


def makes_no_sense(message: local.Message) -> list[local.Message]:
    return [local.Answer(1, "x")]


@pytest.mark.parametrize(
    "answer", [at_once, not_found, echo, knows_the_token, replays, makes_no_sense]
)
def test_who_has_the_port_of_a_killed_node_is_told_nothing_and_not_believed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    impostor = squat(folder, monkeypatch, answer)
    try:
        for call in (
            lambda: kc.store_text(SECRET_TEXT),
            lambda: kc.set("key", SECRET_TEXT),
            lambda: kc.load_text("sha1://" + "0" * 40),
            kc.get_node_id,
            lambda: asyncio.run(kc.aload_text("sha1://" + "0" * 40)),
        ):
            with pytest.raises(errors.DaemonNotPermitted, match="token"):
                call()
    finally:
        impostor.close()
    assert all(isinstance(message, local.Greeting) for message in impostor.messages)
    assert SECRET_TEXT.encode() not in impostor.heard
    assert TOKEN.secret not in impostor.heard
    assert TOKEN.secret.hex().encode() not in impostor.heard


def test_the_node_itself_is_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Challenge] = []

    def node(message: local.Message) -> list[local.Message]:
        match message:
            case local.Greeting(nonce=bytes() as nonce):
                said.append(Challenge(TOKEN, nonce, b"d" * 32))
                return [local.Challenge(b"d" * 32, said[-1].daemon_proof(), said[-1].sign(KEY))]
            case local.Proof(proof) if said[-1].is_client(proof):
                return [welcome()]
        return [local.Answer(message.id, {"found": True, "value": "5"})]  # type: ignore[union-attr]

    true = squat(folder, monkeypatch, node)
    try:
        assert kc.get("key") == 5
        assert kc.get_node_id() == KEY.node_id
    finally:
        true.close()


def test_no_token_no_connection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    impostor = squat(folder, monkeypatch, at_once)
    for path in folder.iterdir():
        path.unlink()
    try:
        with pytest.raises(errors.DaemonNotRunning, match="token"):
            kc.get_node_id()
    finally:
        impostor.close()
    assert not impostor.heard


def test_a_node_that_answers_byte_by_byte_does_not_hold_a_call_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kachery_p2p.client.session.thread_connection.CONNECT_LOCAL_SECONDS", 0.3)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    (folder / f"api-{port}.full.token").write_text(TOKEN.to_text())
    monkeypatch.setenv("KACHERY_P2P_API_PORT", str(port))
    over = threading.Event()

    def drip() -> None:
        sock, _ = listener.accept()
        with sock:
            try:
                sock.sendall((10_000).to_bytes(4, "big"))
                while not over.wait(0.02):
                    sock.sendall(b"\x00")
            except OSError:
                pass

    thread = threading.Thread(target=drip)
    thread.start()
    with pytest.raises(errors.DaemonNotRunning, match="no greeting"):
        kc.get("key")
    over.set()
    thread.join(10)
    listener.close()


def test_an_old_token_does_not_hide_the_one_beside_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was killed had the full right to give; the one that runs now gives another."""
    said: list[Challenge] = []
    token = Token(b"n" * 32, KEY.public, READ_ONLY)

    def node(message: local.Message) -> list[local.Message]:
        match message:
            case local.Greeting(nonce=bytes() as nonce, right="read-only"):
                said.append(Challenge(token, nonce, b"d" * 32))
                return [local.Challenge(b"d" * 32, said[-1].daemon_proof(), said[-1].sign(KEY))]
            case local.Greeting():
                error = errors.DaemonNotPermitted(reason="there is no such token")
                return [local.Failure(0, *errors.to_wire(error))]
        return [welcome()]

    true = squat(folder, monkeypatch, node)
    [old] = folder.glob("api-*")
    old.with_name(old.name.replace("full", "read-only")).write_text(token.to_text())
    try:
        assert kc.get_node_id() == KEY.node_id
    finally:
        true.close()


# --- the storage folder ----------------------------------------------------------------------------


def lure(folder: Path, data: bytes) -> tuple[str, Path]:
    """A folder with something in it that no node put there; the URI of that."""
    sha1 = hashlib.sha1(data).hexdigest()
    path = folder / "lure" / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6] / sha1
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return f"sha1://{sha1}", folder / "lure"


def listening(folder: Path, answer: Answer) -> Impostor:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "node.sock"))
    listener.listen()
    return Impostor(listener, answer)


@pytest.mark.parametrize("kind", ["no marker", "another marker", "of another user", "the node's"])
def test_a_folder_is_read_only_if_it_is_the_nodes_own(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, root = lure(folder, b"x" * 30)
    marker = "0" * 32 if kind == "no marker" else marker_of(root, os.urandom)
    if kind == "another marker":
        marker = marker[::-1]
    if kind == "of another user":
        monkeypatch.setattr(
            "kachery_p2p.client.session.connection.owner_of_peer", lambda *_: 54_321
        )

    def answer(message: local.Message) -> list[local.Message]:
        match message:
            case local.Greeting():
                return [welcome(str(root), marker)]
            case local.Call():
                error = errors.NotFound(what="it", detail="nobody has it")
                return [local.Failure(message.id, *errors.to_wire(error))]
        return []

    node = listening(folder, answer)
    try:
        expected = "x" * 30 if kind == "the node's" else None
        assert kc.load_text(uri) == expected
        assert kc.load_bytes(uri, 0, 5) == (None if expected is None else b"xxxxx")
        if expected is None:
            assert kc.load_file(uri) is None
    finally:
        node.close()


def test_only_what_a_node_says_to_anybody_is_passed_on_before_it_has_proved_itself() -> None:
    for error in (errors.Busy(limit="x"), errors.VersionMismatch(ours=1, theirs=2)):
        with pytest.raises(type(error)):
            Greeter(TOKEN, None).hear(local.Failure(0, *errors.to_wire(error)))
    with pytest.raises(errors.NotFound):
        Greeter(None, None).hear(
            local.Failure(0, *errors.to_wire(errors.NotFound(what="x", detail="y")))
        )
