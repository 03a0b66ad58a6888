"""What is known of a feed, as plain JSON: hashes in hex, and the URI of every subfeed."""

from __future__ import annotations

from typing import Any

from kachery_p2p.protocol.feeds.feed import feed_uri, subfeed_text

from .snapshots import Snapshot


def described(answer: dict[str, Any]) -> dict[str, Any]:
    """What the node says of a feed, as plain JSON."""
    feed = answer["feed"]
    subfeeds: list[dict[str, Any]] = []
    for each in answer["subfeeds"]:
        label = f"~{each['subfeed'].hex()}" if each["name"] is None else each["name"]
        others = {key: each[key] for key in ("base", "size", "timestamp", "forked", "channels")}
        named = {"uri": feed_uri(feed, label), "name": each["name"], "hash": each["subfeed"].hex()}
        subfeeds.append({**named, **others})
    return {
        "uri": feed_uri(feed),
        "feed_id": feed.hex(),
        "name": answer["name"],
        "writeable": answer["writable"],
        "snapshot": False,
        "created": answer.get("created"),
        "subfeeds": subfeeds,
    }


def described_snapshot(snapshot: Snapshot, subfeed_name: Any = None) -> dict[str, Any]:
    """A snapshot in the same form, or one subfeed of it. Raises BadInput if that is not in it."""
    wanted = None if subfeed_name is None else snapshot.log(subfeed_name).subfeed.hex()
    subfeeds: list[dict[str, Any]] = [
        {
            "uri": snapshot.log(f"~{name}").uri,
            "name": subfeed_text(subfeed_name) if name == wanted else None,
            "hash": name,
            "base": 0,
            "size": size,
            "timestamp": None,
            "forked": False,
            "channels": [],
        }
        for name, size in snapshot.sizes.items()
        if wanted in (None, name)
    ]
    return {
        "uri": snapshot.uri,
        "feed_id": None,
        "name": None,
        "writeable": False,
        "snapshot": True,
        "created": None,
        "subfeeds": subfeeds,
        "holders": [],
        "followers": 0,
        "fork": None,
        "decision": None,
        "detail": "",
    }
