"""``doctor`` names the cause: each test breaks one thing of real nodes, and reads what it says."""

from __future__ import annotations

import json
import os
import pwd
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.cli.doctor.commands import _no_node
from kachery_p2p.cli.doctor.diagnosis import exit_status, in_order, ok, problem, summary, warning
from kachery_p2p.protocol.errors import BY_CODE, DaemonElsewhere, DaemonHangs, LocalError
from tests import forked
from tests.daemons import ROOT, Daemon, Lab
from tests.patience import patience
from tests.processes.test_disk_full import MB, filled, small_disk  # noqa: F401  # a fixture

pytestmark = pytest.mark.processes

WRONG_CLOCK = """
import time
right = time.time
time.time = lambda: right() + 3600
"""
WRONG_VERSION = """
from importlib.machinery import SourceFileLoader
plain = SourceFileLoader.exec_module

def exec_module(self, module):
    plain(self, module)
    if module.__name__ == "kachery_p2p.protocol.limits.links":
        module.PROTOCOL_VERSION = 99

SourceFileLoader.exec_module = exec_module
"""


def customise(daemon: Daemon, code: str) -> None:
    """Every Python that is started with this daemon's environment runs ``code`` first."""
    folder = daemon.home / "customised"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    daemon.env["PYTHONPATH"] = f"{folder}{os.pathsep}{ROOT}"


