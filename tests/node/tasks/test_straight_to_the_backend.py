"""A task whose backend is known goes there at once; the backend looks whether there is a result."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.tasks import backends
from kachery_p2p.protocol.limits import SHORT_TASK_KWARGS
from tests.node.harness import laboratory, until
from tests.node.tasks.lab import Job, Request, backend
from tests.patience import patience


async def add(job: Job) -> Any:
    return job.kwargs["x"] + 1


async def length(job: Job) -> Any:
    return len(job.kwargs["x"])


PURE = {"add.1": ("pure-calculation", add)}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(who asks, what) of all links from now on."""
    seen: list[tuple[str, str]] = []
    for method in ("open", "request"):
        real = getattr(Link, method)

        def spy(self: Link, what: str, params: Any, *, real: Any = real, **more: Any) -> Any:
            seen.append((self._handler.context.label, what))  # type: ignore[attr-defined]
            return real(self, what, params, **more)

        monkeypatch.setattr(Link, method, spy)
    return seen


def of(asked: list[tuple[str, str]], who: str) -> list[str]:
    return [what for asker, what in asked if asker == who]


@pytest.mark.parametrize("type", ["query", "pure-calculation", "action"])
async def test_it_is_the_first_thing_that_is_asked(type: str, asked: list[tuple[str, str]]) -> None:
    async with laboratory() as lab, backend(lab, "A", {"add.1": (type, add)}):
        assert await Request(lab, "B", "add.1", {"x": 1}, type=type).value() == 2
        asked.clear()
        assert await Request(lab, "B", "add.1", {"x": 2}, type=type).value() == 3
        assert of(asked, "B") == ["task.run"]


async def test_a_result_that_another_node_holds_is_not_computed_again(
    asked: list[tuple[str, str]],
) -> None:
    async with laboratory("A", "B", "C") as lab:
        async with backend(lab, "C", PURE):
            assert await Request(lab, "C", "add.1", {"x": 1}).value() == 2
            await lab.announced("C")
        async with backend(lab, "A", PURE) as made:
            assert await Request(lab, "B", "add.1", {"x": 5}).value() == 6
            asked.clear()
            request = Request(lab, "B", "add.1", {"x": 1})
            ended = await request.end()
            assert (ended["cached"], ended["node"]) == (True, lab.id("C"))
            assert of(asked, "B") == ["task.run"]
            assert len(made.taken) == 1
            # The backend has it now, and need not look again.
            asked.clear()
            assert (await Request(lab, "C", "add.1", {"x": 5}).end())["cached"]


async def test_a_backend_that_may_not_look_is_looked_for(asked: list[tuple[str, str]]) -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        roles = {"A": "provide-tasks,provide-files", "B": "all", "C": "all"}
        await lab.channel("lab", roles, owner="C")
        async with backend(lab, "C", PURE):
            assert await Request(lab, "C", "add.1", {"x": 1}).value() == 2
            await lab.announced("C")
        async with backend(lab, "A", PURE) as made:
            assert await Request(lab, "B", "add.1", {"x": 5}).value() == 6
            assert (await Request(lab, "B", "add.1", {"x": 1}).end())["cached"]
            assert len(made.taken) == 1


async def test_one_that_is_asked_for_again_is_computed_again() -> None:
    async with laboratory() as lab, backend(lab, "A", PURE) as made:
        for count in (1, 2):
            ended = await Request(lab, "B", "add.1", {"x": 1}, cached=False).end()
            assert not ended["cached"]
            assert len(made.taken) == count


async def test_a_backend_that_was_withdrawn_is_not_insisted_on(
    asked: list[tuple[str, str]],
) -> None:
    async with laboratory("A", "B", "C") as lab:
        async with backend(lab, "A", PURE):
            assert await Request(lab, "B", "add.1", {"x": 1}).value() == 2
        async with backend(lab, "C", PURE):
            assert await Request(lab, "B", "add.1", {"x": 2}).value() == 3


async def test_who_is_known_is_looked_up_again_for_the_next_one(
    asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_RECENT_SECONDS", 0.0)
    async with laboratory("A", "B", "C") as lab, backend(lab, "A", PURE):
        assert await Request(lab, "B", "add.1", {"x": 1}).value() == 2
        async with backend(lab, "C", PURE):
            asked.clear()
            assert await Request(lab, "B", "add.1", {"x": 2}).value() == 3
            assert set(of(asked, "B")) == {"task.run", "who-has"}
            recent, where = lab["B"].task_backends._recent, ("add.1", lab.channels["lab"])
            both = {lab.id("A"), lab.id("C")}
            await until(lambda: {each.node for each in recent[where][1].holders} == both)


@pytest.mark.parametrize("size", [SHORT_TASK_KWARGS - 8, SHORT_TASK_KWARGS - 7, 200_000])
async def test_arguments_of_any_length_come_whole(size: int) -> None:
    async with laboratory() as lab, backend(lab, "A", {"len.1": ("query", length)}):
        request = Request(lab, "B", "len.1", {"x": "y" * size}, type="query")
        assert await request.value() == size


async def test_a_proxy_that_is_gone_does_not_keep_a_backend_from_computing() -> None:
    """The backend cannot look; the requester reaches it directly."""
    async with laboratory("A", "B", listening=("A",)) as lab, backend(lab, "A", PURE):
        assert await Request(lab, "B", "add.1", {"x": 1}).value() == 2
        direct = [link for link in lab["B"].network.links if link.peer == lab.id("A")]
        assert direct
        assert all(link.via is None for link in direct)
        await lab.stop("P")
        async with asyncio.timeout(patience(10)):
            assert await Request(lab, "B", "add.1", {"x": 2}).value() == 3
        await lab.start("P", listen="127.0.0.1:0", proxy=True)
