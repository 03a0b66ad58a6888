"""How handles look in a notebook: a small table, in which nothing that others wrote is HTML."""

from __future__ import annotations

from collections.abc import Iterable

from .texts import clean, delay_text, size_text, time_text

_CELL = "text-align:left;vertical-align:top;padding:1px 10px 1px 0"


def table(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """HTML with a title and rows of (what, value); rows whose value is None or "" are left out."""
    from html import escape

    lines = [
        f'<tr><th style="{_CELL};white-space:nowrap">{escape(what)}</th>'
        f'<td style="{_CELL};overflow-wrap:anywhere">{escape(clean(value))}</td></tr>'
        for what, value in rows
        if value is not None and value != ""
    ]
    caption = f'<caption style="text-align:left"><b>{escape(title)}</b></caption>'
    return f"<table style='table-layout:auto'>{caption}{''.join(lines)}</table>"


class NodeInfo(dict[str, object]):
    """What the local node says of itself: a plain dict, which notebooks show as a table."""

    def _repr_html_(self) -> str:
        peers = _dicts(self.get("links"))
        names = {each.get("node"): each.get("label") for each in peers}
        links = [_link(link, names) for link in peers]
        channels = [
            f"{each.get('name')} ({', '.join(map(str, _list(each.get('effective')))) or 'no roles'})"
            for each in _dicts(self.get("channels"))
        ]
        warnings = [str(each.get("text")) for each in _dicts(self.get("warnings"))]
        uptime, served = self.get("uptime"), self.get("served_bytes")
        rows: list[tuple[str, object]] = [
            ("label", self.get("label")),
            ("node id", self.get("node_id")),
            ("version", self.get("version")),
            ("up for", time_text(uptime) if isinstance(uptime, int | float) else None),
            ("storage", self.get("storage_dir")),
            ("channels", ", ".join(channels) or "none"),
            ("links", ", ".join(links) or "none"),
            ("served", size_text(served) if isinstance(served, int | float) else None),
            ("last warning", warnings[-1] if warnings else None),
        ]
        return table("The local kachery node", rows)


def _link(link: dict[str, object], names: dict[object, object]) -> str:
    rtt, via = link.get("rtt"), link.get("via")
    route = f"relayed by {names.get(via) or str(via)[:8]}" if via else "direct"
    time = f", {delay_text(rtt)}" if isinstance(rtt, int | float) else ""
    return f"{link.get('label') or str(link.get('node'))[:8]} ({route}{time})"


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _dicts(value: object) -> list[dict[str, object]]:
    return [each for each in _list(value) if isinstance(each, dict)]
