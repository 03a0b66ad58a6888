"""The local API against who connects and is not entitled to, says nothing, or does not read."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kachery_p2p.local import budget as budget_module
from kachery_p2p.node.doors import callers as callers_module
from kachery_p2p.node.node import Node
from kachery_p2p.protocol.limits import (
    LOCAL_PIECE,
    MAX_LOCAL_GREETING,
    MAX_LOCAL_UNGREETED,
    MIB,
    PROTOCOL_VERSION,
)
from kachery_p2p.protocol.local import messages as local
from kachery_p2p.protocol.local.proof import (
    FULL,
    NONCE_BYTES,
    READ_ONLY,
    Challenge,
    Token,
    parse_token,
)
from tests.node.doors.test_server import HI, WRITES, RawClient, client, one_node
from tests.node.harness import laboratory, until
from tests.patience import patience


def token_of(node: Node, right: str = FULL) -> tuple[Token, int]:
    """A token from its file, and the port that it is for."""
    [path] = node.config.runtime_dir.glob(f"api-*.{right}.token")
    token = parse_token(path.read_text(), right)
    assert token is not None
    return token, int(path.name.split(".")[0].removeprefix("api-"))


@contextlib.asynccontextmanager
async def over_tcp(node: Node) -> AsyncIterator[RawClient]:
    sock = socket.create_connection(("127.0.0.1", token_of(node)[1]))
    try:
        yield RawClient(sock)
    finally:
        sock.close()


async def challenged(raw: RawClient, token: Token, nonce: bytes = b"n" * NONCE_BYTES) -> Challenge:
    """Greet, and hear the node prove itself."""
    await raw.send(local.Greeting(PROTOCOL_VERSION, nonce, 1, token.right))
    said = await raw.read()
    assert isinstance(said, local.Challenge)
    challenge = Challenge(token, nonce, said.nonce)
    assert challenge.is_daemon(said.proof, said.signature)
    return challenge


async def refused(raw: RawClient, code: str = "daemon-not-permitted") -> None:
    failure = await raw.read()
    assert isinstance(failure, local.Failure)
    assert (failure.id, failure.code) == (0, code)
    assert await raw.read() is None


# --- tokens --------------------------------------------------------------------------------------


async def test_both_sides_prove_that_they_know_the_token_and_neither_says_it() -> None:
    async with one_node(api_port=0) as node, over_tcp(node) as raw:
        token, _ = token_of(node)
        challenge = await challenged(raw, token)
        await raw.send(local.Proof(challenge.client_proof()))
        welcome = await raw.read()
        assert isinstance(welcome, local.Welcome)
        assert not welcome.read_only
        assert isinstance(await raw.call(1, "store", data=b"x"), local.Answer)


@pytest.mark.parametrize("right", [FULL, READ_ONLY, "", "more than full"])
async def test_who_does_not_know_the_token_learns_nothing_and_does_nothing(right: str) -> None:
    async with one_node(api_port=0) as node:
        wrong = Token(b"w" * 32, node.context.key.public, right)
        async with over_tcp(node) as raw:
            await raw.send(local.Greeting(PROTOCOL_VERSION, b"n" * NONCE_BYTES, 1, right))
            if right == FULL:
                said = await raw.read()
                assert isinstance(said, local.Challenge)
                challenge = Challenge(wrong, b"n" * NONCE_BYTES, said.nonce)
                await raw.send(local.Proof(challenge.client_proof()))
            await refused(raw)


@pytest.mark.parametrize("nonce", [None, b"", b"short", b"x" * 1_000])
async def test_without_a_nonce_of_its_own_nobody_is_let_in_over_tcp(nonce: bytes | None) -> None:
    async with one_node(api_port=0) as node, over_tcp(node) as raw:
        await raw.send(local.Greeting(PROTOCOL_VERSION, nonce, 1))
        await refused(raw)


async def test_a_proof_that_was_overheard_opens_nothing() -> None:
    async with one_node(api_port=0) as node:
        token, _ = token_of(node)
        async with over_tcp(node) as raw:
            overheard = (await challenged(raw, token)).client_proof()
            await raw.send(local.Proof(overheard))
            assert isinstance(await raw.read(), local.Welcome)
        async with over_tcp(node) as raw:
            await challenged(raw, token)
            await raw.send(local.Proof(overheard))
            await refused(raw)
        async with over_tcp(node) as raw:
            await raw.send(local.Proof(overheard))
            await refused(raw, "protocol-violation")
        async with over_tcp(node) as raw:
            await challenged(raw, token)
            await raw.send(local.Call(1, "info", {}))
            await refused(raw, "protocol-violation")
        async with over_tcp(node) as raw:
            await challenged(raw, token)
            await raw.send(local.Greeting(PROTOCOL_VERSION, b"n" * NONCE_BYTES, 1))
            await refused(raw, "protocol-violation")


async def test_readers_of_the_group_have_no_token_that_lets_them_write() -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    async with one_node(api_port=0, auth_group=group, others_read_only=True) as node:
        modes = {
            path.name.split(".", 1)[1]: path.stat().st_mode & 0o777
            for path in node.config.runtime_dir.glob("api-*")
        }
        assert modes == {"full.token": 0o600, "read-only.token": 0o640}
        token, _ = token_of(node, READ_ONLY)
        assert token.secret != token_of(node)[0].secret
        async with over_tcp(node) as raw:
            challenge = await challenged(raw, token)
            await raw.send(local.Proof(challenge.client_proof()))
            welcome = await raw.read()
            assert isinstance(welcome, local.Welcome)
            assert welcome.read_only
            for number, (method, params) in enumerate(WRITES, 1):
                failure = await raw.call(number, method, **params)
                assert isinstance(failure, local.Failure), method
                assert failure.code == "read-only-user", method
            assert isinstance(await raw.call(100, "info"), local.Answer)
        # Nor does the token count for a right that it is not for.
        async with over_tcp(node) as raw:
            await raw.send(local.Greeting(PROTOCOL_VERSION, b"n" * NONCE_BYTES, 1, FULL))
            said = await raw.read()
            assert isinstance(said, local.Challenge)
            taken = Token(token.secret, token.node, FULL)
            await raw.send(
                local.Proof(Challenge(taken, b"n" * NONCE_BYTES, said.nonce).client_proof())
            )
            await refused(raw)


@pytest.mark.parametrize(
    ("options", "modes"),
    [
        ({}, {"full": 0o600}),
        ({"auth_group": "GROUP"}, {"full": 0o640}),
        ({"others_read_only": True, "socket_mode": 0o666}, {"full": 0o600, "read-only": 0o644}),
        ({"others_read_only": True}, {"full": 0o600}),
        (
            {"others_read_only": True, "auth_group": "GROUP", "socket_mode": 0o666},
            {"full": 0o600, "read-only": 0o644},
        ),
    ],
)
async def test_a_token_file_is_for_those_who_may_use_the_socket(
    options: dict[str, object], modes: dict[str, int]
) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    given = {name: group if value == "GROUP" else value for name, value in options.items()}
    async with one_node(api_port=0, **given) as node:
        assert {
            path.name.split(".")[1]: path.stat().st_mode & 0o777
            for path in node.config.runtime_dir.glob("api-*")
        } == modes


async def test_tokens_that_a_killed_node_left_behind_are_removed() -> None:
    async with laboratory("A", channel=False) as lab:
        folder = lab["A"].config.runtime_dir
        await lab.stop("A")
        left = [folder / "api-1.full.token", folder / "api-20421.read-only.token"]
        for path in left:
            path.write_text("old")
        node = await lab.start("A", api_port=0)
        assert not any(path.exists() for path in left)
        assert token_of(node)


# --- before the greeting -------------------------------------------------------------------------


async def test_idle_tcp_connections_do_not_make_the_node_busy_for_its_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"MAX_LOCAL_CLIENTS": 20, "LOCAL_RESERVED_CLIENTS": 5}.items():
        monkeypatch.setattr(callers_module, name, value)
    async with one_node(api_port=0) as node, contextlib.AsyncExitStack() as stack:
        port = token_of(node)[1]
        for _ in range(MAX_LOCAL_UNGREETED + 20):
            sock = socket.create_connection(("127.0.0.1", port))
            stack.callback(sock.close)
        await until(lambda: len(node.api.connections) == MAX_LOCAL_UNGREETED)
        async with client(node) as own:
            assert isinstance(await own.call(1, "info"), local.Answer)
        async with over_tcp(node) as raw:
            await raw.send(local.Proof((await challenged(raw, token_of(node)[0])).client_proof()))
            assert isinstance(await raw.read(), local.Welcome)


async def test_who_does_not_greet_is_shown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers_module, "LOCAL_GREETING_SECONDS", 0.1)
    async with one_node(api_port=0) as node:
        async with client(node, greet=False) as silent, over_tcp(node) as slow:
            await slow.raw(b"\x00\x00")
            await refused(silent, "deadline-exceeded")
            await refused(slow, "deadline-exceeded")
        async with over_tcp(node) as stopped:
            await challenged(stopped, token_of(node)[0])
            await refused(stopped, "deadline-exceeded")


async def test_before_the_greeting_a_long_frame_is_refused_at_its_first_bytes() -> None:
    async with (
        one_node(api_port=0) as node,
        over_tcp(node) as raw,
        client(node, greet=False) as other,
    ):
        for each in (raw, other):
            await each.raw((MAX_LOCAL_GREETING + 1).to_bytes(4, "big"))
            assert await each.read() is None


async def test_a_node_out_of_descriptors_shows_out_who_has_not_greeted_and_warns() -> None:
    async with one_node(api_port=0) as node, over_tcp(node) as idle, client(node) as own:
        await until(lambda: len(node.api.connections) == 2)
        node.api._on_exhausted("out of descriptors")
        await refused(idle, "busy")
        assert isinstance(await own.call(1, "info"), local.Answer)
        assert any(text == "out of descriptors" for _, text in node.context.warnings)


# --- all clients together ------------------------------------------------------------------------


async def test_clients_that_do_not_read_have_a_bound_in_common(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget_module, "LOCAL_QUEUES_FAIR", 4 * MIB)
    monkeypatch.setattr(budget_module, "LOCAL_QUEUES_MOST", 32 * MIB)
    async with one_node() as node:
        budget, most = node.api.budget, 0
        sha1 = node.store.store_bytes(bytes(6 * MIB)).sha1
        async with contextlib.AsyncExitStack() as stack:
            lazy = [await stack.enter_async_context(client(node)) for _ in range(16)]
            for each in lazy:
                for number in range(1, 9):
                    await each.send(local.Call(number, "load_bytes", {"sha1": sha1}))
            held = list(node.api.connections)
            await until(lambda: all(each.socket.backed_up for each in held))
            most = max(most, budget.queued)
            assert budget.queued <= 4 * MIB + len(lazy) * 2 * LOCAL_PIECE
            brisk = await stack.enter_async_context(client(node))
            await brisk.send(local.Call(1, "load_bytes", {"sha1": sha1}))
            got = 0
            while got < 6 * MIB:
                got += len((await brisk.until(local.Chunk)).data)
            # Whoever begins to read gets all of it.
            got = 0
            while got < 8 * 6 * MIB:
                got += len((await lazy[0].until(local.Chunk)).data)
        await until(lambda: not node.api.connections)
        assert (budget.queued, budget.unfinished, len(budget.sockets)) == (0, 0, 0)


async def test_answers_that_wait_count_and_who_has_not_read_for_longest_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kachery_p2p.local.framed.LOCAL_QUEUE", 100_000)
    monkeypatch.setattr(budget_module, "LOCAL_QUEUES_MOST", 8 * MIB)
    async with one_node() as node:

        async def large(params: object, live: object) -> bytes:
            return bytes(1_000_000)

        calls = node.api.calls._calls
        kept = calls["info"]
        calls["info"] = (kept[0], large)
        async with client(node) as lazy, client(node) as other:
            for number in range(1, 30):
                await lazy.send(local.Call(number, "info", {}))
            await until(lambda: len(node.api.connections) == 1)
            assert node.api.budget.queued <= 8 * MIB
            assert isinstance(await other.call(1, "info"), local.Answer)
        calls["info"] = kept
        await until(lambda: not node.api.connections)
        assert node.api.budget.queued == 0


async def test_of_frames_that_are_begun_and_not_ended_the_oldest_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget_module, "LOCAL_UNFINISHED", 2 * MIB)
    async with one_node() as node, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(node)) for _ in range(5)]
        budget = node.api.budget
        for number, each in enumerate(clients[:3], 1):
            await each.raw((3 * MIB).to_bytes(4, "big") + bytes(600_000))
            await until(lambda number=number: budget.unfinished > number * 600_000)
        await clients[3].raw((3 * MIB).to_bytes(4, "big") + bytes(600_000))
        async with asyncio.timeout(patience(10)):
            while await clients[0].read() is not None:
                pass
        assert budget.unfinished <= 2 * MIB
        assert isinstance(await clients[4].call(1, "info"), local.Answer)
        assert len(node.api.connections) == 4


# --- the storage folder --------------------------------------------------------------------------


async def test_the_welcome_names_the_marker_of_the_folder() -> None:
    async with one_node() as node, client(node, greet=False) as raw:
        await raw.send(HI)
        welcome = await raw.read()
        assert isinstance(welcome, local.Welcome)
        marker = Path(welcome.storage_dir, "node-marker").read_text().strip()
        assert welcome.marker == marker
