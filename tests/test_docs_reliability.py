"""docs/reliability.md and SECURITY.md name the limits as they are, and what follows from them.

A number of MiB in the table ``held`` is the value of the formula beside it, rounded up.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from kachery_p2p.protocol import limits

ROOT = Path(__file__).parent.parent
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")

NAMES = {
    name: value
    for name, value in vars(limits).items()
    if name.isupper() and isinstance(value, int | float)
}


def rows(text: str, name: str) -> list[list[str]]:
    """The cells of a table after its heading, of which the comment before it says the name."""
    found = text.split(f"<!-- table: {name} -->\n\n", 1)[1].split("\n\n", 1)[0]
    lines = [line.strip("|").split("|") for line in found.splitlines()[2:]]
    return [[cell.strip() for cell in line] for line in lines]


def value_of(formula: str) -> float:
    """Of names of limits, numbers, +, -, *, / and min."""
    assert re.fullmatch(r"[A-Za-z0-9_+\-*/(), .]+", formula), formula
    result: float = eval(formula, {"__builtins__": {}}, NAMES | {"min": min})
    return result


def mib(formula: str) -> int:
    return math.ceil(value_of(formula) / limits.MIB)


HELD = rows(RELIABILITY, "held")


@pytest.mark.parametrize("row", HELD, ids=lambda row: row[0][:30])
def test_what_peers_can_make_a_node_hold_follows_from_the_limits(row: list[str]) -> None:
    _, one, hundred, of_one, of_hundred = row
    assert int(one.replace(",", "")) == mib(of_one.strip("`"))
    assert int(hundred.replace(",", "")) == mib(of_hundred.strip("`"))


def test_the_sums_are_right() -> None:
    said = re.search(r"In all ([0-9,]+) MiB for one and ([0-9,]+) for a hundred", RELIABILITY)
    assert said is not None
    for column, sum_ in enumerate(said.groups(), 1):
        assert int(sum_.replace(",", "")) == sum(int(row[column].replace(",", "")) for row in HELD)


def test_the_limits_for_each_peer_are_what_the_code_says() -> None:
    table = rows(SECURITY, "per peer")
    assert len(table) > 8
    for _, name, value in table:
        number = NAMES[name.strip("`")]
        unit = limits.MIB if value.endswith(" MiB") else 1
        assert float(value.split()[0].replace(",", "")) * unit == number, name


def test_the_documents_lead_to_it() -> None:
    assert "(reliability.md)" in (ROOT / "docs" / "README.md").read_text()
    assert "(docs/reliability.md)" in SECURITY
