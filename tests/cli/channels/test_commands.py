"""Channels from the shell."""

from __future__ import annotations

import json

import pytest

from kachery_p2p.cli.channels.commands import describe, roles_text
from kachery_p2p.protocol.channels.roles import ROLES, parse_roles
from kachery_p2p.protocol.identity import NodeKey
from tests.daemons import Daemon, Lab


@pytest.mark.parametrize(
    "words", ["all", "all,proxy", "none", "request-files", "provide-files,request-files", "proxy"]
)
def test_roles_are_shown_as_they_can_be_written(words: str) -> None:
    assert roles_text(sorted(parse_roles(words))) == words
    assert parse_roles(roles_text(sorted(ROLES))) == parse_roles(ROLES)


def test_a_description_is_one_line_per_fact_whatever_the_names() -> None:
    lines = describe(
        {
            "name": "evil\nmember     0000",
            "id": "ab" * 32,
            "version": 3,
            "owner": False,
            "open": True,
            "expires_at": 0,
            "granted": [],
            "wanted": list(ROLES),
            "effective": [],
            "member": False,
            "bootstraps": [{"url": "ws://x", "node": "cd" * 32}],
            "members": [{"node": "ef", "label": "\x1b[1m", "roles": ["proxy"], "online": True}],
        }
    )
    assert all(line.isprintable() for line in lines)
    assert [line.split()[0] for line in lines].count("member") == 1
    assert "1970-01-01 00:00 UTC" in lines[2]
    assert "not a member" in lines[5]


@pytest.mark.processes
def test_a_channel_from_its_making_to_its_leaving(node: Daemon) -> None:
    bootstrap = f"ws://127.0.0.1:1#{node.node_id}"
    done = node.cli("channel", "create", "lab", "--bootstrap", bootstrap, "--expires-in", "30d")
    assert "owned by this node" in done.stdout
    assert "add-node" in done.stderr
    listed = json.loads(node.cli("channel", "list", "--json").stdout)
    assert [channel["name"] for channel in listed] == ["lab"]
    assert listed[0]["id"] in node.cli("channel", "list").stdout
    member = NodeKey(bytes(32)).node_id
    node.cli("channel", "add-node", "lab", member, "--label", "alice", "--roles", "request-files")
    assert f"{member}  alice  request-files" in node.cli("channel", "show", "lab").stdout
    node.cli("channel", "set-roles", "lab", "alice", "files")
    shown = json.loads(node.cli("channel", "show", "lab", "--json").stdout)
    roles = {m["label"]: m["roles"] for m in shown["members"]}
    assert roles["alice"] == ["provide-files", "request-files"]
    node.cli("channel", "remove-node", "lab", "alice")
    assert member not in node.cli("channel", "show", "lab").stdout
    refused = node.cli("channel", "leave", "lab", check=False)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    node.cli("channel", "leave", "lab", "--force")
    assert node.cli("channel", "list").stdout == ""
    assert node.cli("channel", "show", "lab", check=False).returncode == 2


@pytest.mark.processes
def test_a_document_is_joined_as_file_stdin_and_pasted_text(node: Daemon) -> None:
    bootstrap = f"ws://127.0.0.1:1#{node.node_id}"
    node.cli("channel", "create", "lab", "--bootstrap", bootstrap)
    text = node.cli("channel", "export", "lab").stdout
    assert json.loads(node.cli("channel", "export", "lab", "--json").stdout) == {"text": text}
    (node.home / "lab.channel").write_text(text)
    for number, source in enumerate(("lab.channel", "-", text)):
        roles = ["files", "request-files", "all"][number]
        stdin = text if source == "-" else None
        done = node.cli("channel", "join", source, "--roles", roles, "--json", stdin=stdin)
        assert set(json.loads(done.stdout)["effective"]) == parse_roles(roles)
    for source in ("", "garbage", text.replace("A", "B")):
        done = node.cli("channel", "join", "-", check=False, stdin=source)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


@pytest.mark.processes
def test_who_is_not_a_member_yet_is_told_what_to_ask_for(lab: Lab) -> None:
    lab.a.cli("channel", "create", "other", "--bootstrap", lab.proxy.url)
    text = lab.a.cli("channel", "export", "other").stdout
    done = lab.b.cli("channel", "join", "-", stdin=text)
    assert f"channel add-node other {lab.b.node_id}" in done.stderr
    assert "not a member" in done.stdout
