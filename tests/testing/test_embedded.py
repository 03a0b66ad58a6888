"""Nodes inside an asyncio program."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import kachery_p2p as kc
from kachery_p2p.protocol.errors import BadInput, DaemonNotRunning, KacheryError
from kachery_p2p.testing.gossip import until


async def is_there(uri: str) -> bool:
    return await kc.aload_text(uri) is not None


async def test_two_nodes_of_one_program_share_a_file() -> None:
    async with (
        kc.Node(label="one", listen="127.0.0.1:0", proxy=True) as one,
        kc.Node(label="two") as two,
    ):
        document = await one.create_channel("lab", open=True, default_roles="all", roles="all")
        await two.join(document)
        with one.as_current():
            uri = await kc.astore_text("some text")
        with two.as_current():
            # What was stored is announced a moment later.
            assert await until(lambda: is_there(uri), 15)
            assert await kc.aload_text(uri) == "some text"
        assert (await two.info())["label"] == "two"
        assert one.url is not None
        assert two.url is None


async def test_a_member_is_added_by_its_id() -> None:
    async with kc.Node(listen="127.0.0.1:0", proxy=True) as one, kc.Node() as two:
        await one.create_channel("lab")
        shown = await one.add_node("lab", two.node_id, label="two", roles="request-files")
        assert shown["name"] == "lab"
        with one.as_current():
            document = await kc.achannel_export("lab")
        joined = await two.join(document)
        assert joined["effective"] == ["request-files"]


async def test_tasks_side_by_side_each_talk_to_their_own_node() -> None:
    async with kc.Node() as one, kc.Node() as two:

        async def who(node: kc.Node) -> list[str]:
            found = []
            with node.as_current():
                for _ in range(20):
                    found.append(await kc.aget_node_id())
                    await asyncio.sleep(0)
            return found

        ones, twos = await asyncio.gather(who(one), who(two))
        assert set(ones) == {one.node_id}
        assert set(twos) == {two.node_id}


async def test_blocks_inside_blocks() -> None:
    async with kc.Node() as one, kc.Node() as two:
        with one.as_current():
            with two.as_current():
                assert await kc.aget_node_id() == two.node_id
            assert await kc.aget_node_id() == one.node_id


async def test_the_environment_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KACHERY_P2P_OFFLINE_STORAGE_DIR", str(tmp_path / "offline"))
    monkeypatch.setenv("KACHERY_STORAGE_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("KACHERY_P2P_API_PORT", "1")
    async with kc.Node(storage_dir=tmp_path / "mine") as node:
        with node.as_current():
            uri = await kc.astore_text("some text")
            path = await kc.aload_file(uri)
        assert path is not None
        assert Path(path).is_relative_to(tmp_path / "mine")
        assert not (tmp_path / "offline").exists()
        # Outside the block it counts again.
        offline = await kc.astore_text("another text")
        with node.as_current():
            assert await kc.aload_text(offline, local_only=True) is None


async def test_a_sync_call_that_could_never_end_says_so() -> None:
    async with kc.Node() as node:
        with node.as_current():
            with pytest.raises(RuntimeError, match="await astore_text"):
                kc.store_text("some text")
            uri = await asyncio.to_thread(kc.store_text, "some text")
            assert await kc.aload_text(uri) == "some text"


async def test_with_a_state_folder_it_is_the_same_node_again(tmp_path: Path) -> None:
    folders = {"state_dir": tmp_path / "state", "storage_dir": tmp_path / "storage"}
    async with kc.Node(**folders) as node:  # type: ignore[arg-type]
        first = node.node_id
        with node.as_current():
            uri = await kc.astore_text("some text")
    async with kc.Node(**folders) as node:  # type: ignore[arg-type]
        assert node.node_id == first
        with node.as_current():
            assert await kc.aload_text(uri, local_only=True) == "some text"
    async with kc.Node() as node:
        assert node.node_id != first


async def test_one_object_starts_again_after_it_was_stopped() -> None:
    node = kc.Node(label="again")
    for _ in range(2):
        async with node:
            assert node.running
            with node.as_current():
                assert await kc.aget_node_id() == node.node_id
        assert not node.running


async def test_it_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with kc.Node(listen="127.0.0.1:0", proxy=True) as node:
        with node.as_current():
            await kc.astore_text("some text")
        assert list(tmp_path.iterdir()) or node.socket.exists()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with kc.Node(listen="127.0.0.1:0", proxy=True) as node:
            with node.as_current():
                await kc.astore_text("some text")
            socket = node.socket
        assert not socket.parent.exists()
    assert list(tmp_path.iterdir()) == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await asyncio.sleep(0)  # the client sees that its node has gone
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_start_that_fails_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with kc.Node(storage_dir=tmp_path / "storage"):
        temporary = tmp_path / "t"
        temporary.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        other = kc.Node(storage_dir=tmp_path / "storage")
        with pytest.raises(KacheryError, match="storage"):
            await other.start()
        assert list(temporary.iterdir()) == []
        assert not other.running


async def test_whoever_is_told_to_stop_it_wakes_its_program() -> None:
    async with kc.Node() as node:
        waiting = asyncio.create_task(node.wait_stopping())
        with node.as_current():
            await kc.astop_node()
        await asyncio.wait_for(waiting, 10)


async def test_before_and_after_it_runs_it_says_so() -> None:
    node = kc.Node(label="me")
    for ask in (lambda: node.node_id, lambda: node.url, node.as_current):
        with pytest.raises(DaemonNotRunning, match="async with"):
            ask()
    await node.stop()
    assert "not running" in repr(node)
    async with node:
        assert node.node_id[:8] in repr(node)
        with pytest.raises(BadInput, match="runs already"):
            await node.start()


async def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(BadInput, match="listen"):
        kc.Node(proxy=True)
    async with kc.Node() as node:
        with pytest.raises(BadInput, match="bootstraps"):
            await node.create_channel("lab")
