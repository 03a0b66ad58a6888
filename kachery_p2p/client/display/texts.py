"""Text for people: numbers with units, and what other computers wrote, made harmless."""

from __future__ import annotations


def clean(text: object) -> str:
    """Text on one line, with everything that is not printable written as an escape."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in str(text)
    )


def size_text(size: float) -> str:
    """A number of bytes for people: ``1.5 MB``, of 10^6, as networks and disks are sold."""
    units = ["B", "kB", "MB", "GB", "TB"]
    # What would be shown as 1000.0 of a unit is 1.0 of the next.
    while size >= (999.5 if units[0] == "B" else 999.95) and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def time_text(seconds: float) -> str:
    """A duration for people: ``0:05``, ``12:00``, ``3:00:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def delay_text(seconds: float) -> str:
    """A round-trip time for people: ``12 ms``. Nodes measure whole milliseconds."""
    return "<1 ms" if seconds < 0.001 else f"{seconds * 1000:.0f} ms"
