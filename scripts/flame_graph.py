"""A flame graph as SVG, from stacks and how often each was seen. What waits is left out.

py-spy leaves out threads that wait where the kernel tells it so; in many virtual machines it does not.
Then a picture of a daemon, with its twenty threads, shows nothing but locks. So what waits is told here
by the innermost frames of its stack.
"""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path
from typing import Final

Stack = tuple[str, ...]
"""Frames, outermost first."""

_WAITS: Final = (
    "PyThread_acquire_lock_timed", "take_gil", "epoll_pwait", "epoll_wait", "poll ", "select",
    "pthread_cond_", "sem_", "clock_nanosleep", "futex",
)  # fmt: skip
_INNERMOST: Final = 5
_WIDTH: Final = 1400.0
_ROW: Final = 17
_LEAST: Final = 0.001
"""Parts of the width below which nothing is drawn."""
_COLOURS: Final = ("#e8a33d", "#e9b35f", "#dd8f3a", "#efc27a")


def read_stacks(raw: Path) -> Counter[Stack]:
    """Those of py-spy's raw format, without the ones that wait."""
    found: Counter[Stack] = Counter()
    for line in raw.read_text(encoding="utf-8", errors="replace").splitlines():
        frames, _, count = line.rpartition(" ")
        stack = tuple(frames.split(";"))
        if not any(frame.startswith(_WAITS) for frame in stack[-_INNERMOST:]):
            found[stack] += int(count)
    return found


def draw(stacks: Counter[Stack], title: str) -> str:
    """The picture: each frame is as wide as the samples in which it was, above the one that called it
    (which is drawn below it). Frames have tooltips."""
    total = stacks.total()
    rows: list[str] = []
    deepest = 0

    def put(some: list[tuple[Stack, int]], depth: int, left: float) -> None:
        nonlocal deepest
        parts: dict[str, list[tuple[Stack, int]]] = {}
        for stack, count in some:
            if len(stack) > depth:
                parts.setdefault(stack[depth], []).append((stack, count))
        for name in sorted(parts):
            count = sum(each for _, each in parts[name])
            share = count / total
            if share >= _LEAST:
                deepest = max(deepest, depth)
                rows.append(_box(name, depth, left, share))
                put(parts[name], depth + 1, left)
            left += share

    if total:
        put(list(stacks.items()), 0, 0.0)
    height = (deepest + 3) * _ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH:.0f}" height="{height}" '
        f'font-family="monospace" font-size="11">'
        f'<text x="4" y="12">{html.escape(title)}: {total} samples</text>'
        f'<g transform="translate(0 {height - _ROW})">{"".join(rows)}</g></svg>\n'
    )


def _box(name: str, depth: int, left: float, share: float) -> str:
    x, y, width = left * _WIDTH, -depth * _ROW, share * _WIDTH
    colour = _COLOURS[hash(name.partition(" ")[0]) % len(_COLOURS)]
    fits = int(width / 6.7)
    text = name if len(name) <= fits else name[: max(0, fits - 2)] + ".." if fits > 4 else ""
    return (
        f"<g><title>{html.escape(name)} {100 * share:.1f} %</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 1}" fill="{colour}"/>'
        f'<text x="{x + 2:.1f}" y="{y + 12}">{html.escape(text)}</text></g>'
    )


def hottest(stacks: Counter[Stack], most: int) -> list[tuple[str, float]]:
    """The frames that were innermost most often, and in which part of the samples."""
    innermost: Counter[str] = Counter()
    for stack, count in stacks.items():
        innermost[stack[-1]] += count
    total = max(1, stacks.total())
    return [(name, count / total) for name, count in innermost.most_common(most)]