def examine(daemon: Daemon, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status and the checks; what a person reads says the same."""
    done = daemon.cli("doctor", *arguments, "--json", check=False)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["ok"] == (done.returncode == 0)
    states = [check["state"] for check in told["checks"]]
    assert states == sorted(states, key=["ok", "warning", "problem"].index), "problems last"
    for check in told["checks"]:
        assert check["state"] == "ok" or check["remedy"], check
    return done.returncode, told["checks"]


def the_problem(daemon: Daemon, *arguments: str) -> dict[str, Any]:
    """The only problem there is; the exit status is that of its error."""
    status, checks = examine(daemon, *arguments)
    found = [check for check in checks if check["state"] == "problem"]
    assert len(found) == 1, checks
    assert status == BY_CODE[found[0]["code"]].exit_status
    return found[0]


def until(condition: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + patience(20)
        time.sleep(0.1)


def store(daemon: Daemon, size: int = 1_000) -> str:
    (daemon.home / "data").write_bytes(os.urandom(size))
    return daemon.cli("store", "data").stdout.strip()


def blob_of(daemon: Daemon, uri: str) -> Path:
    sha1 = uri.removeprefix("sha1://").partition("/")[0]
    return daemon.storage / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6] / sha1


def known(lab: Lab, uri: str) -> None:
    """Wait until the proxy knows who has it."""
    until(lambda: bool(json.loads(lab.b.cli("find", uri, "--json", check=False).stdout)["holders"]))


# --- when all is well --------------------------------------------------------------------------


def test_with_nothing_wrong_it_says_so_and_the_uri_comes(lab: Lab) -> None:
    uri = store(lab.a)
    known(lab, uri)
    status, checks = examine(lab.b, uri)
    assert status == 0
    told = {check["about"]: check for check in checks}
    for about in ("node", "socket", "versions", "clock", "bootstrap", "channel 'lab'", "loading"):
        assert told[about]["state"] == "ok", told[about]
    assert "agrees with 1 node" in told["clock"]["text"]
    assert "a (" in told["on 'lab'"]["text"]
    status, checks = examine(lab.b, uri)
    assert next(c["text"] for c in checks if c["about"] == "here").startswith("it is on this")
    shown = lab.b.cli("doctor").stdout.splitlines()
    assert all(line[:10].split() in (["ok"], ["warning"], []) for line in shown[:-2])
    assert shown[-1] == "All is well." or "Nothing is broken" in shown[-1]


def test_a_feed_is_looked_for_with_all_who_may_have_it(lab: Lab) -> None:
    uri = lab.a.cli("feed", "create", "news").stdout.strip()
    lab.a.cli("feed", "append", "news/all", "1")
    status, checks = examine(lab.a, f"{uri}/all")
    assert status == 0
    assert any("own" in check["text"] for check in checks)
    until(lambda: examine(lab.b, f"{uri}/all")[0] == 0)
    lab.a.stop()
    found = the_problem(lab.b, f"feed://{'ab' * 32}/all")
    assert found["code"] == "not-found"
    assert "Nobody has" in found["text"]


def test_a_node_that_was_removed_while_it_believes_its_own_document_says_so(lab: Lab) -> None:
    b_id = lab.b.info()["node_id"]
    until(lambda: bool(lab.b.info()["links"]))
    lab.a.cli("channel", "remove-node", "lab", b_id)
    until(lambda: not lab.b.info()["links"])
    found = the_problem(lab.b)
    assert found["code"] == "not-a-member"
    assert "'lab'" in found["text"]
    assert "removed" in found["text"]
    assert "channel invite" in found["remedy"]
    lab.b.cli("channel", "join", lab.a.cli("channel", "invite", "lab").stdout.strip())
    until(lambda: bool(lab.b.info()["links"]))
    assert examine(lab.b)[0] == 0


# --- what is wrong, one thing at a time --------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (DaemonHangs(reason="no greeting"), "daemon stop --force"),
        (DaemonElsewhere(host="there", pid=7, storage="/s"), "Work there"),
    ],
)
def test_a_node_that_hangs_or_is_elsewhere_is_not_to_be_started(
    error: LocalError, remedy: str
) -> None:
    check = _no_node(error)
    told = f"{check.text} {check.remedy}"
    assert remedy in told
    assert "No node runs" not in told
    assert "Start one with 'kachery-p2p daemon start'" not in told
    assert check.exit_status == 3


def test_no_node_runs(short_folder: Path) -> None:
    node = Daemon(short_folder, "n")
    found = the_problem(node)
    assert found["code"] == "daemon-not-running"
    assert "kachery-p2p daemon start" in found["remedy"]
    shown = node.cli("doctor", check=False)
    assert shown.returncode == 3
    assert shown.stdout.startswith("problem   node: No node runs on this computer")


def test_a_node_that_was_killed_is_said_not_to_run(node: Daemon) -> None:
    node.kill()
    assert the_problem(node)["code"] == "daemon-not-running"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_the_socket_does_not_let_this_user_in(node: Daemon) -> None:
    # The way to it is open: else it would count as what another user's login left behind.
    runtime = Path(node.env["XDG_RUNTIME_DIR"])
    for folder in (runtime, *runtime.parents[: len(runtime.parents) - 2]):
        folder.chmod(0o711)
    # Once all is imported: nobody may be unable to read the folder that this Python is in.
    code = f"""
import os, sys
from kachery_p2p.cli.main import main
from tests.another_user import import_everything
import_everything()
os.setgroups([])
os.setuid({pwd.getpwnam("nobody").pw_uid})
sys.exit(main(["doctor", "--json"]))
"""
    done = forked.run(
        [sys.executable, "-c", code],
        env={**node.env, "PYTHONPATH": os.getcwd()},
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == BY_CODE["daemon-not-permitted"].exit_status, done.stderr
    (check,) = json.loads(done.stdout)["checks"]
    assert (check["about"], check["code"]) == ("socket", "daemon-not-permitted")
    assert "--auth-group" in check["remedy"]


def test_the_bootstrap_node_cannot_be_reached(lab: Lab) -> None:
    lab.proxy.stop()
    found = the_problem(lab.b)
    assert found["about"] == "bootstrap"
    assert found["code"] == "unreachable"
    assert lab.proxy.url in found["text"]
    assert "'lab'" in found["text"]
    # With a URI, the first problem is still the cause.
    status, checks = examine(lab.b, f"sha1://{'0' * 40}")
    problems = [check["about"] for check in checks if check["state"] == "problem"]
    assert problems == ["bootstrap", "on 'lab'"]
    assert status == BY_CODE["unreachable"].exit_status


def test_this_node_is_not_a_member(lab: Lab) -> None:
    lab.a.cli("channel", "create", "other", "--bootstrap", lab.proxy.url)
    text = lab.a.cli("channel", "export", "other").stdout
    lab.b.cli("channel", "join", "-", stdin=text)
    found = the_problem(lab.b)
    assert found["about"] == "channel 'other'"
    assert found["code"] == "not-a-member"
    assert f"channel add-node other {lab.b.node_id}" in found["remedy"]


def test_a_role_was_not_granted(lab: Lab) -> None:
    uri = store(lab.a)
    known(lab, uri)
    lab.a.cli("channel", "set-roles", "lab", "b", "provide-files")
    until(lambda: lab.b.info()["channels"][0]["granted"] == ["provide-files"])
    found = the_problem(lab.b, uri)
    assert (found["about"], found["code"]) == ("on 'lab'", "access-denied")
    assert "request-files was not granted" in found["text"]
    remedy = f"channel set-roles lab {lab.b.node_id} provide-files,request-files"
    assert remedy in found["remedy"]
    lab.a.cli(*remedy.split())
    until(lambda: examine(lab.b, uri)[0] == 0)


def test_a_role_was_granted_but_is_switched_off(lab: Lab) -> None:
    uri = store(lab.a)
    known(lab, uri)
    text = lab.b.cli("channel", "export", "lab").stdout
    lab.b.cli("channel", "join", "-", "--roles", "provide-files", stdin=text)
    status, checks = examine(lab.b)
    assert status == 0
    warned = [check for check in checks if check["state"] == "warning" and "lab" in check["about"]]
    assert "switched off" in warned[0]["text"]
    found = the_problem(lab.b, uri)
    assert (found["about"], found["code"]) == ("on 'lab'", "access-denied")
    assert "request-files was granted" in found["text"]
    assert "switched off here" in found["text"]
    # The remedy is a command line that helps.
    _, _, command = found["remedy"].partition("| kachery-p2p ")
    lab.b.cli(*command.rstrip(".'").split(), stdin=text)
    assert examine(lab.b, uri)[0] == 0


def test_the_only_provider_has_switched_providing_off(lab: Lab) -> None:
    text = lab.a.cli("channel", "export", "lab").stdout
    lab.a.cli("channel", "join", "-", "--roles", "request-files", stdin=text)
    uri = store(lab.a)

    def said() -> bool:
        _, checks = examine(lab.b, uri)
        return any("switched off by its user" in check["text"] for check in checks)

    until(said)
    assert the_problem(lab.b, uri)["code"] == "access-denied"


def test_nobody_has_it(lab: Lab) -> None:
    found = the_problem(lab.b, f"sha1://{'0' * 40}/results.csv")
    assert found["code"] == "not-found"
    assert "Nobody has" in found["text"]
    assert "proxy on 'lab'" in found["text"]
    assert "1 other member may provide files" in found["text"]
    assert "URI" in found["remedy"]


def test_the_provider_is_offline(lab: Lab) -> None:
    uri = store(lab.a)
    known(lab, uri)
    lab.a.stop()
    found = the_problem(lab.b, uri)
    assert found["code"] == "not-found"
    assert "is offline" in found["text"]
    assert found["text"].startswith("a has")
    assert "start that node" in found["remedy"]


@pytest.mark.parametrize("size", [1_000, 200_000, 21 * MB], ids=["inline", "small", "large"])
def test_the_providers_copy_is_damaged(lab: Lab, size: int) -> None:
    uri = store(lab.a, size)
    known(lab, uri)
    with blob_of(lab.a, uri).open("r+b") as file:
        file.seek(500)
        byte = file.read(1)[0]
        file.seek(500)
        file.write(bytes([byte ^ 1]))
    found = the_problem(lab.b, uri)
    assert found["code"] == "corrupt-content"
    assert "damaged on its disk" in found["text"]
    assert "a (" in found["text"]
    assert "store the file anew" in found["remedy"]


def test_the_copy_on_this_disk_is_damaged_and_fetched_anew(lab: Lab) -> None:
    uri = store(lab.a)
    known(lab, uri)
    lab.b.cli("load", uri)
    blob_of(lab.b, uri).write_bytes(b"x" * 1_000)
    status, checks = examine(lab.b, uri)
    assert status == 0
    assert [c["about"] for c in checks if c["code"] == "corrupt-content"] == ["here"]
    assert blob_of(lab.b, uri).read_bytes() == (lab.a.home / "data").read_bytes()


def test_the_running_node_is_of_another_version(short_folder: Path) -> None:
    node = Daemon(short_folder, "n")
    usual = dict(node.env)
    customise(node, WRONG_VERSION)
    with node:
        node.env = usual
        found = the_problem(node)
    assert (found["about"], found["code"]) == ("versions", "version-mismatch")
    assert "99" in found["text"]


def test_the_bootstrap_node_is_of_another_version(lab: Lab) -> None:
    lab.proxy.stop()
    customise(lab.proxy, WRONG_VERSION)
    lab.proxy.start()
    found = the_problem(lab.b)
    assert (found["about"], found["code"]) == ("versions", "version-mismatch")
    assert lab.proxy.url in found["text"]
    assert "99" in found["text"]
    assert "pip install -U kachery_p2p" in found["remedy"]


def test_a_clock_is_off(lab: Lab) -> None:
    lab.b.stop()
    customise(lab.b, WRONG_CLOCK)
    lab.b.start()
    found = the_problem(lab.b)
    assert (found["about"], found["code"]) == ("clock", "clock-skew")
    assert "3600" in found["text"] or "3599" in found["text"]
    assert "probably this one's" in found["text"]
    assert "timedatectl" in found["remedy"]


def test_the_storage_is_full(
    short_folder: Path,
    small_disk: Callable[[str, int], Path],  # noqa: F811
) -> None:
    disk = small_disk("disk", 48 * MB)
    with Daemon(short_folder, "n", storage_dir=disk) as node:
        before = set(disk.iterdir())
        with filled(disk, leave=0):
            found = the_problem(node)
            assert (found["about"], found["code"]) == ("storage", "storage-full")
            assert str(disk) in found["text"]
            assert "Free some room" in found["remedy"]
        status, checks = examine(node)
        assert status == 0
        assert [c["state"] for c in checks if c["about"] == "storage"] == ["warning"], "48 MB"
        assert set(disk.iterdir()) == before, "what it wrote to try is gone"


# --- what is printed ---------------------------------------------------------------------------


def test_the_status_is_that_of_the_first_problem_and_problems_come_last() -> None:
    checks = [
        problem("a", "It is full.", "Free some.", "storage-full"),
        ok("b", "fine"),
        problem("c", "Not found.", "Look.", "not-found"),
        warning("d", "Hm.", "Look."),
    ]
    assert exit_status(checks) == BY_CODE["storage-full"].exit_status
    assert [check.about for check in in_order(checks)] == ["b", "d", "a", "c"]
    assert summary(checks).startswith("2 problems")
    assert exit_status(checks[1:2]) == exit_status(checks[3:]) == 0
    assert "1 warning." in summary(checks[3:])


def test_what_is_to_be_copied_stays_whole() -> None:
    command = f"'kachery-p2p channel set-roles lab {'ab' * 32} provide-files,request-files'"
    path = "/very-long-path" * 10
    lines = problem("x", f"It is in {path}.", f"Ask the owner to run {command}, now.", "").lines()
    assert any(command in line for line in lines)
    assert any(path in line for line in lines)


def test_what_others_say_cannot_fake_a_line() -> None:
    evil = "x\nok        node: all is well\x1b[2J"
    for line in problem(evil, evil, evil, "not-found").lines():
        assert line.isprintable()
        assert not line.startswith("ok")


def test_a_channel_whose_last_proxy_was_removed_is_not_well(lab: Lab) -> None:
    """All was said to be well, and nobody found anybody any more."""
    shown = json.loads(lab.a.cli("channel", "show", "lab", "--json").stdout)
    lab.a.cli("channel", "remove-node", "lab", shown["bootstraps"][0]["node"])
    assert "no proxy" in the_problem(lab.a)["text"]
