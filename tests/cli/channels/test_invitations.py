"""Inviting and joining from the shell, between real nodes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.protocol.channels.roles import parse_roles
from kachery_p2p.protocol.errors import BY_CODE
from tests.daemons import Daemon, Lab

pytestmark = pytest.mark.processes


def made_by(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        daemon.cli("channel", "invites", "lab", "--json").stdout
    )
    return found


def load_soon(daemon: Daemon, uri: str) -> str:
    """Load it; the links of a node that has just joined may still be on their way."""
    deadline = time.monotonic() + 20
    while (done := daemon.cli("load", uri, check=False)).returncode != 0:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.2)
    return done.stdout.strip()


def test_a_colleague_joins_with_the_printed_line_and_loads(lab: Lab, short_folder: Path) -> None:
    (lab.a.home / "data").write_text("for members")
    uri = lab.a.cli("store", "data").stdout.strip()
    done = lab.a.cli("channel", "invite", "lab", "--label", "carol", "--expires", "2d")
    assert len(done.stdout.splitlines()) == 1
    assert "channel join INVITATION" in done.stderr
    assert "revoke-invite lab" in done.stderr
    line = done.stdout.strip()
    with Daemon(short_folder, "carol") as carol:
        shown = carol.cli("channel", "join", line)
        assert "effective  all" in shown.stdout
        assert Path(load_soon(carol, uri)).read_text() == "for members"
        shown = lab.a.cli("channel", "show", "lab", "--json")
        roles = {m["label"]: m["roles"] for m in json.loads(shown.stdout)["members"]}
        assert set(roles["carol"]) == parse_roles("all")
        assert [(i["state"], i["nodes"]) for i in made_by(lab.a)] == [("used up", [carol.node_id])]
        assert "used by 1 of 1" in lab.a.cli("channel", "invites", "lab").stdout
    with Daemon(short_folder, "mallory") as mallory:
        refused = mallory.cli("channel", "join", line, "--json", check=False)
        assert refused.returncode == BY_CODE["invitation-refused"].exit_status
        assert "for a new one" in refused.stderr


def test_it_comes_by_mail_in_a_file_or_a_pipe_and_can_be_revoked(
    lab: Lab, short_folder: Path
) -> None:
    line = lab.a.cli("channel", "invite", "lab", "--uses", "2").stdout.strip()
    with Daemon(short_folder, "c") as c, Daemon(short_folder, "d") as d:
        (c.home / "mail").write_text(f"Hi,\n\n> {line[:70]}\n> {line[70:]}\n\nAnn\n")
        assert "effective  request" in c.cli("channel", "join", "mail", "--roles", "request").stdout
        revoked = lab.a.cli("channel", "revoke-invite", "lab", made_by(lab.a)[0]["id"][:10])
        assert "used by 1 node" in revoked.stdout
        refused = d.cli("channel", "join", "-", stdin=line, check=False)
        assert refused.returncode == BY_CODE["invitation-refused"].exit_status
        assert "revoked" in refused.stderr
        cut = d.cli("channel", "join", line[:100], check=False)
        assert cut.returncode == 2
        assert "paste the whole line" in cut.stderr
        assert d.cli("channel", "list").stdout == ""


def test_an_authorised_server_admits_readers_while_the_owner_is_off(
    lab: Lab, short_folder: Path
) -> None:
    refused = lab.b.cli("channel", "invite", "lab", check=False)
    assert refused.returncode == BY_CODE["access-denied"].exit_status
    assert "channel authorise" in refused.stderr
    shown = lab.a.cli("channel", "authorise", "lab", "b")
    assert "may admit with request-files,request-feeds,request-tasks" in shown.stdout
    (lab.b.home / "data").write_text("on the server")
    uri = lab.b.cli("store", "data").stdout.strip()
    deadline = time.monotonic() + 20
    while (done := lab.b.cli("channel", "invite", "lab", check=False)).returncode != 0:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.1)
    lab.a.stop()
    with Daemon(short_folder, "c") as c:
        joined = json.loads(c.cli("channel", "join", done.stdout.strip(), "--json").stdout)
        assert joined["effective"] == ["request-feeds", "request-files", "request-tasks"]
        assert Path(load_soon(c, uri)).read_text() == "on the server"
        assert f"admitted by {lab.b.node_id[:8]}" in lab.b.cli("channel", "show", "lab").stdout
        assert c.cli("doctor").returncode == 0


def test_a_removal_says_which_invitations_are_revoked_and_which_stay_open(
    lab: Lab, short_folder: Path
) -> None:
    lines = [
        lab.a.cli("channel", "invite", "lab", "--uses", "9", "--label", label).stdout.strip()
        for label in ("dora", "other")
    ]
    ids = {i["label"]: i["id"][:12] for i in made_by(lab.a) if i["state"] == "open"}
    with Daemon(short_folder, "dora") as dora:
        dora.cli("channel", "join", lines[0])
        done = lab.a.cli("channel", "remove-node", "lab", "dora")
    assert f"revoked    {ids['dora']}  used by 1 of 9, it came by this one" in done.stdout
    assert f"open       {ids['other']}" in done.stdout
    assert "channel revoke-invite lab --all" in done.stderr
    with Daemon(short_folder, "dora2") as again:
        refused = again.cli("channel", "join", lines[0], "--json", check=False)
        assert refused.returncode == BY_CODE["invitation-refused"].exit_status
        assert "revoked" in lab.a.cli("channel", "revoke-invite", "lab", "--all").stdout
        refused = again.cli("channel", "join", lines[1], "--json", check=False)
        assert refused.returncode == BY_CODE["invitation-refused"].exit_status
    assert {i["state"] for i in made_by(lab.a)} <= {"revoked", "used up"}
    both = lab.a.cli("channel", "revoke-invite", "lab", ids["other"], "--all", check=False)
    assert both.returncode == 2
