"""What 'info' shows, on a terminal and in a pipe."""

from __future__ import annotations

from typing import Any

import pytest

from kachery_p2p.cli.info import _draw, _facts, _lines, _tables
from tests.daemons import Lab

EVIL = "\x1b[2J[red]x[/red]\nnode id     0000"


def sample() -> dict[str, Any]:
    return {
        "node_id": "ab" * 32,
        "label": EVIL,
        "version": "1",
        "protocol": 1,
        "pid": 5,
        "uptime": 90_061.0,
        "storage_dir": "/s",
        "storage_used": 1_500,
        "max_storage": 3_000_000,
        "state_dir": "/t",
        "socket": "/r/node.sock",
        "listening": None,
        "urls": [],
        "channels": [
            {
                "name": EVIL,
                "id": "cd" * 32,
                "effective": ["request-files"],
                "granted": ["request-files"],
                "wanted": [],
                "member": True,
            }
        ],
        "links": [
            link("11" * 32, "hub", None, 0.0123),
            link("22" * 32, EVIL, "11" * 32, None),
            link("33" * 32, "", "44" * 32, None),
        ],
        "bootstraps": [
            {"url": "ws://x", "node": "11" * 32, "state": "waiting", "error": EVIL, "code": "x"}
        ],
        "circuits": 2,
        "relayed_bytes": 2048,
        "served_bytes": 0,
        "rates": {"upload": None, "download": 10_000_000},
        "announced": {"lab": 3},
        "warnings": [{"at": 0.0, "text": EVIL}],
    }


def link(node: str, label: str, via: str | None, rtt: float | None) -> dict[str, Any]:
    return {
        "node": node,
        "label": label,
        "via": via,
        "rtt": rtt,
        "sent": 1,
        "received": 2,
        "channels": ["lab"],
    }


def test_lines_say_route_and_round_trip_and_nobody_can_fake_one() -> None:
    lines = _lines(_facts(sample()), _tables(sample()))
    assert all(line.isprintable() for line in lines)
    assert sum(line.startswith("node id") for line in lines) == 1
    text = "\n".join(lines)
    for part in ("direct", "12 ms", "via hub", "via 44444444", "1 d 1 h", "2.0 kB", "waiting"):
        assert part in text


def test_empty_tables_are_said_to_be_empty() -> None:
    info = sample() | {"channels": [], "links": [], "bootstraps": [], "warnings": []}
    lines = _lines(_facts(info), _tables(info))
    for title in ("channels", "links", "bootstraps", "warnings"):
        assert f"{title}: none" in lines


def test_the_terminal_shows_the_same_and_takes_nothing_for_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    _draw(_facts(sample()), _tables(sample()))
    drawn = capsys.readouterr().out
    assert "\x1b[2J" not in drawn
    assert "[red]x[/red]" in drawn
    for part in ("ab" * 32, "via hub", "12 ms", "ws://x"):
        assert part in drawn


@pytest.mark.processes
def test_info_names_the_channel_its_roles_and_the_proxy(lab: Lab) -> None:
    info = lab.b.info()
    assert [channel["name"] for channel in info["channels"]] == ["lab"]
    assert [bootstrap["url"] for bootstrap in info["bootstraps"]] == [lab.proxy.url]
    shown = lab.b.cli("info").stdout
    for part in (lab.b.node_id, "lab", "all", lab.proxy.url):
        assert part in shown
