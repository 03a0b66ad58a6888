"""``info``: what the node says of itself, as tables on a terminal and as lines in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import click

from kachery_p2p.cli.channels.commands import roles_text
from kachery_p2p.client import sync

from .output import (
    Output,
    clean,
    columns,
    delay_text,
    pass_output,
    rates_text,
    size_text,
    with_output,
)


class _Table(NamedTuple):
    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]


@click.command()
@with_output
@pass_output
@click.option("--id", "only_id", is_flag=True, help="Print the node id and nothing else.")
def info(output: Output, only_id: bool) -> None:
    """Print who this node is, its channels, its links, and what is the matter with them.

    \b
    Example:
      kachery-p2p info
      kachery-p2p info --id      # to send to a channel's owner
      kachery-p2p info --json
    """
    if only_id:
        node_id = sync.get_node_id()
        output.result({"node_id": node_id}, [node_id])
        return
    described = sync.node_info()
    tables = _tables(described)
    if not output.json and sys.stdout is not None and sys.stdout.isatty():
        _draw(_facts(described), tables)
    else:
        output.result(described, _lines(_facts(described), tables))


def _facts(info: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("node id", info["node_id"]),
        ("label", info["label"] or "-"),
        ("version", f"{info['version']} (protocol {info['protocol']})"),
        ("running", f"pid {info['pid']}, for {duration(info['uptime'])}"),
        ("storage", info["storage_dir"]),
        ("it holds", _held(info)),
        ("rates", rates_text(info["rates"])),
        ("state", info["state_dir"]),
        ("socket", info["socket"]),
        ("listening", info["listening"] or "no (links are outgoing only)"),
        ("reached at", ", ".join(info["urls"]) or "-"),
        ("served", size_text(info["served_bytes"])),
        ("announced", _announced(info["announced"])),
    ]
    if info["relayed_bytes"] or info["circuits"]:
        facts.append(
            ("relayed", f"{size_text(info['relayed_bytes'])}, {info['circuits']} circuits now")
        )
    return facts


def _held(info: dict[str, Any]) -> str:
    held = size_text(info["storage_used"])
    limit = info["max_storage"]
    return held if limit is None else f"{held} of {size_text(limit)} at most"


def _tables(info: dict[str, Any]) -> list[_Table]:
    names = {link["node"]: link["label"] for link in info["links"]}
    return [
        _Table(
            "channels",
            ("name", "id", "effective roles", "granted", "wanted"),
            [
                (
                    c["name"],
                    c["id"],
                    roles_text(c["effective"]) if c["member"] else "not a member",
                    roles_text(c["granted"]),
                    roles_text(c["wanted"]),
                )
                for c in info["channels"]
            ],
        ),
        _Table(
            "links",
            ("node", "label", "route", "round trip", "sent", "received", "channels"),
            [
                (
                    link["node"],
                    link["label"] or "-",
                    _route(link["via"], names),
                    "-" if link["rtt"] is None else delay_text(link["rtt"]),
                    size_text(link["sent"]),
                    size_text(link["received"]),
                    ", ".join(link["channels"]) or "-",
                )
                for link in info["links"]
            ],
        ),
        _Table(
            "bootstraps",
            ("url", "node", "state", "last error"),
            [(b["url"], b["node"], b["state"], b["error"] or "-") for b in info["bootstraps"]],
        ),
        _Table(
            "warnings",
            ("when", "what"),
            [
                (f"{datetime.fromtimestamp(w['at']).astimezone():%F %T}", w["text"])
                for w in info["warnings"]
            ],
        ),
    ]


def _announced(keys: dict[str, int]) -> str:
    return ", ".join(f"{count} keys on {name}" for name, count in keys.items()) or "-"


def _route(via: str | None, names: dict[str, str]) -> str:
    return "direct" if via is None else f"via {names.get(via) or via[:8]}"


def duration(seconds: float) -> str:
    """Seconds, for people: ``2 d 3 h``."""
    minutes, _ = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{int(seconds)} s"


def _lines(facts: list[tuple[str, str]], tables: list[_Table]) -> list[str]:
    lines = columns(facts)
    for table in tables:
        lines += ["", f"{table.title}:"]
        lines += [f"  {line}" for line in columns([table.heads, *table.rows])[: _shown(table)]]
        if not table.rows:
            lines[-1] += " none"
    return lines


def _shown(table: _Table) -> int:
    """Lines of a table: its head only where there is something below it."""
    return 1 + len(table.rows) if table.rows else 0


def _draw(facts: list[tuple[str, str]], tables: list[_Table]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    grid = Table.grid(padding=(0, 2))
    for name, value in facts:
        grid.add_row(Text(name, style="bold"), Text(clean(value), overflow="fold"))
    console.print(grid)
    for table in tables:
        if not table.rows:
            console.print(Text(f"{table.title}: none", style="dim"))
            continue
        drawn = Table(title=table.title, title_justify="left")
        for head in table.heads:
            drawn.add_column(head, overflow="fold")
        for row in table.rows:
            # Text and not str: what is in it must not be taken for rich's markup.
            drawn.add_row(*(Text(clean(cell)) for cell in row))
        console.print(drawn)
