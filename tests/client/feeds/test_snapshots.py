"""Snapshots of feeds: files that are read like feeds, and never change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kachery_p2p as kc
from kachery_p2p.protocol import errors
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.feeds.feed import subfeed_hash
from kachery_p2p.protocol.limits import MAX_URI

PRIMES = subfeed_hash("primes").hex()


def store_snapshot(subfeeds: dict[str, list[Any]]) -> str:
    """As kachery's users have theirs."""
    hashes = {subfeed_hash(name).hex(): messages for name, messages in subfeeds.items()}
    described = {key: {"subfeedHash": key, "messages": m} for key, m in hashes.items()}
    return kc.store_json({"subfeeds": described}, basename="feed.json")


@pytest.mark.parametrize(
    "name",
    ["a/b", "é ü?#&=", "~" + PRIMES, {"b": 1, "a": [None]}, 5, "x" * 1_000, "é" * 900],
    ids=lambda name: repr(name)[:20],
)
def test_the_uri_of_its_subfeed_leads_back_to_it(name: Any, folder: Path) -> None:
    uri = store_snapshot({f"~{subfeed_hash(name).hex()}": [1, 2]})
    subfeed = kc.load_feed(uri).load_subfeed(name)
    assert subfeed.uri.startswith(f"{uri}?subfeedName=")
    assert len(subfeed.uri) <= MAX_URI
    assert kc.load_subfeed(subfeed.uri).get_next_messages() == [1, 2]
    assert kc.load_subfeed(subfeed.uri).uri == subfeed.uri


def test_a_snapshot_is_read_like_a_feed(folder: Path) -> None:
    messages = [{"p": p} for p in (2, 3, 5, 7, 11)]
    uri = store_snapshot({"primes": messages, "empty": []})
    feed = kc.load_feed(uri, timeout_sec=5)
    assert (feed.uri, feed.is_snapshot, feed.is_writeable) == (uri, True, False)
    assert repr(feed) == f"<Feed {uri} (snapshot)>"
    subfeed = feed.load_subfeed("primes")
    assert subfeed.is_snapshot
    assert subfeed.get_num_local_messages() == subfeed.get_num_messages() == 5
    assert subfeed.get_next_message() == {"p": 2}
    assert subfeed.get_next_messages(max_num_messages=2, advance_position=False) == messages[1:3]
    assert subfeed.get_next_message(advance_position=False) == {"p": 3}
    assert subfeed.get_next_messages(max_num_messages=2) == messages[1:3]
    assert subfeed.position == 3
    assert subfeed.get_next_messages() == messages[3:]
    assert subfeed.get_next_messages() == []
    assert subfeed.get_next_message() is None
    assert subfeed.position == 5
    subfeed.set_position(4)
    assert list(subfeed.message_stream()) == messages[4:]
    assert list(feed.load_subfeed("empty").message_stream()) == []


def test_a_stream_moves_the_position_with_each_message(folder: Path) -> None:
    subfeed = kc.load_feed(store_snapshot({"n": list(range(10))})).load_subfeed("n", 2)
    stream = subfeed.message_stream()
    assert (next(stream), subfeed.position) == (2, 3)
    subfeed.set_position(7)
    assert (next(stream), subfeed.position) == (7, 8)
    assert list(stream) == [8, 9]


async def test_the_async_stream_does_the_same(folder: Path) -> None:
    feed = await kc.aload_feed(store_snapshot({"n": list(range(10))}))
    subfeed = feed.load_subfeed("n")
    found = []
    async for message in subfeed.amessages():
        found.append(message)
        assert subfeed.position == message + 1
        if message == 3:
            subfeed.set_position(8)
    assert found == [0, 1, 2, 3, 8, 9]


def test_what_a_reader_does_to_a_message_does_not_change_the_snapshot(folder: Path) -> None:
    subfeed = kc.load_feed(store_snapshot({"n": [{"a": [1]}]})).load_subfeed("n")
    subfeed.get_next_message(advance_position=False)["a"].append(2)
    assert subfeed.get_next_message() == {"a": [1]}


