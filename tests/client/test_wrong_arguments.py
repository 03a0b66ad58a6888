"""What is handed in by mistake is refused by an error of ours that names the argument, and numpy's text
and numbers count as such."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_p2p as kc
from kachery_p2p.protocol.errors import BadInput, KacheryError
from kachery_p2p.testing import Network

FEED = kc.Feed(bytes(range(32)), is_writeable=True)
LOG = FEED.load_subfeed("name")
NO_LIST = [None, 7, np.int64(7), 1.5, True, object(), Path("/nowhere"), len]
NO_TEXT = [None, 7, np.int64(7), b"text", object(), Path("/nowhere"), ["a"], {"a": 1}]

CALLS: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
    "subfeed_names": (FEED.create_snapshot, [*NO_LIST, "a name", b"a name"]),
    "messages": (LOG.append_messages, [*NO_LIST, "a message", {"a": 1}]),
    "messages ": (LOG.submit_messages, NO_LIST),
    "by itself": (lambda value: list(kc.store_many(value)), [*NO_LIST, "/a/path", b"/a/path"]),
    "by itself ": (lambda value: list(kc.load_many(value)), [*NO_LIST, "sha1://..."]),
    "subfeed_watches": (
        lambda value: kc.watch_for_new_messages(value, wait_msec=0),
        [*NO_LIST, "text", ["a"], {1}],
    ),
    "ignore": (lambda value: kc.store_dir(".", ignore=value), [*NO_LIST, b"*.tmp"]),
    "label": (lambda value: kc.store_dir(".", label=value), NO_TEXT[1:]),
    "title": (lambda value: kc.view_url(".", title=value), NO_TEXT),
    "append": (lambda value: kc.view_url(".", append=value), NO_LIST),
    "tasks": (lambda value: kc.view_url(".", tasks=value), NO_LIST),
    "script": (kc.ShellScript, NO_TEXT),
    "origins": (kc.set_origins, [*NO_LIST, "s3://one"]),
    "archives": (lambda value: kc.set_origins([], archives=value), [*NO_LIST, "s3://one"]),
    "origin or archive": (lambda value: kc.archive(to=value), [7, 1.5, object(), ["a"]]),
    "access rules": (LOG.set_access_rules, [None, 7, np.int64(7), "\udcff", {"\udcff": 1}]),
    "subfeed name": (FEED.load_subfeed, [None, b"name", float("nan"), object(), {1}, "", "\udcff"]),
    "channel": (lambda value: FEED.load_subfeed("s", channel=value), [*NO_TEXT[1:], np.arange(3)]),
    "a Feed": (kc.Feed, [None, 7, "feed://...", Path("/nowhere")]),
}


@pytest.mark.parametrize("what", CALLS)
def test_it_is_named_and_nothing_is_asked(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    call, values = CALLS[what]
    for value in values:
        with pytest.raises(BadInput) as raised:
            call(value)
        assert what.strip() in str(raised.value), value


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    with Network(1) as network, network["A"].at():
        yield


@pytest.mark.usefixtures("node")
def test_what_only_the_node_refuses_is_named_as_well() -> None:
    for value in [7, 1.5, b"lab", object(), "\udcff", Path("lab"), ["lab"], 10**30]:
        with pytest.raises(BadInput) as raised:
            kc.store_text("text", channel=value)  # type: ignore[arg-type]
        assert str(raised.value).startswith("channel: ")
        assert "_Store" not in str(raised.value)
    for value in [7, b"lab", ["lab"]]:
        with pytest.raises(
            BadInput, match=r"^channel: expected str, got (int|bytes|list) \(channel"
        ):
            kc.channel_show(value)  # type: ignore[arg-type]


@pytest.mark.usefixtures("node")
def test_numpys_text_and_numbers_are_text_and_numbers() -> None:
    for name in np.array(["left", "right"]):
        feed = kc.create_feed(name)
        assert kc.load_feed(name).uri == feed.uri
        subfeed = feed.load_subfeed(name, channel=np.str_("lab"))
        subfeed.append_message(name)
        assert subfeed.get_next_messages(signed=1) == feed.load_subfeed(
            str(name)
        ).get_next_messages(signed=True)  # type: ignore[arg-type]
        assert kc.set(name, name)
        assert kc.get(str(name)) == name
    for number in np.arange(2):
        assert feed.load_subfeed(number).uri == feed.load_subfeed(int(number)).uri
        feed.load_subfeed(number).append_message(number)
        assert feed.load_subfeed(int(number)).get_next_messages() == [number]
    assert kc.load_text(kc.store_text("text", channel=np.str_("lab"))) == "text"


def test_an_error_does_not_say_all_of_what_is_too_long() -> None:
    with pytest.raises(KacheryError) as raised:
        kc.load_text("x" * 100_000)
    assert len(str(raised.value)) < 3_000
    assert raised.value.fields["path"] == "x" * 100_000
