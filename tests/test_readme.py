"""README.md and the documents in docs/: what they tell people to type does what they say.

How a document is written so that it can be followed is in :mod:`tests.documents`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.connect_proxy import ConnectProxy
from tests.daemons import ROOT, free_port, short_folder
from tests.documents import Reading, ThisComputer, blocks

pytestmark = pytest.mark.processes

README = ROOT / "README.md"
URI = re.compile(r"sha1://[0-9a-f]{40}\S*")
ELSEWHERE = {
    "docs/protocol.md": "tests/test_docs_protocol.py",
    "docs/howto-proxy.md": "tests/test_howto_computers.py",
    "docs/howto-shared-computer.md": "tests/test_howto_computers.py",
}
"""Documents with blocks, and where they are tried if not here."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


def filled_in(text: str, printed: str) -> str:
    """What stands there as a placeholder is what was printed before."""
    for name in re.findall(r"feed://[0-9a-f]{64}(/\w+)", printed):
        found = re.findall(r"feed://[0-9a-f]{64}" + name, printed)
        text = text.replace(f"feed://<64 hex digits>{name}", found[-1])
    assert "<64 hex" not in text.replace("# feed://<64 hex digits>", "")
    return text


def check_shown_uris(document: Path, printed: str) -> None:
    """Whoever follows the document sees the URIs that stand in it."""
    shown = set(URI.findall(document.read_text(encoding="utf-8")))
    stored = [line for line in printed.splitlines() if URI.fullmatch(line)]
    assert shown.intersection(stored), f"{document.name} shows none of {stored}"


def test_readme(folder: Path) -> None:
    # This very test runs inside it; that the script works at all is what can be tried here.
    tests = {"./scripts/test": "./scripts/test --collect-only -q tests/test_readme.py"}
    reading = Reading(ThisComputer(folder, free_port()), replaced=tests, fill=filled_in)
    reading.follow(README)
    check_shown_uris(README, reading.printed)
    for line in ("some-random-text", "Prime 1: 2", "Prime 25: 97"):
        assert f"{line}\n" in reading.printed


def test_tutorial(folder: Path) -> None:
    document = ROOT / "docs/tutorial.md"
    reading = Reading(ThisComputer(folder, free_port()))
    reading.follow(document)
    check_shown_uris(document, reading.printed)


def test_howto_move(folder: Path) -> None:
    document = ROOT / "docs/howto-move.md"
    reading = Reading(ThisComputer(folder, free_port()))
    reading.follow(document)
    check_shown_uris(document, reading.printed)


def test_howto_storage(folder: Path) -> None:
    """The archive lies in the test's folder, which stands for /tmp, not in the home of who runs it."""
    place = ThisComputer(folder, free_port())
    reading = Reading(place, fill=lambda text, _: text.replace("~/archive", "/tmp/archive"))
    reading.follow(ROOT / "docs/howto-storage.md")


def test_howto_keeper(folder: Path) -> None:
    Reading(ThisComputer(folder, free_port())).follow(ROOT / "docs/howto-keeper.md")


def test_browser(folder: Path) -> None:
    """What the printed links open is tried in tests/web."""
    reading = Reading(ThisComputer(folder, free_port()))
    reading.follow(ROOT / "docs/browser.md")
    assert len(re.findall(r"^http://127\.0\.0\.1:\d+/#\S+$", reading.printed, re.M)) == 3


def test_views(folder: Path) -> None:
    """What the printed links open is tried in tests/client/views."""
    reading = Reading(ThisComputer(folder, free_port()))
    reading.follow(ROOT / "docs/views.md")
    assert len(re.findall(r"^http://127\.0\.0\.1:\d+/#\S+$", reading.printed, re.M)) == 5


def test_howto_http_proxy(folder: Path) -> None:
    """The HTTP proxy of the document is one that this test runs, and everything passes through it."""
    port = free_port()
    with ConnectProxy() as proxy:
        place = ThisComputer(folder, port)
        reading = Reading(
            place, replaced={}, fill=lambda text, _: text.replace("3128", str(proxy.port))
        )
        reading.follow(ROOT / "docs/howto-http-proxy.md")
    assert f"127.0.0.1:{port}" in proxy.asked
    assert proxy.moved > 100_000


@pytest.mark.parametrize(
    "document",
    sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)
def test_no_document_has_blocks_that_nothing_runs(document: str) -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    if [block for block in blocks(ROOT / document) if block.language != "text"]:
        where = ELSEWHERE.get(document)
        known = here if where is None else (ROOT / where).read_text(encoding="utf-8")
        assert f'"{document}"' in known, (
            f"{document} has code that is not run by {where or __name__}"
        )


@pytest.mark.parametrize(
    "document", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}"


def test_the_project_has_its_papers() -> None:
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"):
        assert (ROOT / name).stat().st_size > 500, name
    assert (ROOT / "docs/protocol.md").exists()