def test_a_snapshot_of_a_snapshot_is_the_same_file(folder: Path) -> None:
    feed = kc.load_feed(store_snapshot({"a": [1], "b": [2, "é"]}))
    again = feed.create_snapshot(["a", "b"])
    assert again.uri == feed.uri
    assert again.is_snapshot
    fewer = feed.create_snapshot(["b"])
    assert kc.load_feed(fewer.uri).load_subfeed("b").get_next_messages() == [2, "é"]
    lacking = fewer.load_subfeed("a")
    assert lacking.get_next_messages() == []
    assert lacking.get_num_messages() == 0
    with pytest.raises(BadInput, match="no subfeed 'a'"):
        lacking.get_next_messages(strict=True)
    with pytest.raises(BadInput, match="subfeed_names: a str; give a list"):
        feed.create_snapshot("ab")


def test_print_messages_prints_all_whatever_the_position(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subfeed = kc.load_feed(store_snapshot({"n": [1, {"a": "\x1b"}]})).load_subfeed("n", 2)
    subfeed.print_messages()
    assert capsys.readouterr().out == '1\n{"a": "\\u001b"}\n'
    assert subfeed.position == 2


def test_a_snapshot_cannot_be_changed(folder: Path) -> None:
    feed = kc.load_feed(store_snapshot({"n": [1]}))
    subfeed = feed.load_subfeed("n")
    node = "ab" * 32
    refused = [
        lambda: subfeed.append_message(1),
        lambda: subfeed.append_messages([1]),
        lambda: subfeed.submit_message(1),
        lambda: subfeed.submit_messages([1]),
        lambda: subfeed.grant_write_access(node_id=node),
        lambda: subfeed.revoke_write_access(node_id=node),
        lambda: subfeed.set_access_rules({"rules": []}),
        lambda: subfeed.get_access_rules(),
        lambda: subfeed.resolve_fork(),
        lambda: subfeed.get_next_messages(signed=True),
        lambda: feed.delete(),
        lambda: feed.feed_id,
    ]
    for call in refused:
        with pytest.raises(BadInput, match="snapshot"):
            call()
    assert subfeed.get_next_messages() == [1]


def test_a_snapshot_that_nobody_has_is_not_found(folder: Path) -> None:
    with pytest.raises(errors.NotFound, match="offline mode"):
        kc.load_feed("sha1://" + "0" * 40)
    with pytest.raises(errors.NotFound):
        kc.load_subfeed("sha1://" + "0" * 40 + "/feed.json?subfeedName=x")


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"subfeeds": []},
        {"subfeeds": {"x": {"messages": []}}},
        {"subfeeds": {PRIMES: []}},
        {"subfeeds": {PRIMES: {"subfeedHash": PRIMES, "messages": {}}}},
        {"subfeeds": {PRIMES.upper(): {"messages": []}}},
    ],
)
def test_a_file_that_is_no_snapshot_is_refused(content: Any, folder: Path) -> None:
    with pytest.raises(BadInput, match="no snapshot"):
        kc.load_feed(kc.store_json(content))


def test_a_file_that_is_not_even_json_is_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match="not JSON"):
        kc.load_feed(kc.store_text("{"))


def test_what_a_snapshot_holds_is_shown(folder: Path) -> None:
    feed = kc.load_feed(store_snapshot({"primes": [2, 3], "empty": []}))
    shown = feed.show()
    assert {each["hash"]: each["size"] for each in shown["subfeeds"]} == {
        PRIMES: 2,
        subfeed_hash("empty").hex(): 0,
    }
    assert json.loads(json.dumps(shown)) == shown
    (only,) = feed.show("primes")["subfeeds"]
    assert (only["name"], only["hash"], only["size"]) == ("primes", PRIMES, 2)
