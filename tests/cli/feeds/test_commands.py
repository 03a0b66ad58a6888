"""Feeds from the shell."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from kachery_p2p.cli.feeds.messages import _ranges
from kachery_p2p.cli.feeds.show import describe
from kachery_p2p.cli.feeds.targets import parse_target
from kachery_p2p.protocol.errors import BadUri
from kachery_p2p.protocol.feeds.feed import subfeed_hash
from kachery_p2p.protocol.feeds.signed_message import check_signed_message
from tests import forked
from tests.daemons import Daemon, Lab
from tests.patience import patience

FEED_ID = "0123456789abcdef" * 4
SHA1 = "ab" * 20
EVIL = "\x1b[2J\nuri        feed://fake"


@pytest.fixture
def offline(short_folder: Any) -> Daemon:
    """The environment of a node that does not run, in offline mode."""
    daemon = Daemon(short_folder, "n")
    daemon.env["KACHERY_P2P_OFFLINE_STORAGE_DIR"] = str(short_folder / "s")
    return daemon


def snapshot(daemon: Daemon, messages: list[Any]) -> str:
    """The URI of the subfeed 'n' of a snapshot."""
    name = subfeed_hash("n").hex()
    content = {"subfeeds": {name: {"subfeedHash": name, "messages": messages}}}
    (daemon.home / "feed.json").write_text(json.dumps(content, separators=(",", ":")))
    return daemon.cli("store", "feed.json").stdout.strip() + "?subfeedName=n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("myfeed", ("myfeed", None)),
        ("myfeed/primes", ("myfeed", "primes")),
        ("myfeed/a/b", ("myfeed", "a/b")),
        (FEED_ID, (f"feed://{FEED_ID}", None)),
        (f"{FEED_ID}/primes", (f"feed://{FEED_ID}", "primes")),
        (f"feed://{FEED_ID}", (f"feed://{FEED_ID}", None)),
        (f"FEED://{FEED_ID.upper()}/a%20b", (f"feed://{FEED_ID}", "a b")),
        (f"sha1://{SHA1}/feed.json", (f"sha1://{SHA1}/feed.json", None)),
        (f"sha1://{SHA1}/f.json?manifest={SHA1}&subfeedName=a%2Fb",
         (f"sha1://{SHA1}/f.json?manifest={SHA1}", "a/b")),
    ],
)  # fmt: skip
def test_a_feed_is_named_by_uri_id_or_its_own_name(text: str, found: Any) -> None:
    assert parse_target(text) == found


@pytest.mark.parametrize("text", ["http://x", "feed://12", f"{FEED_ID}/~12", f"sha1dir://{SHA1}"])
def test_a_wrong_uri_is_no_name(text: str) -> None:
    with pytest.raises(BadUri):
        parse_target(text)


def test_numbers_are_shown_as_stretches() -> None:
    assert list(_ranges([])) == []
    assert list(_ranges([7])) == [(7, 1)]
    assert list(_ranges([0, 1, 2, 5, 9, 10])) == [(0, 3), (5, 1), (9, 2)]


# --- show ----------------------------------------------------------------------------------------


def sample() -> dict[str, Any]:
    head = {"size": 5, "root": "cd" * 32, "timestamp": 0}
    return {
        "uri": f"feed://{FEED_ID}",
        "feed_id": FEED_ID,
        "name": EVIL,
        "writeable": False,
        "snapshot": False,
        "created": 0.0,
        "subfeeds": [
            info(EVIL, 1, 0, forked=True),
            info(None, 2_000_000, 1_000_000),
            info("empty", 0, 0, timestamp=None),
            info("later", 7, 7, timestamp=10**18),
        ],
        "holders": [
            {"node": "11" * 32, "label": EVIL, "owner": True, "size": 20_000, "route": EVIL},
            {"node": "22" * 32, "label": "", "owner": False, "size": None, "route": "direct"},
        ],
        "followers": 2,
        "fork": {"first": head, "second": {**head, "size": 7}},
        "decision": {**head, "size": 3},
        "detail": EVIL,
    }


def info(
    name: str | None, size: int, base: int, *, timestamp: int | None = 0, forked: bool = False
) -> dict[str, Any]:
    return {
        "uri": "feed://x",
        "name": name,
        "hash": SHA1,
        "base": base,
        "size": size,
        "timestamp": timestamp,
        "forked": forked,
        "channels": ["lab"],
    }


def test_show_says_it_in_words_and_nobody_can_fake_a_line() -> None:
    lines = describe(sample())
    assert all(line.isprintable() for line in lines)
    assert sum(line.startswith("uri ") for line in lines) == 1
    text = "\n".join(lines)
    for part in (
        "not on this node", "2 nodes now", "1 message ", "2,000,000 messages", "from 1000000 on here",
        "all here", "none here", f"~{SHA1}", "1970-01-01 00:00:00 UTC", "owner", "mirror",
        "20,000 messages", "size unknown", "FORKED", "5 messages with root cdcd", "7 messages",
        "kachery-p2p feed resolve", "decided for the history with 3 messages",
    ):  # fmt: skip
        assert part in text, part


def test_a_feed_that_nobody_has_is_shown_too() -> None:
    nothing = {
        "subfeeds": [], "holders": [], "fork": None, "decision": None, "created": None, "detail": "",
    }  # fmt: skip
    lines = describe(sample() | nothing)
    assert "subfeed    none known here" in lines
    absent = ("fork", "decision", "holder", "asked", "created")
    assert not [line for line in lines if line.startswith(absent)]


# --- without a node ------------------------------------------------------------------------------


def test_a_snapshot_is_printed_as_json_lines_of_ascii(offline: Daemon) -> None:
    messages = [{"p": 2}, "é\x1b\u009b\u2028", None, [1.5, {}]]
    uri = snapshot(offline, messages)
    done = offline.cli("feed", "tail", uri)
    assert done.stdout.isascii()
    assert [json.loads(line) for line in done.stdout.splitlines()] == messages
    assert done.stdout.splitlines()[0] == '{"p":2}'
    assert (offline.cli("feed", "tail", "-f", uri).stdout) == done.stdout, "it ends"
    for arguments, wanted in (
        (("--from", "3"), messages[3:]),
        (("--from", "9"), []),
        (("-n", "2"), messages[2:]),
        (("-n", "0"), []),
        (("-n", "9"), messages),
    ):
        shown = offline.cli("feed", "tail", uri, *arguments).stdout.splitlines()
        assert [json.loads(line) for line in shown] == wanted


def test_a_snapshot_is_shown_and_taken_again(offline: Daemon) -> None:
    uri = snapshot(offline, [1, 2, 3])
    file = uri.partition("?")[0]
    shown = offline.cli("feed", "show", file).stdout
    assert "it never changes" in shown
    assert "3 messages" in shown
    assert json.loads(offline.cli("feed", "show", uri, "--json").stdout)["subfeeds"][0]["size"] == 3
    for target in (uri, file):
        assert offline.cli("feed", "snapshot", target).stdout.strip() == file
    assert json.loads(offline.cli("feed", "snapshot", file, "n", "--json").stdout) == {"uri": file}


def test_what_needs_a_node_says_so(offline: Daemon) -> None:
    uri = f"feed://{FEED_ID}"
    for arguments in (
        ("create",), ("list",), ("show", uri), ("append", f"{uri}/x", "1"), ("tail", "myfeed/x"),
        ("snapshot", "myfeed", "x"), ("grant", f"{uri}/x", "ab" * 32), ("delete", "myfeed"),
        ("resolve", f"{uri}/x"),
    ):  # fmt: skip
        done = offline.cli("feed", *arguments, check=False)
        assert (done.returncode, done.stdout) == (3, ""), arguments
        assert "offline mode" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("tail", "myfeed"), "names no subfeed"),
        (("append", "myfeed", "1"), "names no subfeed"),
        (("grant", "myfeed", "ab" * 32), "names no subfeed"),
        (("delete", "myfeed/primes"), "only a whole feed"),
        (("tail", "myfeed/x", "--from", "1", "-n", "1"), "either --from or -n"),
        (("show", "http://x"), "unknown scheme"),
    ],
)
def test_a_wrong_target_is_2(offline: Daemon, arguments: tuple[str, ...], complaint: str) -> None:
    done = offline.cli("feed", *arguments, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("messages", "stdin", "complaint"),
    [
        (("hello",), None, "message 'hello': it is not JSON"),
        (("1", "{"), None, "message '{'"),
        ((), "1\n\n2\nthree\n", "line 4 of standard input: it is not JSON"),
        (("-",), "{}\n\x00\n", "line 2 of standard input"),
    ],
)
def test_what_is_not_json_is_refused_and_named(
    offline: Daemon, messages: tuple[str, ...], stdin: str | None, complaint: str
) -> None:
    uri = snapshot(offline, [])
    done = offline.cli("feed", "append", uri, *messages, stdin=stdin, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_line_without_end_is_refused_before_it_is_kept(offline: Daemon) -> None:
    uri = snapshot(offline, [])
    done = offline.cli("feed", "append", uri, stdin="1" * 9_000_000, check=False)
    assert done.returncode == 2
    assert "more than 8000000 bytes" in done.stderr


def test_tail_ends_quietly_when_its_reader_goes_away(offline: Daemon) -> None:
    uri = snapshot(offline, ["x" * 100_000] * 20)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = forked.run(
            [sys.executable, "-m", "kachery_p2p.cli", "feed", "tail", uri],
            env=offline.env,
            stdout=writer,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


# --- with nodes ----------------------------------------------------------------------------------


def lines_of(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


@contextlib.contextmanager
def running(daemon: Daemon, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on, with pipes; it is ended if the test did not do that."""
    process = forked.Popen(
        [sys.executable, "-m", "kachery_p2p.cli", *arguments],
        env=daemon.env,
        cwd=daemon.home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.processes
def test_a_feed_from_its_making_to_its_deletion(node: Daemon) -> None:
    assert node.cli("feed", "list").stdout == ""
    uri = node.cli("feed", "create", "myfeed").stdout.strip()
    assert json.loads(node.cli("feed", "create", "--json").stdout)["name"] is None
    assert node.cli("feed", "create", "myfeed", check=False).returncode == 2
    assert node.cli("feed", "append", "myfeed/n", '{"p": 2}', "-5").stdout == "0-1\n"
    added = json.loads(node.cli("feed", "append", f"{uri}/n", '"é"', "--json").stdout)
    assert added == {"uri": f"{uri}/n", "first": 2, "count": 1}
    for target in ("myfeed/n", f"{uri}/n", uri.removeprefix("feed://") + "/n"):
        assert lines_of(node.cli("feed", "tail", target).stdout) == [{"p": 2}, -5, "é"]
    assert lines_of(node.cli("feed", "tail", "myfeed/n", "-n", "1").stdout) == ["é"]
    assert lines_of(node.cli("feed", "tail", "myfeed/n", "--from", "1").stdout) == [-5, "é"]
    assert node.cli("feed", "tail", "myfeed/empty").stdout == ""
    for each in lines_of(node.cli("feed", "tail", "myfeed/n", "--signed").stdout):
        check_signed_message(each, f"{uri}/n")
    shown = node.cli("feed", "show", "myfeed").stdout
    assert "on this node, which appends" in shown
    assert "n  3 messages  all here" in shown
    assert json.loads(node.cli("feed", "show", "myfeed/n", "--json").stdout)["fork"] is None
    (row,) = [line for line in node.cli("feed", "list").stdout.splitlines() if "myfeed" in line]
    assert row.split()[:2] == ["myfeed", uri]
    assert "key here 1 subfeed 3 messages" in " ".join(row.split())
    taken = node.cli("feed", "snapshot", "myfeed").stdout.strip()
    assert lines_of(node.cli("feed", "tail", f"{taken}?subfeedName=n").stdout) == [
        {"p": 2},
        -5,
        "é",
    ]
    friend = "ab" * 32
    assert node.cli("feed", "grant", "myfeed/n", friend).stdout == f"{friend}  -\n"
    assert node.cli("feed", "grant", "myfeed/n", friend, "--revoke").stdout == ""
    done = node.cli("feed", "resolve", "myfeed/n")
    assert (done.stdout, done.stderr) == ("", "There was no fork.\n")
    assert node.cli("feed", "resolve", "myfeed").stdout == ""
    refused = node.cli("feed", "delete", "myfeed", check=False)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert node.cli("feed", "delete", "myfeed", "--force").stdout == f"deleted {uri}\n"
    for verb in ("show", "delete"):
        assert node.cli("feed", verb, "myfeed", check=False).returncode == 8
    assert node.cli("feed", "delete", uri, check=False).returncode == 8


@pytest.mark.processes
def test_lines_are_appended_as_they_come(node: Daemon) -> None:
    node.cli("feed", "create", "f")
    with running(node, "feed", "append", "f/n", "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(f'\n{{"number": {number}}}\n')
            process.stdin.flush()
            assert process.stdout.readline() == f"{number}\n"
        process.stdin.write('"no newline at the end"')
        out, err = process.communicate(timeout=patience(30))
    assert (process.returncode, out, err) == (0, "3\n", "")
    many = "".join(f"{number}\n" for number in range(20_000))
    done = node.cli("feed", "append", "f/many", stdin=many)
    assert done.stdout.splitlines()[-1].endswith("-19999")
    assert lines_of(node.cli("feed", "tail", "f/many").stdout) == list(range(20_000))
    # What came before the line that is wrong is kept, and said.
    done = node.cli("feed", "append", "f/bad", stdin=many + "oops\n", check=False)
    assert done.returncode == 2
    assert "line 20001 of standard input" in done.stderr
    kept = lines_of(node.cli("feed", "tail", "f/bad").stdout)
    assert kept == list(range(len(kept)))
    shown = [int(line.rpartition("-")[2]) for line in done.stdout.splitlines()]
    assert len(kept) == (shown[-1] + 1 if shown else 0)


@pytest.mark.processes
def test_tail_f_prints_what_comes_and_ctrl_c_ends_it_quietly(node: Daemon) -> None:
    node.cli("feed", "create", "f")
    node.cli("feed", "append", "f/n", "0")
    with running(node, "feed", "tail", "-f", "f/n") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        for number in range(1, 4):
            node.cli("feed", "append", "f/n", str(number))
            assert process.stdout.readline() == f"{number}\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=patience(30))
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.processes
def test_tail_f_notices_that_its_reader_is_gone_without_any_message(node: Daemon) -> None:
    node.cli("feed", "create", "f")
    node.cli("feed", "append", "f/n", "0")
    with running(node, "feed", "tail", "-f", "f/n") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.wait(timeout=patience(30)) == 141
        assert process.stderr.read() == ""


@pytest.mark.processes
def test_another_node_follows_and_submits(lab: Lab) -> None:
    uri = lab.a.cli("feed", "create", "f").stdout.strip()
    lab.a.cli("feed", "append", "f/n", "0")
    with running(lab.b, "feed", "tail", "-f", f"{uri}/n") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        lab.a.cli("feed", "append", "f/n", "1")
        assert process.stdout.readline() == "1\n"
        refused = lab.b.cli("feed", "append", f"{uri}/n", "2", check=False)
        assert refused.returncode == 5
        refused = lab.b.cli("feed", "append", "--submit", f"{uri}/n", "2", check=False)
        assert refused.returncode == 5
        assert "feed grant" in refused.stderr
        unknown = lab.a.cli("feed", "grant", "f/n", "nobody", check=False)
        assert (unknown.returncode, "it is not a member" in unknown.stderr) == (2, True)
        assert lab.a.cli("feed", "grant", "f/n", "b").stdout == f"{lab.b.node_id}  b\n"
        assert lab.b.cli("feed", "append", "--submit", f"{uri}/n", "2", "3").stdout == "2-3\n"
        assert [process.stdout.readline() for _ in range(2)] == ["2\n", "3\n"]
        shown = lab.b.cli("feed", "show", f"{uri}/n").stdout
        assert "not on this node" in shown
        (holder,) = [line for line in shown.splitlines() if line.startswith("holder")]
        for part in (lab.a.node_id, "owner", "4 messages", "relayed"):
            assert part in holder
        assert "1 node now" in lab.a.cli("feed", "show", "f/n").stdout


def test_a_feed_whose_name_has_slashes_is_found_by_it(node: Daemon) -> None:
    uri = node.cli("feed", "create", "lab/2026 a/x").stdout.strip()
    for subfeed in ("y", "y/z"):
        target = f"lab/2026 a/x/{subfeed}"
        node.cli("feed", "append", target, '{"a": 1}')
        assert json.loads(node.cli("feed", "tail", target).stdout) == {"a": 1}
    assert "lab/2026 a/x" in node.cli("feed", "show", "lab/2026 a/x").stdout
    done = node.cli("feed", "append", "lab/2026 a", "{}", check=False)
    assert (done.returncode, "'lab'" in done.stderr) == (8, True)
    node.cli("feed", "delete", uri, "--force")
