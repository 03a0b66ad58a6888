"""Files between real nodes over loopback: every size, every route, and what goes wrong."""

from __future__ import annotations

import json

import pytest

from kachery_p2p.protocol.errors import (
    AccessDenied,
    LinkClosed,
    NotFound,
)
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.protocol.limits import INLINE_FILE, MANIFEST_CHUNK
from tests.node.files.contents import BIG, content, range_of
from tests.node.harness import laboratory, until

# --- every size and every kind of manifest ----------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, INLINE_FILE, INLINE_FILE + 1, 100_000, MANIFEST_CHUNK])
async def test_a_file_without_a_manifest_arrives_through_the_proxy(size: int) -> None:
    async with laboratory() as lab:
        data = content(size)
        sha1, manifest = await lab.store("A", data)
        assert manifest is None
        result = await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == data
        assert result["size"] == result["verified"] == result["fetched"] == size
        [source] = result["sources"]
        assert (source["label"], source["via"], source["bytes"]) == ("A", "P", size)
        again = await lab.load("B", sha1)
        assert again["fetched"] == 0


async def test_a_big_file_arrives_through_the_proxy_with_its_tree() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        assert manifest is not None
        result = await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data
        assert result["fetched"] == BIG
        assert Manifest.parse(lab.bytes_of("B", manifest)).tree is not None
        assert lab["P"].relay.relayed_bytes > BIG
        assert lab.bytes_of("P", sha1) == b""


async def test_a_big_file_arrives_without_being_given_its_manifest() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, _ = await lab.store("A", data)
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == data


async def test_a_big_file_arrives_by_a_manifest_of_old_without_a_tree() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        assert manifest is not None
        fields = json.loads(lab.bytes_of("A", manifest))
        del fields["tree"]
        old, _ = await lab.store("A", json.dumps(fields).encode())
        await lab.load("B", sha1, old)
        assert lab.bytes_of("B", sha1) == data


async def test_a_big_file_arrives_when_nobody_has_the_manifest_that_its_uri_names() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, _ = await lab.store("A", data)
        await lab.load("B", sha1, "ab" * 20)
        assert lab.bytes_of("B", sha1) == data


async def test_a_range_of_it_arrives_as_well() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, _ = await lab.store("A", data)
        assert await range_of(lab, "B", sha1, "ab" * 20, 100, 200) == data[100:200]


async def test_a_file_that_was_loaded_can_be_loaded_from_who_loaded_it() -> None:
    async with laboratory("A", "B", "C") as lab:
        data = content(100_000)
        sha1, _ = await lab.store("A", data)
        await lab.load("B", sha1)
        await lab.announced("B")
        await lab.stop("A")
        result = await lab.load("C", sha1)
        assert [source["label"] for source in result["sources"]] == ["B"]
        assert lab.bytes_of("C", sha1) == data


async def test_a_leaf_that_listens_is_read_from_directly() -> None:
    async with laboratory(listening=("A",)) as lab:
        data = content(1_000_000)
        sha1, _ = await lab.store("A", data)
        result = await lab.load("B", sha1)
        [source] = result["sources"]
        assert source["via"] is None
        assert lab["P"].relay.relayed_bytes == 0
        assert lab.bytes_of("B", sha1) == data


async def test_an_address_that_does_not_answer_only_means_the_proxy() -> None:
    async with laboratory(listening=("A",)) as lab:
        lab["A"].context.urls[:] = ["ws://127.0.0.1:9"]
        lab["A"].network.reconsider_all()
        for link in list(lab["A"].network.links):
            link.close(LinkClosed(peer="test", reason="so that it greets anew"))
        data = content(50_000)
        await until(lambda: not lab["A"].network.links)
        await lab.linked("A", "lab")
        sha1, _ = await lab.store("A", data)
        result = await lab.load("B", sha1)
        assert [source["via"] for source in result["sources"]] == ["P"]


# --- channels keep things apart ---------------------------------------------------------------


async def test_what_was_fetched_on_one_channel_is_not_served_on_another() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
        two = await lab.channel("two", {"B": "all", "C": "all"}, owner="B")
        data = content(50_000)
        sha1, _ = await lab.store("A", data, tell="one")
        await lab.load("B", sha1)
        await lab.announced("B", "one")
        await lab.announced("B", "two")
        error = await lab.error("C", sha1)
        assert isinstance(error, NotFound)
        # Nor when asked outright, past the index.
        link = await lab["C"].reach.to(lab.id("B"), two)
        with pytest.raises(NotFound):
            await link.request("file.open", {"channel": two, "sha1": bytes.fromhex(sha1)})
        stream = link.open("file.read", {"channel": two, "sha1": bytes.fromhex(sha1),
                                         "ranges": [(0, 10)], "proofs": False})  # fmt: skip
        with pytest.raises(NotFound):
            await stream.receive()
        # Once its user stores it, it is theirs to give.
        await lab.store("B", data, tell="two")
        await lab.load("C", sha1)


async def test_what_was_stored_for_one_channel_is_served_there_only() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
        await lab.channel("two", {"A": "all", "C": "all"}, owner="A")
        data = content(1_000)
        sha1, _ = await lab.store("A", data, channel="one", tell="one")
        await lab.announced("A", "two")
        assert isinstance(await lab.error("C", sha1), NotFound)
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == data


# --- roles ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granted", "wanted", "who", "role", "cause"),
    [
        ({"B": "provide-files"}, {}, "requester B", "request-files", "not granted"),
        ({}, {"B": "provide-files"}, "requester B", "request-files", "switched off"),
        ({"A": "request-files"}, {}, "provider every other member", "provide-files", "not granted"),
        ({}, {"A": "request-files"}, "provider A", "provide-files", "switched off"),
    ],
    ids=["requester not granted", "requester off", "provider not granted", "provider off"],
)
async def test_a_missing_role_is_denied_and_the_side_named(
    granted: dict[str, str], wanted: dict[str, str], who: str, role: str, cause: str
) -> None:
    async with laboratory(channel=False) as lab:
        await lab.channel("lab", {"A": "all", "B": "all"} | granted, wanted=wanted)
        sha1, _ = await lab.store("A", content(100))
        error = await lab.error("B", sha1)
        assert isinstance(error, AccessDenied)
        assert error.fields["role"] == role
        assert error.fields["who"] == who
        assert cause in error.fields["cause"]
        assert lab.bytes_of("B", sha1) == b""


async def test_a_provider_checks_the_requesters_role_itself() -> None:
    async with laboratory(channel=False) as lab:
        key = await lab.channel("lab", {"A": "all", "B": "provide-files"})
        data = content(100)
        sha1, _ = await lab.store("A", data)
        link = await lab["B"].reach.to(lab.id("A"), key)
        with pytest.raises(AccessDenied) as caught:
            await link.request("file.open", {"channel": key, "sha1": bytes.fromhex(sha1)})
        assert caught.value.fields["who"] == "requester B"
