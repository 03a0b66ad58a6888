"""What the dashboard says, as words: the cells of its tables, made of a node's status.

Pure: a status, and the one before it for the rates, in; :class:`~.cells.Section` values out. How
they are drawn is in :mod:`.view`. Names from other computers are made harmless here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from kachery_p2p.cli.channels.commands import roles_text
from kachery_p2p.cli.info import duration
from kachery_p2p.cli.output import clean, delay_text, rates_text, size_text

from .cells import Cell, Column, Rates, Row, Section, plural, rate_text, short

_DAY: Final = 86_400.0
_URLS: Final = 3
"""Addresses of the node that are shown."""


def facts(status: Row, rates: Rates) -> list[tuple[str, Cell]]:
    """The node itself, as (name, what)."""
    node, storage = status["node"], status["storage"]
    label = clean(node["label"]) or "-"
    found = [
        ("node", Cell(f"{label} {short(node['id'])}")),
        ("version", Cell(f"{node['version']}, up {duration(node['uptime'])}")),
        ("storage", _storage(storage)),
        ("traffic", Cell(_traffic(status, rates))),
    ]
    if any(status["rates"].values()):
        found.append(("limits", Cell(rates_text(status["rates"]))))
    if node["urls"] or node["listening"]:
        where = ", ".join(map(clean, node["urls"][:_URLS])) or f"port of {clean(node['listening'])}"
        found.append(("reached at", Cell(where)))
    else:
        found.append(("reached at", Cell("no address of its own; links go out from here")))
    if status["relay"]["circuits"] or status["relay"]["bytes"]:
        relay = status["relay"]
        circuits = plural(relay["circuits"], "circuit")
        found.append(("relays", Cell(f"{circuits}, {size_text(relay['bytes'])} so far")))
    if not status["channels"]:
        found.append(("next", Cell("join a channel: kachery-p2p channel join, or channel create")))
    return found


def _storage(storage: Row) -> Cell:
    if storage["used"] is None:
        return Cell("is being measured")
    text = f"{size_text(storage['used'])} in {plural(storage['blobs'], 'file')}"
    if storage["links"]:
        text += f", {plural(storage['links'], 'link')}"
    if storage["limit"]:
        text += f"; {size_text(storage['limit'])} at most"
    text += f"; {size_text(storage['free'])} free"
    tight = storage["free"] < storage["size"] / 20
    return Cell(text, "warning" if tight else "plain")


def _traffic(status: Row, rates: Rates) -> str:
    up, down = (rates.total(status["links"], what) for what in ("sent", "received"))
    served = size_text(status["served"])
    return f"up {rate_text(up)}, down {rate_text(down)}; {served} of files served"


def sections(status: Row, rates: Rates, now: float) -> list[Section]:
    """All that there is to tell, empty sections too. ``now`` is Unix time, for ages."""
    made: list[Section] = []
    for make in (
        _channels, _links, _broken, _downloads, _uploads, _feeds, _tasks, _backends, _warnings
    ):  # fmt: skip
        made.append(make(status, rates, now))
    return made


# --- channels and links --------------------------------------------------------------------------


def _channels(status: Row, rates: Rates, now: float) -> Section:
    columns = (
        Column("CHANNEL", flexible=True),
        Column("OWN ROLES", flexible=True, wraps=True),
        Column("MEMBERS", least=44, right=True),
        Column("ONLINE", least=58, flexible=True),
    )
    rows = [
        (
            Cell(clean(each["name"]) + (" (owner)" if each["owner"] else "")),
            _roles(each),
            Cell(("open, " if each["open"] else "") + str(each["members"])),
            _online(each),
        )
        for each in status["channels"]
    ]
    return Section("Channels", columns, rows, status["totals"]["channels"], "left")


def _roles(channel: Row) -> Cell:
    """What counts, and what of it is missing on which side."""
    if not channel["member"]:
        return Cell("not a member", "bad")
    granted, wanted = set(channel["granted"]), set(channel["wanted"])
    parts = [_roles_text(channel["effective"])]
    if granted - wanted:
        parts.append(f"switched off: {_roles_text(granted - wanted)}")
    if wanted - granted:
        parts.append(f"not granted: {_roles_text(wanted - granted)}")
    return Cell("; ".join(parts), "good" if len(parts) == 1 else "warning")


def _roles_text(roles: Iterable[str]) -> str:
    """With spaces, at which it can be broken."""
    return clean(roles_text(sorted(roles))).replace(",", ", ")


def _online(channel: Row) -> Cell:
    names = ", ".join(map(clean, channel["names"]))
    more = channel["online"] - len(channel["names"])
    if more > 0:
        names += f" and {more} more"
    return Cell(names, "plain") if names else Cell("nobody", "warning")


def _links(status: Row, rates: Rates, now: float) -> Section:
    columns = (
        Column("LINK TO", flexible=True),
        Column("ID", least=56),
        Column("ROUTE", flexible=True),
        Column("RTT", right=True),
        Column("UP", least=48, right=True),
        Column("DOWN", least=40, right=True),
        Column("SENT", least=96, right=True),
        Column("RECEIVED", least=96, right=True),
        Column("CHANNELS", least=108, flexible=True),
    )
    rows = [
        (
            Cell(clean(link["label"]) or "-"),
            Cell(short(link["node"])),
            _route(link),
            Cell("-" if link["rtt"] is None else delay_text(link["rtt"])),
            Cell(rate_text(rates.link(link, "sent"))),
            Cell(rate_text(rates.link(link, "received"))),
            Cell(size_text(link["sent"])),
            Cell(size_text(link["received"])),
            Cell(", ".join(map(clean, link["channels"]))),
        )
        for link in status["links"]
    ]
    return Section("Links", columns, rows, status["totals"]["links"], "left")


def _route(link: Row) -> Cell:
    if link["via"] is None:
        return Cell("direct", "good")
    return Cell(f"via {clean(link['via_label']) or short(link['via'])}")


def _broken(status: Row, rates: Rates, now: float) -> Section:
    columns = (
        Column("BOOTSTRAP", flexible=True, wraps=True),
        Column("ID", least=56),
        Column("WHY", flexible=True, wraps=True),
    )
    rows = [
        (Cell(clean(each["url"])), Cell(short(each["node"])), _why(each))
        for each in status["bootstraps"]
        if each["state"] != "connected"
    ]
    return Section("Not connected", columns, rows, len(rows), "left", expected=False)


def _why(bootstrap: Row) -> Cell:
    """In a word: the sentence is among the warnings."""
    if not bootstrap["code"]:
        return Cell("connecting ...", "warning")
    return Cell(f"{clean(bootstrap['code'])}; it is tried again", "bad")


# --- files ---------------------------------------------------------------------------------------


def _downloads(status: Row, rates: Rates, now: float) -> Section:
    columns = (
        Column("FILE", flexible=True),
        Column("SHA1", least=100),
        Column("", least=60, bar=True),
        Column("DONE", right=True),
        Column("SIZE", least=40, right=True),
        Column("RATE", right=True),
        Column("LEFT", least=50, right=True),
        Column("FROM", least=70, flexible=True),
    )
    rows = []
    for each in status["downloads"]:
        size, done = each["size"], each["verified"]
        part = min(1.0, done / size) if size else 0.0
        rate = rates.download(each)
        left = duration((size - done) / rate) if size and rate else "-"
        rows.append(
            (
                _file(each),
                Cell(short(each["sha1"])),
                Cell("", part=part),
                Cell(f"{part:.0%}" if size else "looking"),
                Cell(size_text(size) if size else "-"),
                Cell(rate_text(rate)),
                Cell(left),
                Cell(_sources(each["sources"])),
            )
        )
    return Section("Downloads", columns, rows, status["totals"]["downloads"], "right")


def _file(moving: Row) -> Cell:
    """What it is called here, if somebody here has called it anything."""
    return Cell(clean(moving["name"]) or short(moving["sha1"]))


def _sources(sources: Iterable[Row]) -> str:
    return ", ".join(
        (clean(each["label"]) or short(each["node"]))
        + (f" via {clean(each['via'])}" if each["via"] else "")
        for each in sources
    )


def _uploads(status: Row, rates: Rates, now: float) -> Section:
    columns = (
        Column("FILE", flexible=True),
        Column("SHA1", least=100),
        Column("TO", flexible=True),
        Column("SIZE", least=40, right=True),
        Column("RATE", right=True),
        Column("SENT", least=88, right=True),
        Column("ROUTE", least=50, flexible=True),
        Column("CHANNEL", least=70, flexible=True),
    )
    rows = [
        (
            _file(each),
            Cell(short(each["sha1"])),
            Cell(clean(each["label"]) or short(each["node"])),
            Cell(size_text(each["size"]) if each["size"] else "-"),
            Cell(rate_text(rates.upload(each))),
            Cell(size_text(each["sent"])),
            Cell(f"via {clean(each['via_label'])}" if each["via_label"] else "direct"),
            Cell(clean(each["channel"])),
        )
        for each in status["uploads"]
    ]
    return Section("Uploads", columns, rows, status["totals"]["uploads"], "right")


# --- feeds and tasks -----------------------------------------------------------------------------


def _feeds(status: Row, rates: Rates, now: float) -> Section:
    columns = (
        Column("FEED", flexible=True),
        Column("SUBFEED", flexible=True),
        Column("MESSAGES", right=True),
        Column("HERE", least=40),
        Column("READERS", least=50, flexible=True),
    )
    rows = [
        (
            Cell(clean(each["feed_name"]) or short(each["feed"])),
            Cell(clean(each["name"] or short(each["subfeed"]))),
            Cell(f"{each['size']:,}"),
            _held(each),
            Cell(_readers(each)),
        )
        for each in status["feeds"]
    ]
    return Section("Feeds", columns, rows, status["totals"]["feeds"], "right")


def _held(feed: Row) -> Cell:
    if feed["forked"]:
        return Cell("forked", "bad")
    if feed["own"]:
        return Cell("own", "good")
    return Cell("followed", "good") if feed["followed"] else Cell("copy")


def _readers(feed: Row) -> str:
    parts = []
    if feed["readers"]:
        parts.append(plural(feed["readers"], "node"))
    if feed["local"]:
        parts.append(f"{feed['local']} here")
    return ", ".join(parts) or "-"


_TONES = {
    "running": "good", "finished": "good", "failed": "bad", "unknown": "bad",
    "no backend yet": "warning",
}  # fmt: skip


def _tasks(status: Row, rates: Rates, now: float) -> Section:
    columns = (
        Column("TASK", flexible=True),
        Column("STATE"),
        Column("WHERE", least=40, flexible=True),
        Column("FOR", least=50, right=True),
        Column("TYPE", least=88),
        Column("CHANNEL", least=76, flexible=True),
        Column("STEP", least=96, flexible=True),
    )
    names = {link["node"]: clean(link["label"]) for link in status["links"]}
    rows = [
        (
            Cell(clean(each["function"])),
            Cell(_state(each), _TONES.get(each["state"], "plain")),
            Cell(_where(each, names, status["node"]["id"])),
            Cell(duration(max(0.0, now - each["since"]))),
            Cell(clean(each["type"])),
            Cell(clean(each["channel"])),
            Cell(clean(each["message"])),
        )
        for each in status["tasks"]
    ]
    running = sum(each["state"] == "running" for each in status["tasks"])
    note = f"{running} running, {status['totals']['tasks'] - running} waiting" if rows else ""
    return Section("Tasks", columns, rows, status["totals"]["tasks"], "right", note)


def _state(task: Row) -> str:
    done = "" if task["fraction"] is None else f" {task['fraction']:.0%}"
    return f"{clean(task['state'])}{done}"


def _where(task: Row, names: dict[str, str], own: str) -> str:
    if task["side"] == "requested":
        return f"on {clean(task['label']) or short(task['node'])}" if task["node"] else "-"
    if task["node"] == own:
        return "here"
    return f"here, for {names.get(task['node']) or short(task['node'])}"


def _backends(status: Row, rates: Rates, now: float) -> Section:
    columns = (
        Column("BACKEND", flexible=True),
        Column("BUSY", right=True),
        Column("FUNCTIONS", least=40, flexible=True),
    )
    rows = [
        (
            Cell(clean(each["label"]) or "-"),
            Cell(f"{each['busy']} of {each['slots']}"),
            Cell(_functions(each)),
        )
        for each in status["backends"]
    ]
    return Section("Backends", columns, rows, status["totals"]["backends"], "right", expected=False)


def _functions(backend: Row) -> str:
    names = ", ".join(map(clean, backend["functions"]))
    more = backend["offered"] - len(backend["functions"])
    return f"{names} and {more} more" if more > 0 else names


# --- warnings ------------------------------------------------------------------------------------


def _warnings(status: Row, rates: Rates, now: float) -> Section:
    columns = (Column("WHEN"), Column("WHAT, AND WHAT TO DO", wraps=True, flexible=True))
    times: Counter[str] = Counter(clean(each["text"].strip()) for each in status["warnings"])
    newest: dict[str, float] = {}
    for each in status["warnings"]:
        text = clean(each["text"].strip())
        newest[text] = max(each["at"], newest.get(text, each["at"]))
    rows = [
        (
            Cell(_when(at, now)),
            Cell(text + (f" ({times[text]} times)" if times[text] > 1 else ""), "warning"),
        )
        for text, at in newest.items()
    ]
    unsent = status["totals"]["warnings"] - len(status["warnings"])
    return Section("Warnings", columns, rows, len(rows) + unsent, "below")


def _when(at: float, now: float) -> str:
    moment = datetime.fromtimestamp(at).astimezone()
    return f"{moment:%T}" if abs(now - at) < _DAY else f"{moment:%F %R}"
