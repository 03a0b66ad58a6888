"""The local API against clients that are wrong, hostile, slow, or gone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import resource
import shutil
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kachery_p2p.node.doors import descriptors
from kachery_p2p.node.doors import server as api
from kachery_p2p.node.node import Node
from kachery_p2p.protocol.feeds.feed import subfeed_hash
from kachery_p2p.protocol.limits import (
    LOCAL_ITEM_CREDIT,
    LOCAL_PIECE,
    LOCAL_QUEUE,
    MAX_LOCAL_DESCRIPTORS,
    MAX_LOCAL_FRAME,
    MAX_SLICE,
    PROTOCOL_VERSION,
)
from kachery_p2p.protocol.local import messages as local
from kachery_p2p.storage.files.marker import MARKER_FILE
from tests.node.harness import laboratory, until
from tests.patience import patience

HI = local.Greeting(PROTOCOL_VERSION, None, os.getpid())


class RawClient:
    """A socket that sends any bytes and reads messages."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._reader = local.FrameReader()
        self._values: list[Any] = []
        self._loop = asyncio.get_running_loop()

    async def send(self, *messages: local.Message) -> None:
        await self.raw(b"".join(local.encode_message(message) for message in messages))

    async def raw(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def read(self) -> local.Message | None:
        """The next message; None at the end."""
        async with asyncio.timeout(patience(10)):
            while not self._values:
                try:
                    data = await self._loop.sock_recv(self.sock, 1 << 16)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self._values += self._reader.feed(data)
        return local.decode_message(self._values.pop(0))

    async def until(self, kind: type[Any]) -> Any:
        while not isinstance(message := await self.read(), kind):
            assert message is not None, f"closed before a {kind.__name__} came"
        return message

    async def call(self, number: int, method: str, **params: Any) -> local.Message | None:
        await self.send(local.Call(number, method, params))
        return await self.read()


@contextlib.asynccontextmanager
async def client(node: Node, *, greet: bool = True) -> AsyncIterator[RawClient]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(str(node.config.socket_path))
    raw = RawClient(sock)
    try:
        if greet:
            await raw.send(HI)
            assert isinstance(await raw.read(), local.Welcome)
        yield raw
    finally:
        sock.close()


@contextlib.asynccontextmanager
async def one_node(**options: Any) -> AsyncIterator[Node]:
    """A node that must have let go of everything, and still answer, at the end."""
    async with laboratory("A", channel=False) as lab:
        if options:
            await lab.stop("A")
            await lab.start("A", **options)
        node = lab["A"]
        yield node
        await until(lambda: not node.api.connections, "connections let go")
        async with client(node) as good:
            assert isinstance(await good.call(1, "info"), local.Answer)
        assert not list(leftovers(node))


def leftovers(node: Node) -> list[Path]:
    """Files in the storage that are neither blobs nor what belongs to them."""
    return [
        path
        for path in node.store.root.rglob("*")
        if path.is_file() and not path.name.endswith("lock") and path.name != MARKER_FILE
        and "sha1" not in path.relative_to(node.store.root).parts
    ]  # fmt: skip


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- greetings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (local.encode_message(local.Call(1, "info", {})), "protocol-violation"),
        (local.encode_message(local.Greeting(PROTOCOL_VERSION + 1, None, 1)), "version-mismatch"),
        (local.encode_frame([1, 99, None, 5, "and", "more"]), "version-mismatch"),
        (local.encode_frame([99]), None),
        (local.encode_frame("hello"), None),
        (b"\x00\x00\x00\x01\xc1", None),
        (b"GET / HTTP/1.1\r\n\r\n", None),
        ((MAX_LOCAL_FRAME + 1).to_bytes(4, "big"), None),
        (b"\xff\xff\xff\xff", None),
    ],
    ids=["call first", "version", "future", "tag", "text", "garbage", "http", "long", "longest"],
)
async def test_a_bad_greeting_ends_the_connection(sent: bytes, code: str | None) -> None:
    async with one_node() as node, client(node, greet=False) as bad:
        await bad.raw(sent)
        message = await bad.read()
        if code is not None:
            assert isinstance(message, local.Failure)
            assert (message.id, message.code) == (0, code)
            message = await bad.read()
        assert message is None


