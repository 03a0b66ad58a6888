"""What a link held goes with it.

Python counts who refers to what; only what refers to itself in a circle stays until somebody looks for
circles, which a busy node does seldom. Errors make such circles: they lead to the frames that they
passed through, and these to all that was under way there.
"""

from __future__ import annotations

import asyncio
import gc
import types
import weakref
from collections.abc import Iterator

import pytest

from kachery_p2p.node.parties import Party
from kachery_p2p.node.turns import Turns
from kachery_p2p.protocol.errors import LinkClosed
from kachery_p2p.protocol.links.frames import Open, Request
from tests.node.harness import laboratory, until
from tests.node.links.raw import rogue
from tests.node.links.test_greedy_peers import BIG, held, read


@pytest.fixture
def circles() -> Iterator[list[object]]:
    """Nobody looks for circles; what is found in the end, if the test looks, is in the list."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


OURS = ("Link", "Serving", "Turns", "Relay", "Stream", "Network", "Visit")


class Load:
    """Something that was under way."""


@pytest.mark.usefixtures("circles")
@pytest.mark.parametrize("waits", [True, False])
async def test_what_metered_work_held_goes_when_it_is_cancelled(waits: bool) -> None:
    turns = Turns()
    seen: list[weakref.ref[Load]] = []
    begun = asyncio.Event()

    async def work() -> None:
        load = Load()
        seen.append(weakref.ref(load))
        begun.set()
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(turns.metered(lambda: Party("somebody"), work, every_step=waits))
    await begun.wait()
    task.cancel()
    await asyncio.wait({task})
    del task
    assert seen[0]() is None


@pytest.mark.parametrize(
    "what", ["reads", "documents", "answers", "circuits", "cut circuits", "nothing"]
)
async def test_a_link_with_much_under_way_goes_when_it_ends(
    what: str, circles: list[object]
) -> None:
    async with laboratory("A", "B", "C", listening=("A",)) as lab:
        at = "P" if "circuits" in what else "A"
        sha1, _ = await lab.store("A", bytes(BIG))
        links = lab[at].network.links
        before = {id(link) for link in links}
        async with rogue(lab[at].listening, lab["C"].context.key) as peer:
            peer.channel = lab.channels["lab"]
            await peer.hello(lab["C"].context.book)
            await until(lambda: len(links) > len(before), "the link")
            link = weakref.ref(next(each for each in links if id(each) not in before))
            channel = {"channel": peer.channel}
            for number in range(1, 101, 2):
                match what:
                    case "reads":
                        await peer.send(read(peer, number, sha1))
                    case "documents":
                        await peer.send(Open(number, "channel.document", channel, 1 << 30))
                    case "answers":
                        params = channel | {"sha1": bytes.fromhex(sha1)}
                        await peer.send(Request(number, "file.open", params))
                    case "circuits" | "cut circuits":
                        target = channel | {"node": bytes.fromhex(lab.id("B"))}
                        await peer.send(Open(number, "circuit", target, 1 << 30))
            if what in ("reads", "circuits", "cut circuits"):
                await until(lambda: held(lab, at)[1], "something is under way")
            if what == "cut circuits":
                await until(lambda: len(lab["P"].relay) > 5, "circuits")
                for each in lab["P"].network.links_to(lab.id("B"), peer.channel):
                    each.close(LinkClosed(peer="B", reason="it goes"), at_once=True)
                await until(lambda: not len(lab["P"].relay), "they end")
        await until(lambda: held(lab, at) == (0, 0, 0), "all is given back")
        await until(lambda: link() is None, "the link goes")
        gc.collect()
        frames = [each.f_code.co_qualname for each in circles if type(each) is types.FrameType]
        assert not [name for name in frames if name.startswith(OURS)]


async def test_each_who_waits_has_an_error_of_its_own() -> None:
    async with laboratory("A", "B", listening=("A",)) as lab:
        await lab.linked("B", "lab")
        link = lab["B"].network.proxies_on(lab.channels["lab"])[0]
        streams = [link.open("channel.document", {"channel": bytes(20)}) for _ in range(3)]
        link.close(LinkClosed(peer="P", reason="a test ends it"))
        await link.closed.wait()
        errors = []
        for stream in streams * 2:
            with pytest.raises(LinkClosed) as caught:
                await stream.receive()
            errors.append(caught.value)
        assert len({id(error) for error in errors}) == len(errors)
        assert link.closed_by is not None
        assert link.closed_by.__traceback__ is None
