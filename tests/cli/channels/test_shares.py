"""Share links from the shell and from Python, between real daemons, opened in a real browser."""

from __future__ import annotations

import json

import pytest

import kachery_p2p as kc
from kachery_p2p.protocol.errors import BY_CODE
from tests.daemons import Lab, at
from tests.web.browser import chromium

pytestmark = pytest.mark.processes


def test_a_link_is_printed_listed_and_revoked(lab: Lab) -> None:
    (lab.a.home / "data.csv").write_text("x,y\n1,2\n")
    uri = lab.a.cli("store", "data.csv").stdout.strip()
    done = lab.a.cli("share", uri, "--expires", "2d")
    (link,) = done.stdout.splitlines()
    assert link.startswith("http://127.0.0.1:")
    assert "whoever has the link" in done.stderr
    (shown,) = json.loads(lab.a.cli("share", "--list", "--json").stdout)
    assert (shown["uri"], shown["state"], shown["uses"]) == (uri, "open", 0)
    with at(lab.a):
        second = kc.share(uri, once=True)
        assert [each["uses"] for each in kc.list_shares()] == [0, 1]
        assert kc.revoke_share(second)["state"] == "revoked"
    assert "revoked" in lab.a.cli("share", "--revoke", shown["id"][:12]).stdout
    assert lab.a.cli("share", "--list").stdout.count("revoked") == 2
    refused = lab.a.cli("share", "--revoke", "00000000", check=False)
    assert refused.returncode == BY_CODE["bad-input"].exit_status
    assert lab.a.cli("share", check=False).returncode == 2


def test_who_may_not_share_is_told_who_may(lab: Lab) -> None:
    (lab.b.home / "data").write_text("of b")
    uri = lab.b.cli("store", "data").stdout.strip()
    refused = lab.b.cli("share", uri, check=False)
    assert refused.returncode == BY_CODE["bad-input"].exit_status
    assert "channel authorise" in refused.stderr


def test_what_no_link_can_be_to_is_refused_before_there_is_one(lab: Lab) -> None:
    for uri in (f"feed://{'ab' * 32}", f"sha1dir://{'ab' * 20}.folder/a.txt", "no-uri"):
        refused = lab.a.cli("share", uri, check=False)
        assert refused.returncode != 0, uri
        assert refused.stdout == ""
    assert json.loads(lab.a.cli("share", "--list", "--json").stdout) == []
    elsewhere = lab.a.cli("share", f"sha1://{'ab' * 20}/lost.txt")
    assert "not on this computer" in elsewhere.stderr


async def test_the_printed_link_opens_in_a_browser(lab: Lab) -> None:
    async with chromium() as browser:
        (lab.a.home / "table.csv").write_text("name,value\nα,1\n")
        uri = lab.a.cli("store", "table.csv").stdout.strip()
        link = lab.a.cli("share", uri).stdout.strip()
        tab = await browser.tab()
        await tab.open(link)
        await tab.status("Verified.")
        assert (await tab.text("table")).split() == ["name", "value", "α", "1"]
        assert await tab.text("h1") == "table.csv"