async def test_a_version_mismatch_names_both_versions() -> None:
    async with one_node() as node, client(node, greet=False) as bad:
        await bad.send(local.Greeting(7, None, 1))
        failure = await bad.read()
        assert isinstance(failure, local.Failure)
        assert failure.fields == {"ours": PROTOCOL_VERSION, "theirs": 7}


@pytest.mark.parametrize(
    "message",
    [HI, local.Answer(1, None), local.Welcome(1, "", "", "", "", False), local.Call(0, "info", {})],
    ids=lambda message: type(message).__name__,
)
async def test_what_only_a_node_says_or_makes_no_sense_ends_the_connection(
    message: local.Message,
) -> None:
    async with one_node() as node, client(node) as bad:
        await bad.send(message)
        failure = await bad.read()
        assert isinstance(failure, local.Failure)
        assert (failure.id, failure.code) == (0, "protocol-violation")
        assert await bad.read() is None


async def test_an_oversized_frame_in_the_middle_ends_the_connection() -> None:
    async with one_node() as node, client(node) as bad:
        assert isinstance(await bad.call(1, "info"), local.Answer)
        await bad.raw((MAX_LOCAL_FRAME + 1).to_bytes(4, "big") + b"x" * 1_000)
        while await bad.read() is not None:
            pass


async def test_a_number_in_use_ends_the_connection() -> None:
    async with one_node() as node, client(node) as bad:
        await bad.send(local.Call(1, "store", {}), local.Call(1, "info", {}))
        while (message := await bad.read()) is not None:
            assert isinstance(message, local.Failure)


# --- calls ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("nonsense", {}),
        ("x" * 100_000, {}),
        ("load", {}),
        ("load", {"sha1": "A" * 40}),
        ("load", {"sha1": "0" * 39}),
        ("load", {"sha1": "../" * 13 + "a"}),
        ("load_bytes", {"sha1": "0" * 40, "ranges": [(-1, 5)]}),
        ("load_bytes", {"sha1": "0" * 40, "ranges": [(5, 4)]}),
        ("link", {"path": b"/etc/passwd"}),
        ("store", {"data": "text"}),
        ("set", {"key": 5}),
        ("channel.join", {"document": "nonsense"}),
        ("channel.join", {"document": "x" * 1_000_000}),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_bad_call_is_answered_with_an_error_and_costs_nothing_else(
    method: str, params: dict[str, Any]
) -> None:
    async with one_node() as node, client(node) as some:
        failure = await some.call(1, method, **params)
        assert isinstance(failure, local.Failure)
        assert failure.id == 1
        assert failure.code in ("bad-input", "bad-channel-document")
        assert isinstance(await some.call(2, "info"), local.Answer)


async def test_a_call_that_is_cancelled_says_so_once() -> None:
    async with one_node() as node, client(node) as some:
        await some.send(local.Call(1, "store", {}), local.CancelCall(1), local.CancelCall(1),
                        local.CancelCall(77))  # fmt: skip
        failure = await some.read()
        assert isinstance(failure, local.Failure)
        assert (failure.id, failure.code) == (1, "cancelled")
        answer = await some.call(2, "info")
        assert isinstance(answer, local.Answer)
        assert answer.id == 2


# --- descriptors ------------------------------------------------------------------------------


async def test_a_missing_descriptor_ends_the_connection() -> None:
    async with one_node() as node, client(node) as bad:
        await bad.send(local.Call(1, "store", {}, 1))
        failure = await bad.read()
        assert isinstance(failure, local.Failure)
        assert failure.code == "protocol-violation"
        assert await bad.read() is None


