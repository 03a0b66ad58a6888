"""Files from the shell: offline, on one node, and from node to node."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from kachery_p2p.protocol.errors import NeedsNode
from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from tests import forked
from tests.daemons import Daemon, Lab

ABSENT = "sha1://" + "0" * 40 + "/x"


@pytest.fixture
def offline(short_folder: Path) -> Daemon:
    """The environment of a node that does not run, in offline mode."""
    daemon = Daemon(short_folder, "n")
    daemon.env["KACHERY_P2P_OFFLINE_STORAGE_DIR"] = str(daemon.storage)
    return daemon


def write(daemon: Daemon, name: str, content: bytes) -> str:
    (daemon.home / name).write_bytes(content)
    return hashlib.sha1(content).hexdigest()


def cat(daemon: Daemon, *arguments: str) -> bytes:
    return forked.run(
        [sys.executable, "-m", "kachery_p2p.cli", "cat", *arguments],
        env=daemon.env,
        capture_output=True,
        check=True,
    ).stdout


def test_store_prints_a_uri_per_file_and_load_its_path(offline: Daemon) -> None:
    first, second = write(offline, "a.txt", b"one"), write(offline, "b.txt", b"two")
    done = offline.cli("store", "a.txt", "b.txt")
    assert done.stdout == f"sha1://{first}/a.txt\nsha1://{second}/b.txt\n"
    assert done.stderr == ""
    path = offline.cli("load", f"sha1://{first}/a.txt").stdout.rstrip("\n")
    assert Path(path).read_bytes() == b"one"
    assert offline.storage in Path(path).parents


def test_on_a_terminal_a_uri_can_be_pasted_into_any_shell(offline: Daemon) -> None:
    write(offline, "a.txt", b"one")
    (offline.home / "big.dat").touch()
    os.truncate(offline.home / "big.dat", MANIFEST_CHUNK + 1)
    piped = offline.cli("store", "a.txt", "big.dat").stdout.split()
    assert "?manifest=" in piped[1]
    master, terminal = pty.openpty()
    with os.fdopen(master, "rb") as screen:
        forked.run(
            [sys.executable, "-m", "kachery_p2p.cli", "store", "-q", "a.txt", "big.dat"],
            env=offline.env, cwd=offline.home, stdout=terminal, check=True,
        )  # fmt: skip
        shown = [screen.readline().decode().strip() for _ in piped]
        os.close(terminal)
    assert shown == [piped[0], f"'{piped[1]}'"]


@pytest.mark.parametrize("verb", ["store", "link"])
def test_a_file_that_cannot_be_stored_is_said_and_the_others_are_stored(
    offline: Daemon, verb: str
) -> None:
    one, two = write(offline, "a.txt", b"one"), write(offline, "b.txt", b"two")
    os.mkfifo(offline.home / "pipe")
    (offline.home / "stale").symlink_to("/nonexistent")
    names = ("a.txt", "absent", "pipe", "stale", "b.txt")
    done = offline.cli(verb, "--json", *names, check=False)
    assert done.returncode == 2
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"path": "a.txt", "uri": f"sha1://{one}/a.txt"},
        {"path": "b.txt", "uri": f"sha1://{two}/b.txt"},
    ]
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [each["error"]["fields"]["path"] for each in told] == ["absent", "pipe", "stale"]
    assert {each["error"]["code"] for each in told} == {"bad-path"}
    assert cat(offline, f"sha1://{one}") == b"one"
    assert cat(offline, f"sha1://{two}") == b"two"
    done = offline.cli(verb, *names, check=False)
    assert len(done.stderr.splitlines()) == 3


def test_what_would_be_the_same_for_every_file_is_said_once(short_folder: Path) -> None:
    daemon = Daemon(short_folder, "n")
    for name in ("a.txt", "b.txt"):
        write(daemon, name, b"x")
    done = daemon.cli("store", "a.txt", "b.txt", check=False)
    assert done.returncode == 3
    assert done.stderr.count("no kachery_p2p node") + done.stderr.count("kachery-p2p: ") == 1


def test_basename_is_for_one_file(offline: Daemon) -> None:
    sha1 = write(offline, "a.txt", b"one")
    assert offline.cli("store", "a.txt", "--basename", "new name").stdout.startswith(
        f"sha1://{sha1}/new"
    )
    assert offline.cli("store", "a.txt", "a.txt", "--basename", "x", check=False).returncode == 2


def test_link_does_not_copy(offline: Daemon) -> None:
    write(offline, "a.txt", b"linked content")
    uri = offline.cli("link", "a.txt").stdout.strip()
    assert cat(offline, uri) == b"linked content"
    (offline.home / "a.txt").write_bytes(b"changed")
    assert offline.cli("load", uri, check=False).returncode == 8


def test_load_copies_to_dest(offline: Daemon) -> None:
    write(offline, "a.txt", b"one")
    uri = offline.cli("store", "a.txt").stdout.strip()
    done = offline.cli("load", uri, "--dest", "copy.txt", "--json")
    assert json.loads(done.stdout) == {"path": "copy.txt", "uri": uri}
    assert (offline.home / "copy.txt").read_bytes() == b"one"


def test_load_replaces_what_one_names_and_nothing_else(offline: Daemon) -> None:
    write(offline, "a.txt", b"theirs")
    uri = offline.cli("store", "a.txt").stdout.strip()
    folder = offline.home / "folder"
    folder.mkdir()
    mine = folder / "a.txt"
    mine.write_bytes(b"mine")
    mine.chmod(0o600)
    done = offline.cli("load", uri, "--dest", "folder", check=False)
    assert done.returncode == 2
    assert "--force" in done.stderr
    named = ("load", uri, "--dest", "folder/a.txt")
    assert offline.cli(*named, "--no-clobber", check=False).returncode == 2
    assert offline.cli(*named, "--no-clobber", "--force", check=False).returncode == 2
    assert mine.read_bytes() == b"mine"
    offline.cli("load", uri, "--dest", "folder", "--force")
    assert mine.read_bytes() == b"theirs"
    mine.write_bytes(b"mine")
    offline.cli(*named)
    assert mine.read_bytes() == b"theirs"
    assert mine.stat().st_mode & 0o777 == 0o600
    done = offline.cli("load", uri, "--dest", "new/")
    assert done.stdout == "new/a.txt\n"
    assert (offline.home / "new" / "a.txt").read_bytes() == b"theirs"


@pytest.mark.parametrize("verb", ["load", "cat"])
def test_what_nobody_has_is_8(offline: Daemon, verb: str) -> None:
    done = offline.cli(verb, ABSENT, check=False)
    assert (done.returncode, done.stdout) == (8, "")
    assert "offline" in done.stderr


@pytest.mark.parametrize("size", [0, 1, MANIFEST_CHUNK + 1, 2 * (16 << 20)])
def test_cat_gives_the_very_bytes_and_any_range_of_them(offline: Daemon, size: int) -> None:
    content = hashlib.shake_128(b"content").digest(size)
    write(offline, "a.dat", content)
    uri = offline.cli("store", "a.dat").stdout.strip()
    assert cat(offline, uri) == content
    for start, end in ((0, 0), (0, 1), (size // 2, size + 5), (size, size), (size // 3, size // 2)):
        got = cat(offline, uri, "--start", str(start), "--end", str(end))
        assert got == content[start:end]
    assert cat(offline, uri, "--start", str(size // 2)) == content[size // 2 :]


def test_a_range_the_wrong_way_round_is_refused(offline: Daemon) -> None:
    assert offline.cli("cat", ABSENT, "--start", "2", "--end", "1", check=False).returncode == 2


def test_a_file_name_of_any_bytes_comes_out_as_it_is(offline: Daemon) -> None:
    write(offline, "a.txt", b"one")
    uri = offline.cli("store", "a.txt").stdout.strip()
    done = forked.run(
        [sys.executable, "-m", "kachery_p2p.cli", "load", uri, "--dest", b"caf\xe9"],
        env={**offline.env, "LC_ALL": "C"},
        cwd=offline.home,
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"caf\xe9\n"


@pytest.mark.processes
def test_a_node_that_is_alone_says_who_was_asked(node: Daemon) -> None:
    for verb in ("load", "cat", "find"):
        done = node.cli(verb, ABSENT, check=False)
        assert done.returncode == 8, done.stderr
        assert ABSENT in done.stderr


@pytest.mark.processes
def test_find_prints_the_path_of_what_is_here(node: Daemon) -> None:
    sha1 = write(node, "a.txt", b"here it is")
    uri = node.cli("store", "a.txt").stdout.strip()
    shown = node.cli("find", uri)
    assert shown.stdout.startswith(f"here  {node.storage}")
    assert sha1 in shown.stdout
    assert json.loads(node.cli("find", uri, "--json").stdout)["holders"] == []


@pytest.mark.processes
def test_what_one_node_stores_another_finds_loads_and_reads(lab: Lab) -> None:
    content = hashlib.shake_128(b"shared").digest(MANIFEST_CHUNK + 100_000)
    write(lab.a, "big.dat", content)
    uri = lab.a.cli("store", "big.dat").stdout.strip()
    found = lab.b.cli("find", uri)
    assert lab.a.node_id in found.stdout
    assert "relayed" in found.stdout
    assert cat(lab.b, uri, "--start", "20000000", "--end", "20000100") == content[20000000:20000100]
    path = Path(lab.b.cli("load", uri).stdout.strip())
    assert path.read_bytes() == content
    assert cat(lab.b, uri) == content


@pytest.mark.processes
def test_cat_of_what_is_not_here_streams_all_of_it(lab: Lab) -> None:
    content = hashlib.shake_128(b"streamed").digest(2 * MANIFEST_CHUNK)
    write(lab.a, "big.dat", content)
    uri = lab.a.cli("store", "big.dat").stdout.strip()
    assert cat(lab.b, uri) == content


def test_several_uris_at_once(offline: Daemon) -> None:
    uris = [f"sha1://{write(offline, name, name.encode())}/{name}" for name in ("a", "b")]
    offline.cli("store", "a", "b")
    paths = offline.cli("load", *uris).stdout.split()
    assert [Path(path).read_bytes() for path in paths] == [b"a", b"b"]
    assert offline.cli("load", "-", stdin="\n".join(uris)).stdout.split() == paths
    assert cat(offline, *uris) == b"ab"
    (offline.home / "into").mkdir()
    offline.cli("load", *uris, "--dest", "into")
    assert sorted(path.name for path in (offline.home / "into").iterdir()) == ["a", "b"]
    for wrong in (("load", *uris, "--dest", "new"), ("cat", *uris, "--start", "1")):
        done = offline.cli(*wrong, check=False)
        assert done.returncode == 2
        assert done.stdout == ""


def test_of_several_uris_those_that_can_be_had_are_loaded(offline: Daemon) -> None:
    uris = [f"sha1://{write(offline, name, name.encode())}/{name}" for name in ("a", "b")]
    offline.cli("store", "a", "b")
    for wrong, status in ((ABSENT, 8), ("sha1://12", 2)):
        mixed = [uris[0], wrong, uris[1]]
        done = offline.cli("load", *mixed, check=False)
        assert done.returncode == status
        assert [Path(path).read_bytes() for path in done.stdout.split()] == [b"a", b"b"]
        assert wrong in done.stderr
        done = offline.cli("load", "-", stdin="\n".join(mixed), check=False)
        assert (done.returncode, len(done.stdout.split())) == (status, 2)
        done = offline.cli("cat", *mixed, check=False)
        assert (done.returncode, done.stdout) == (status, "ab")


@pytest.mark.parametrize(("dest", "remedy"), [("-", "'cat'"), ("", "it is empty")])
def test_a_destination_that_is_hardly_meant_is_refused(
    offline: Daemon, dest: str, remedy: str
) -> None:
    uri = f"sha1://{write(offline, 'a', b'a')}/a"
    offline.cli("store", "a")
    before = sorted(offline.home.iterdir())
    done = offline.cli("load", uri, "--dest", dest, check=False)
    assert done.returncode == 2
    assert remedy in done.stderr
    assert sorted(offline.home.iterdir()) == before


def test_what_a_pipe_gives_is_stored_as_standard_input(offline: Daemon) -> None:
    os.mkfifo(offline.home / "pipe")
    done = offline.cli("store", "pipe", check=False)
    assert done.returncode == 2
    assert "standard input, '-'" in done.stderr


def test_a_range_that_begins_behind_the_end_is_an_error(offline: Daemon) -> None:
    uri = f"sha1://{write(offline, 'a', b'0123456789')}"
    offline.cli("store", "a")
    assert cat(offline, uri, "--start", "8", "--end", "99") == b"89"
    assert cat(offline, uri, "--start", "10") == b""
    done = offline.cli("cat", uri, "--start", "11", check=False)
    assert done.returncode == 2
    assert "ends before byte 11" in done.stderr


def test_a_load_takes_no_longer_than_it_may(lab: Lab) -> None:
    for command in ("load", "cat", "find"):
        done = lab.b.cli(command, "--timeout", "0", ABSENT, check=False)
        assert done.returncode == 10, command
        assert "longer than 0" in done.stderr
    uri = f"sha1://{write(lab.b, 'in time', b'0123456789')}"
    lab.b.cli("store", "in time")
    assert cat(lab.b, uri, "--timeout", "30") == b"0123456789"
    assert lab.b.cli("find", "--timeout", "30", uri).stdout.startswith("here ")
    shown = lab.b.cli("find", ABSENT, ABSENT.replace("0", "1"), check=False)
    assert shown.returncode == 8
    assert shown.stdout.splitlines() == [ABSENT, ABSENT.replace("0", "1")]


# --- folders, and standard input -----------------------------------------------------------------


def failed(daemon: Daemon, status: int, *arguments: str) -> str:
    """What a command says that ends with an exit status."""
    done = daemon.cli(*arguments, check=False)
    assert done.returncode == status, done.stderr
    return done.stderr


def make_tree(daemon: Daemon) -> Path:
    top = daemon.home / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "a.txt").write_text("one")
    (top / "sub" / "run").write_text("two")
    (top / "sub" / "run").chmod(0o755)
    (top / "x.tmp").write_text("not this")
    return top


def test_a_folder_is_stored_listed_and_loaded(offline: Daemon) -> None:
    top = make_tree(offline)
    uri = offline.cli("store", "--ignore", "*.tmp", "tree").stdout.strip()
    assert uri.startswith("sha1dir://")
    assert uri.endswith(".tree")
    assert offline.cli("ls", uri).stdout == "3 B  a.txt\n3 B  sub/\n"
    assert offline.cli("ls", f"{uri}/sub").stdout == "3 B  run*\n"
    assert offline.cli("ls", "-R", uri, "--uris").stdout.split()[-1] == "sub/run*"
    listed = json.loads(offline.cli("ls", "--json", uri).stdout)
    assert [entry["name"] for entry in listed["entries"]] == ["a.txt", "sub"]
    assert cat(offline, f"{uri}/sub/run") == b"two"
    assert offline.cli("load", uri, "--dest", "out").stdout == "out\n"
    assert (offline.home / "out" / "sub" / "run").read_text() == "two"
    assert not (offline.home / "out" / "x.tmp").exists()
    offline.cli("load", uri, f"{uri}/sub", f"{uri}/a.txt", "--dest", "several/")
    several = offline.home / "several"
    assert sorted(str(path.relative_to(several)) for path in several.rglob("*")) == [
        *("a.txt", "sub", "sub/run", "tree", "tree/a.txt", "tree/sub", "tree/sub/run"),
    ]
    (top / "x.tmp").unlink()
    assert offline.cli("store", "tree", "tree/a.txt").stdout.split()[0] == uri
    linked = offline.cli("link", "tree", "--basename", "linked").stdout.strip()
    assert linked == uri.replace(".tree", ".linked")


def test_what_is_wrong_with_a_folder_is_said(offline: Daemon) -> None:
    top = make_tree(offline)
    (top / "link").symlink_to("a.txt")
    done = offline.cli("store", "tree", "tree/a.txt", check=False)
    assert done.returncode == 2
    assert "tree/link" in done.stderr
    assert "--ignore" in done.stderr
    assert done.stdout.endswith("/a.txt\n"), "the other is stored all the same"
    uri = offline.cli("store", "tree", "--ignore", "link").stdout.strip()
    assert "--dest DIR" in failed(offline, 2, "load", uri)
    (offline.home / "out").mkdir()
    (offline.home / "out" / "a.txt").write_text("mine")
    assert "--force" in failed(offline, 2, "load", uri, "--dest", "out")
    offline.cli("load", uri, "--dest", "out", "--force")
    assert (offline.home / "out" / "a.txt").read_text() == "one"
    absent = "sha1dir://" + "0" * 40
    failed(offline, 8, "ls", absent)
    failed(offline, 8, "load", absent, "--dest", "out")
    failed(offline, 2, "ls", f"{uri}/nope")
    failed(offline, NeedsNode.exit_status, "ls", ABSENT)


@pytest.mark.parametrize("size", [0, 5, 3_000_000])
def test_standard_input_is_stored(offline: Daemon, size: int) -> None:
    content = os.urandom(size)
    command = [sys.executable, "-m", "kachery_p2p.cli", "store", "-", "--name", "x.tar"]
    done = subprocess.run(command, env=offline.env, input=content, capture_output=True, check=True)
    assert done.stdout.decode() == f"sha1://{hashlib.sha1(content).hexdigest()}/x.tar\n"
    assert cat(offline, done.stdout.decode().strip()) == content


def test_standard_input_is_stored_by_a_node(short_folder: Path) -> None:
    """A pipe through which more comes than anybody holds at once; and one that ends early."""
    with Daemon(short_folder, "n") as node:
        content = os.urandom(MANIFEST_CHUNK + 1)
        command = [sys.executable, "-m", "kachery_p2p.cli", "store", "-"]
        done = subprocess.run(command, env=node.env, input=content, capture_output=True, check=True)
        uri = done.stdout.decode().strip()
        assert uri.startswith(f"sha1://{hashlib.sha1(content).hexdigest()}/file.dat?manifest=")
        assert cat(node, uri) == content
        with open(node.home / "regular", "wb") as file:
            file.write(b"skipped and kept")
        with open(node.home / "regular", "rb") as file:
            os.lseek(file.fileno(), 12, os.SEEK_SET)
            done = subprocess.run(
                command, env=node.env, stdin=file, capture_output=True, check=True
            )
        assert cat(node, done.stdout.decode().strip()) == b"kept"
        reading, writing = os.pipe()
        process = subprocess.Popen(command, env=node.env, stdin=reading)
        os.close(reading)
        os.write(writing, b"the beginning")
        process.kill()
        process.wait()
        os.close(writing)
        begun = hashlib.sha1(b"the beginning").hexdigest()
        failed(node, 8, "cat", f"sha1://{begun}")
