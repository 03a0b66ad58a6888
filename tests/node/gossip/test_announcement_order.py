"""The place of an announcement says nothing of what it stands for."""

from __future__ import annotations

import asyncio
import hashlib

from kachery_p2p.node.node import Node
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.gossip.announcements import MARK, PROVIDE, unpack_entries
from kachery_p2p.storage.paths import path_of
from tests.node.gossip.test_complete_up_to_here import scans_held_up
from tests.node.harness import Lab, laboratory, until


def copy_in(lab: Lab, name: str, count: int) -> list[str]:
    found = []
    for number in range(count):
        data = b"file %d" % number
        sha1 = hashlib.sha1(data).hexdigest()
        path = path_of(lab.root / name / "storage", sha1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        found.append(sha1)
    return found


def announced(proxy: Node, origin: Node, channel: bytes) -> list[bytes]:
    """The keys in the order in which a proxy sees them."""
    index, me = proxy.availability.index, origin.context.key.public
    keys: list[bytes] = []
    for batch in index.after(channel, me, (-1, 0), 1 << 30):
        entries = list(unpack_entries(batch.entries))
        keys = keys[: batch.start - 1] + [k if op == PROVIDE else b"" for op, k in entries]
        assert {op for op, _ in entries} <= {PROVIDE, MARK}
    return [key for key in keys if key]


async def test_a_proxy_cannot_match_two_channels_or_two_secrets_by_the_order() -> None:
    """By place, in 3,000 of 3,000 cases."""
    async with laboratory("A", "B", "C", channel=False) as lab:
        hashes = copy_in(lab, "A", 300)
        one = await lab.channel("one", {"A": "all", "B": "all"})
        two = await lab.channel("two", {"A": "all", "C": "all"})
        await lab.announced("A", "one")
        await lab.announced("A", "two")
        seen = [announced(lab["P"], lab["A"], channel) for channel in (one, two)]
        await lab.call("A", "channel.remove-node", channel="one", node=lab.id("B"))
        await until(lambda: lab["P"].network.version_of(one) == lab["A"].network.version_of(one))
        await lab.announced("A", "one")
        seen.append(announced(lab["P"], lab["A"], one))
        for keys in seen:
            assert len(keys) == len(hashes)
            assert keys == sorted(keys)
        assert len(set(seen[0]) | set(seen[1]) | set(seen[2])) == 3 * len(hashes)


async def test_what_is_announced_together_as_it_comes_is_in_the_order_of_its_keys() -> None:
    async with laboratory("A", "B") as lab:
        await lab.announced("A")
        await asyncio.gather(*(lab.store("A", b"%d" % n, tell=None) for n in range(20)))
        await lab.announced("A")
        index, me = lab["P"].availability.index, lab["A"].context.key.public
        for batch in index.after(lab.channels["lab"], me, (-1, 0), 1 << 30):
            assert batch.count
        own = lab["A"].announcer.log(lab.channels["lab"])
        assert own is not None
        assert own.live == 20


async def test_on_several_channels_a_node_does_not_speak_at_the_same_moment() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        one = await lab.channel("one", {"A": "all", "B": "all"})
        two = await lab.channel("two", {"A": "all", "C": "all"})
        await lab.announced("A", "one")
        await lab.announced("A", "two")
        announcer = lab["A"].announcer
        sha1, _ = await lab.store("A", b"alone", tell=None)
        when = {channel: timer.when() for channel, timer in announcer._timers.items()}
        assert len({*when.values()}) == len(when) == 2
        await lab.announced("A", "one")
        await lab.announced("A", "two")
        # Where a thing was stored for one channel, nobody waits longer than on a single one.
        now = asyncio.get_running_loop().time()
        await lab.store("A", b"for one", channel="one", tell=None)
        assert announcer._timers[one].when() < now + 0.5
        assert announcer._timers[one].when() <= announcer._timers[two].when()
        await lab.load("B", sha1)


async def test_what_comes_and_goes_during_a_comparison_ends_as_it_is() -> None:
    async with laboratory("A", "B") as lab:
        channel, announcer = lab.channels["lab"], lab["A"].announcer
        kept, _ = await lab.store("A", b"removed, then stored again")
        (late,) = copy_in(lab, "A", 1)
        path, aside = path_of(lab["A"].store.root, kept), lab.root / "aside"
        with scans_held_up(lab, "A") as scan:
            path.rename(aside)
            announcer.on_change(channel)
            await until(scan.passed.is_set, "one file was not there, the other was")
            aside.rename(path)
            path_of(lab["A"].store.root, late).unlink()
            announcer.withdraw(file_key(kept))
            announcer.provide(file_key(kept))
            announcer.withdraw(file_key(late))
            scan.set()
        await lab.announced("A")
        secret, own = lab["A"].context.book.secret(channel), announcer.log(channel)
        assert secret is not None
        assert own is not None
        assert file_key(kept).blinded(secret[1]) in own
        assert file_key(late).blinded(secret[1]) not in own