async def test_descriptors_that_nobody_asked_for_are_bounded_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    async with one_node() as node:
        before = open_files()
        async with client(node) as bad:
            with path.open("rb") as file, contextlib.suppress(OSError):
                frame = local.encode_message(local.CancelCall(5))
                for _ in range(MAX_LOCAL_DESCRIPTORS + 1):
                    socket.send_fds(bad.sock, [frame], [file.fileno()])
            while await bad.read() is not None:
                pass
        await until(lambda: not node.api.connections)
        assert open_files() <= before  # the node may have closed something of its own since


@pytest.mark.parametrize("most", ["LOCAL_DESCRIPTORS_EACH", "LOCAL_DESCRIPTORS_SHARE"])
async def test_of_many_files_at_once_so_many_are_open_and_all_are_stored_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: str
) -> None:
    """Of one client, and of all together, here a quarter of what the process may have."""
    if most == "LOCAL_DESCRIPTORS_EACH":
        monkeypatch.setattr(descriptors, most, 2)
    else:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        monkeypatch.setattr(descriptors, most, soft // 2)
    path = tmp_path / "file"
    path.write_bytes(b"x")
    async with one_node() as node, client(node) as some, client(node) as other:
        go, begun = threading.Event(), []
        really = node.store.store_fd

        def store_fd(*arguments: Any) -> Any:
            begun.append(1)
            go.wait()
            return really(*arguments)

        monkeypatch.setattr(node.store, "store_fd", store_fd)
        with path.open("rb") as file:
            for number in range(1, 6):
                frame = local.encode_message(local.Call(number, "store", {}, 1))
                socket.send_fds(some.sock, [frame], [file.fileno()])
        await until(lambda: len(begun) == 2)
        # What has come by now on another connection has come on this one, if it is read.
        assert isinstance(await other.call(1, "info"), local.Answer)
        assert len(begun) == 2
        go.set()
        answers = [await some.read() for _ in range(5)]
        assert all(isinstance(answer, local.Answer) for answer in answers)
        assert {answer.id for answer in answers} == {1, 2, 3, 4, 5}  # type: ignore[union-attr]


async def test_descriptors_of_a_client_that_leaves_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    async with one_node() as node:
        before = open_files()
        async with client(node) as some:
            frame = local.encode_message(local.Call(1, "info", {}, 1))
            with path.open("rb") as file:
                socket.send_fds(some.sock, [frame, frame[:3]], [file.fileno()] * 3)
            assert isinstance(await some.read(), local.Answer)
        await until(lambda: not node.api.connections)
        assert open_files() <= before  # the node may have closed something of its own since


async def test_a_descriptor_that_is_no_file_is_refused() -> None:
    async with one_node() as node, client(node) as some:
        read_end, write_end = os.pipe()
        try:
            frame = local.encode_message(local.Call(1, "store", {}, 1))
            socket.send_fds(some.sock, [frame], [read_end])
            failure = await some.read()
            assert isinstance(failure, local.Failure)
            assert failure.code == "bad-input"
        finally:
            os.close(read_end)
            os.close(write_end)


async def test_a_link_is_to_the_file_of_the_descriptor_and_no_other(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.write_bytes(b"mine")
    other.write_bytes(b"secret of somebody else")
    async with one_node() as node, client(node) as some:
        with mine.open("rb") as file:
            frame = local.encode_message(local.Call(1, "link", {"path": os.fsencode(other)}, 1))
            socket.send_fds(some.sock, [frame], [file.fileno()])
            assert isinstance(await some.read(), local.Failure)
        for content in (b"mine", b"secret of somebody else"):
            assert node.store.find(hashlib.sha1(content).hexdigest()) is None


# --- uploads and downloads --------------------------------------------------------------------


async def test_a_streamed_store_ends_with_the_hash() -> None:
    async with one_node() as node, client(node) as some:
        pieces = [bytes([number]) * LOCAL_PIECE for number in range(5)]
        await some.send(local.Call(1, "store", {}), *(local.Piece(1, each) for each in pieces),
                        local.Finish(1))  # fmt: skip
        answer = await some.read()
        assert isinstance(answer, local.Answer)
        assert answer.result["sha1"] == hashlib.sha1(b"".join(pieces)).hexdigest()


async def test_a_client_that_leaves_in_the_middle_of_an_upload_leaves_nothing_behind() -> None:
    async with one_node() as node:
        files = sorted(path for path in node.store.root.rglob("*") if path.is_file())
        async with client(node) as some:
            await some.send(local.Call(1, "store", {}),
                            *(local.Piece(1, bytes(LOCAL_PIECE)) for _ in range(3)))  # fmt: skip
            await until(lambda: sorted(p for p in node.store.root.rglob("*") if p.is_file())
                        != files, "the upload has begun")  # fmt: skip
        await until(lambda: not node.api.connections)
        await until(
            lambda: sorted(path for path in node.store.root.rglob("*") if path.is_file()) == files
        )


async def test_a_client_that_does_not_read_what_it_loads_holds_up_only_itself() -> None:
    async with one_node() as node:
        sha1 = node.store.store_bytes(bytes(5 * LOCAL_QUEUE // 2)).sha1
        async with client(node) as lazy, client(node) as brisk:
            for number in (1, 2, 3):
                await lazy.send(local.Call(number, "load_bytes", {"sha1": sha1}))
            [held] = await until(lambda: [c for c in node.api.connections if c._calls])
            await until(lambda: held.socket.backed_up)
            assert isinstance(await brisk.call(1, "info"), local.Answer)
            assert held.socket._queued <= LOCAL_QUEUE + 4 * LOCAL_PIECE
            got = 0
            while got < 3 * 5 * LOCAL_QUEUE // 2:
                got += len((await lazy.until(local.Chunk)).data)
            assert (await lazy.until(local.Answer)).result == {"size": 5 * LOCAL_QUEUE // 2}


async def test_items_come_as_far_as_the_client_has_granted_them() -> None:
    async with one_node() as node, client(node) as slow:
        feed = await node.own_feeds.create(None)
        where = (feed, subfeed_hash("n"))
        text = b'"' + b"x" * 500_000 + b'"'
        total = 3 * LOCAL_ITEM_CREDIT // len(text)
        await node.own_feeds.append(where, "n", [text] * total)
        params = {"feed": feed, "subfeed": where[1], "position": 0, "timeout": 1.0, "wait": 60.0}
        await slow.send(local.Call(1, "feed.stream", params))
        [held] = await until(lambda: [c for c in node.api.connections if c._live])
        await until(lambda: held._live[1]._credit <= 0)
        taken = owed = 0
        while owed < LOCAL_ITEM_CREDIT:
            item = await slow.until(local.Item)
            assert item.meta[0] == taken
            taken, owed = taken + item.meta[1], owed + local.item_cost(item.data)
        assert owed <= LOCAL_ITEM_CREDIT + 2 * MAX_SLICE
        assert isinstance(await slow.call(2, "info"), local.Answer), "there was nothing before it"
        while taken < total:
            await slow.send(local.Granted(1, owed))
            item = await slow.until(local.Item)
            assert item.meta[0] == taken
            taken, owed = taken + item.meta[1], local.item_cost(item.data)
        await slow.send(local.CancelCall(1), local.Granted(1, owed), local.Granted(99, 1))
        assert (await slow.until(local.Failure)).code == "cancelled"
        assert not node.feeds._listeners


@pytest.mark.parametrize("method", ["no such call", "feed.append"])
async def test_answers_that_nobody_reads_do_not_pile_up(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Each is small, but a client may ask for them without end: it is read from no more."""
    monkeypatch.setattr("kachery_p2p.local.framed.LOCAL_QUEUE", 10_000)
    monkeypatch.setattr(api, "MAX_LOCAL_REQUESTS", 50)
    async with one_node() as node, client(node) as lazy:
        lazy.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        [held] = node.api.connections
        calls = iter(range(1, 1 << 30))
        feed = await node.own_feeds.create(None)
        params = {"feed": feed, "subfeed": subfeed_hash("n"), "name": "n", "data": b"1", "count": 1}
        await node.own_feeds.append((feed, params["subfeed"]), "n", [b"0"])

        async def pour() -> None:
            while True:
                await lazy.send(local.Call(next(calls), method, params))

        pouring = asyncio.create_task(pour())
        # Backed up too: fifty calls that are only just running say nothing yet.
        await until(
            lambda: held.socket.backed_up and len(held._calls) >= 50 and not held.socket._reading
        )
        queued = held.socket._queued
        assert queued < 5_000_000
        for _ in range(50):
            await asyncio.sleep(0)
        assert held.socket._queued == queued
        # When it reads, it goes on.
        before = next(calls)
        for _ in range(before):
            assert isinstance(await lazy.read(), local.Failure | local.Answer)
        await until(lambda: next(calls) > before + 100)
        pouring.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pouring


# --- who may ----------------------------------------------------------------------------------


def pretend_uid(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """The kernel says that the peer is this user."""
    monkeypatch.setattr(
        api, "struct", SimpleNamespace(calcsize=lambda _: 12, unpack=lambda *_: (4_711, uid, uid))
    )


LOG = {"feed": bytes(32), "subfeed": bytes(20)}
TEXTS = LOG | {"name": "n", "data": b"1", "count": 1}
RUN = {"function": "f.1", "type": "query", "kwargs": b"{}"}
WRITES: list[tuple[str, dict[str, Any]]] = [
    ("store_batch", {"data": [b"x"]}),
    ("store_known", {"stamps": []}),
    ("remember", {"files": []}),
    ("store", {"data": b"x"}),
    ("link", {"path": b"/etc/hostname"}),
    ("delete_file", {"sha1": "0" * 40}),
    ("unshare", {"sha1": "0" * 40, "channel": "c"}),
    ("pin", {"sha1": "0" * 40}),
    ("unpin", {"sha1": "0" * 40}),
    ("collect", {}),
    ("set_limit", {}),
    ("set_rates", {}),
    ("verify", {}),
    ("origins", {"refresh": True}),
    ("set_origins", {"origins": []}),
    ("archive", {}),
    ("keep.offer", {"channel": "c"}),
    ("keep.push", {"sha1": "0" * 40}),
    ("keep.drop", {"sha1": "0" * 40}),
    ("keep.release", {"sha1": "0" * 40}),
    ("set", {"key": "k", "value": "1"}),
    ("delete", {"key": "k"}),
    ("stop", {}),
    ("channel.create", {"name": "c", "bootstraps": ["ws://127.0.0.1:1"]}),
    ("channel.join", {"document": "d"}),
    ("channel.leave", {"channel": "c"}),
    ("channel.add-node", {"channel": "c", "node": "n"}),
    ("channel.remove-node", {"channel": "c", "node": "n"}),
    ("channel.set-roles", {"channel": "c", "node": "n"}),
    ("channel.invite", {"channel": "c"}),
    ("channel.revoke-invite", {"channel": "c", "invitation": "i"}),
    ("channel.revoke-invites", {"channel": "c"}),
    ("share.create", {"uri": "sha1://" + "ab" * 20}),
    ("share.revoke", {"id": "ab" * 32}),
    ("channel.authorise", {"channel": "c", "node": "n", "roles": "request"}),
    ("feed.create", {}),
    ("feed.delete", {"feed": bytes(32)}),
    ("feed.append", TEXTS),
    ("feed.submit", TEXTS | {"submission": bytes(16), "timeout": 1.0}),
    ("feed.set_rules", LOG | {"rules": {"rules": []}}),
    ("feed.resolve", LOG),
    ("task.request", RUN | {"task": bytes(16), "backend_timeout": 0.0}),
    ("task.cancel", {"task": bytes(16)}),
    ("task.publish", RUN | {"payload": ["json", b"1", None]}),
    ("task.offer", {"backend": bytes(16), "functions": [], "channels": [], "slots": 1}),
    ("task.take", {"backend": bytes(16), "most": 1, "wait": 0.0}),
    ("task.report", {"backend": bytes(16), "job": bytes(16), "state": "failed"}),
]


async def test_other_users_may_only_read_if_the_node_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with one_node(others_read_only=True) as node:
        sha1 = node.store.store_bytes(b"to be read").sha1
        with monkeypatch.context() as patch:
            pretend_uid(patch, 54_321)
            async with client(node, greet=False) as other:
                await other.send(HI)
                welcome = await other.read()
                assert isinstance(welcome, local.Welcome)
                assert welcome.read_only
                for number, (method, params) in enumerate(WRITES, 1):
                    failure = await other.call(number, method, **params)
                    assert isinstance(failure, local.Failure), method
                    assert failure.code == "read-only-user", method
                    assert failure.fields["user"] == "54321"
                assert isinstance(await other.call(100, "load", sha1=sha1), local.Answer)
                assert isinstance(await other.call(101, "info"), local.Answer)
        assert not node.stopping.is_set()


async def test_every_call_that_changes_something_is_in_the_list_of_writes() -> None:
    reads = {"load", "load_batch", "load_bytes", "here", "find", "check", "list_files", "storage_usage",
             "info", "get", "channel.show",
             "channel.list", "channel.announced", "channel.find-member", "channel.export",
             "feed.named", "feed.list",
             "feed.info", "feed.read", "feed.stream", "feed.watch", "feed.get_rules", "feed.show",
             "task.list", "task.show", "task.cached", "status", "channel.invites", "doctor.node",
             "doctor.file", "doctor.feed", "share.list", "keep.list", "keep.keepers"}  # fmt: skip
    async with one_node() as node:
        assert set(node.api.calls._calls) == reads | {method for method, _ in WRITES}


async def test_other_users_may_write_if_the_node_does_not_mind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with one_node() as node:
        with monkeypatch.context() as patch:
            pretend_uid(patch, 54_321)
            async with client(node) as other:
                assert isinstance(await other.call(1, "store", data=b"x"), local.Answer)


async def test_the_owner_may_write_even_where_others_may_not() -> None:
    async with one_node(others_read_only=True) as node, client(node) as own:
        assert isinstance(await own.call(1, "store", data=b"x"), local.Answer)


# --- what is left on the disk -------------------------------------------------------------------


async def test_no_token_and_no_socket_outlive_the_node() -> None:
    async with laboratory("A", channel=False) as lab:
        await lab.stop("A")
        node = await lab.start("A", api_port=0)
        folder = node.config.runtime_dir
        assert len(list(folder.iterdir())) >= 2
        await lab.stop("A")
        assert not list(folder.glob("*.token"))
        assert not node.config.socket_path.exists()


# --- one node per socket ----------------------------------------------------------------------


async def test_a_socket_left_behind_by_a_killed_node_is_taken_over() -> None:
    async with laboratory("A", channel=False) as lab:
        path = lab.configs["A"].socket_path
        await lab.stop("A")
        left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        left.bind(str(path))
        left.close()
        assert path.exists()
        await lab.start("A")
        async with client(lab["A"]) as some:
            assert isinstance(await some.call(1, "info"), local.Answer)


async def test_a_lost_socket_is_there_again_and_who_was_connected_stays() -> None:
    async with laboratory("A", channel=False) as lab:
        path = lab.configs["A"].socket_path
        async with client(lab["A"]) as before:
            path.unlink()
            await until(path.exists, "it is bound anew by itself")
            async with client(lab["A"]) as after:
                assert isinstance(await after.call(1, "info"), local.Answer)
            assert isinstance(await before.call(1, "info"), local.Answer)


async def test_tokens_that_were_lost_with_the_folder_are_there_again() -> None:
    async with laboratory("A", channel=False) as lab:
        await lab.stop("A")
        node = await lab.start("A", api_port=0)
        folder = node.config.runtime_dir
        before = {path.name: path.read_text() for path in folder.glob("*.token")}
        assert before
        shutil.rmtree(folder)
        await until(lambda: len(list(folder.glob("*.token"))) == len(before))
        assert {path.name: path.read_text() for path in folder.glob("*.token")} == before
