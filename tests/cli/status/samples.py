"""A status with every kind of row, and with names that were chosen to do harm."""

from __future__ import annotations

from typing import Any

EVIL = "\x1b[2J[red]x[/red]\nnode  0000\u202e"
WIDE = "実験室" * 30
LONG = "a" * 80
NOW = 1_800_000_000.0
WARNING = (
    "Cannot reach ws://x: [bold]refused[/]\n\x1b[31m. " + "Check the network, then look again. " * 9
)


def link(node: str, label: str, via: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "node": node * 32,
        "label": label,
        "via": via and via * 32,
        "via_label": "hub" if via == "11" else "",
        "rtt": 0.0123,
        "sent": 1_000,
        "received": 2_000,
        "opened_at": 5.0,
        "channels": ["lab", EVIL],
        **more,
    }


def channel(name: str, granted: str, wanted: str, **more: Any) -> dict[str, Any]:
    lists = {"granted": granted.split(), "wanted": wanted.split()}
    return {
        "name": name,
        "id": "cd" * 32,
        "version": 3,
        "owner": False,
        "open": False,
        "member": True,
        **lists,
        "effective": sorted(set(lists["granted"]) & set(lists["wanted"])),
        "proxy": False,
        "members": 4,
        "online": 12,
        "names": ["hub", EVIL, WIDE],
        **more,
    }


def feed(size: int, **more: Any) -> dict[str, Any]:
    return {
        "feed": "fe" * 32,
        "feed_name": "",
        "subfeed": "5f" * 20,
        "name": None,
        "size": size,
        "own": False,
        "forked": False,
        "followed": False,
        "readers": 0,
        "local": 0,
        **more,
    }


def task(function: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "function": function,
        "type": "query",
        "state": state,
        "node": "",
        "label": "",
        "channel": "lab",
        "since": NOW - 75,
        "fraction": None,
        "message": "",
        "side": "requested",
        **more,
    }


def sample(**changes: Any) -> dict[str, Any]:
    lists: dict[str, Any] = {
        "channels": [
            channel(
                "lab", "provide-files request-files", "provide-files request-files", owner=True
            ),
            channel(EVIL, "provide-files request-tasks", "request-files request-tasks", open=True),
            channel("gone", "", "", member=False, names=[], online=0),
            channel(WIDE, "proxy", "proxy"),
        ],
        "links": [
            link("11", "hub"),
            link("22", EVIL, "11", sent=5_000_000),
            link("33", "", "44", rtt=None),
            link("55", WIDE),
            link("66", LONG, "11"),
        ],
        "bootstraps": [
            {"url": "ws://ok", "node": "11" * 32, "state": "connected", "error": "", "code": ""},
            {"url": "ws://x", "node": "77" * 32, "state": "connecting", "error": "", "code": ""},
            {
                "url": "ws://" + "long." * 30,
                "node": "88" * 32,
                "state": "waiting",
                "error": EVIL,
                "code": "unreachable",
            },
        ],
        "downloads": [
            {
                "sha1": "1a" * 20,
                "name": f"recording.dat{EVIL}",
                "size": 1 << 30,
                "verified": 1 << 28,
                "fetched": 1 << 28,
                "seconds": 3.0,
                "sources": [
                    {"node": "22" * 32, "label": EVIL, "via": "hub", "bytes": 1},
                    {"node": "33" * 32, "label": "", "via": None, "bytes": 1},
                ],
            },
            {
                "sha1": "2b" * 20,
                "name": "",
                "size": 0,
                "verified": 0,
                "fetched": 0,
                "seconds": 0.1,
                "sources": [],
            },
        ],
        "uploads": [
            {
                "sha1": "3c" * 20,
                "name": WIDE,
                "node": "22" * 32,
                "label": EVIL,
                "via_label": "hub",
                "channel": "lab",
                "size": 30_000_000,
                "sent": 5_000_000,
                "ranges": 2,
            }
        ],
        "feeds": [
            feed(12_345, name=EVIL, own=True, readers=1),
            feed(7, followed=True, readers=3, local=2),
            feed(7, name=WIDE),
            feed(7, forked=True),
        ],
        "tasks": [
            task(
                "spikesort.2", "running", node="22" * 32, label="b", fraction=0.4, message="fitting"
            ),
            task(EVIL, "no backend yet"),
            task(WIDE, "running", side="here", node="33" * 32, message=EVIL),
            task("own.1", "queued", side="here", node="99" * 32),
        ],
        "backends": [
            {"label": EVIL, "functions": ["a.1", WIDE], "offered": 12, "slots": 4, "busy": 1}
        ],
        "warnings": [
            {"at": NOW - 10, "text": WARNING},
            {"at": NOW - 20, "text": "another. Do something."},
            {"at": NOW - 200_000, "text": WARNING},
        ],
    }
    lists |= {name: value for name, value in changes.items() if name in lists}
    return {
        "now": 100.0,
        "node": {
            "id": "99" * 32,
            "label": EVIL,
            "version": "1.0",
            "protocol": 1,
            "pid": 5,
            "started_at": NOW - 90_061,
            "uptime": 90_061.0,
            "listening": "0.0.0.0:80",
            "urls": ["ws://here:80"],
        },
        "storage": {
            "dir": "/s",
            "used": 1 << 30,
            "blobs": 1_234,
            "links": 1,
            "free": 1 << 20,
            "size": 1 << 40,
            "limit": None,
        },
        "relay": {"circuits": 2, "bytes": 2_048},
        "served": 0,
        "rates": {"upload": None, "download": None},
        "totals": {name: len(rows) for name, rows in lists.items()},
        **lists,
        **{name: value for name, value in changes.items() if name not in lists},
    }


def empty(**changes: Any) -> dict[str, Any]:
    """A node that has just been started."""
    names = ("channels", "links", "bootstraps", "downloads", "uploads", "feeds", "tasks")
    fresh = sample(**{name: [] for name in (*names, "backends", "warnings")})
    storage = dict.fromkeys(("used", "limit", "blobs", "links", "free", "size"))
    fresh["storage"] = {"dir": "/s", **storage}
    fresh["relay"] = {"circuits": 0, "bytes": 0}
    fresh["node"] |= {"listening": None, "urls": []}
    return fresh | changes
