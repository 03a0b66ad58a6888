"""What the storage holds, from the shell and from Python."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os

import pytest

import kachery_p2p as kc
from kachery_p2p.protocol import errors
from tests.daemons import Daemon, at


def stored(daemon: Daemon, name: str, content: bytes, *options: str) -> str:
    (daemon.home / name).write_bytes(content)
    return daemon.cli("store", name, *options).stdout.strip()


def test_listing_pinning_and_deleting_from_the_shell(node: Daemon) -> None:
    uri = stored(node, "small.txt", b"hello\n")
    big = stored(node, "big.dat", os.urandom(100_000), "--for", "30d")
    (node.home / "linked.dat").write_bytes(b"linked" * 10)
    linked = node.cli("link", "linked.dat").stdout.strip()
    lines = node.cli("ls", "--sort", "size").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == [big, linked, uri]
    assert node.cli("ls", "--linked").stdout.split() == ["60", "B", "linked", linked]
    assert "until 2" in node.cli("ls", "--long", "big").stdout
    assert f"from {node.home / 'linked.dat'}" in node.cli("ls", "--long", linked).stdout
    record = json.loads(node.cli("ls", "--json", "*.txt").stdout)
    assert (record["uri"], record["size"], record["source"]) == (uri, 6, "stored")

    node.cli("pin", uri, "--name", "paper")
    refused = node.cli("rm", uri, check=False)
    assert refused.returncode == 2
    assert "pinned (paper)" in refused.stderr
    assert "kachery-p2p unpin sha1:" in refused.stderr
    assert uri in node.cli("ls", "--pinned").stdout
    node.cli("unpin", uri)
    assert node.cli("rm", uri, linked).stdout == ""
    assert (node.home / "linked.dat").read_bytes() == b"linked" * 10
    assert node.cli("ls").stdout.split()[-1] == big
    assert node.cli("rm", uri, check=False).returncode == 8


def test_of_a_folder_the_list_goes_and_that_is_said(node: Daemon) -> None:
    folder = node.home / "folder"
    folder.mkdir()
    (folder / "x.txt").write_text("in a folder")
    uri = node.cli("store", "folder").stdout.strip()
    assert "the files in it stay" in node.cli("rm", uri).stderr
    assert node.cli("ls").stdout.split()[-1].endswith("/x.txt")


def test_a_limit_is_set_while_the_node_runs_and_is_told(node: Daemon) -> None:
    stored(node, "a.dat", b"a" * 1_000)
    assert node.cli("gc", check=False).returncode == 2
    assert node.cli("daemon", "set", "--max-storage", "1.5k").stdout == "1.0 kB used, 1.5 kB\n"
    (node.home / "b.dat").write_bytes(b"b" * 501)
    full = node.cli("store", "b.dat", check=False)
    assert full.returncode == 4
    for words in ("stored here: 1000 bytes", "kachery-p2p rm", "daemon set --max-storage"):
        assert words in full.stderr
    usage = json.loads(node.cli("du", "--json").stdout)
    assert (usage["used"], usage["limit"], usage["reserved"]) == (1_000, 1_500, 0)
    assert node.cli("du").stdout.splitlines()[:2] == [
        "   1.0 kB  stored here            1",
        "   1.0 kB  in all, of 1.5 kB at most",
    ]
    assert "1.5 kB at most" in node.cli("status", "--once").stdout
    assert "no limit" in node.cli("daemon", "set", "--max-storage", "none").stdout
    node.cli("store", "b.dat")
    assert node.cli("daemon", "set", "--max-storage", "many", check=False).returncode == 2


def test_rates_are_set_while_the_node_runs_and_are_told(node: Daemon) -> None:
    told = node.cli("daemon", "set", "--max-upload", "10M", "--max-download", "500k/s").stdout
    assert told == "files go out 10.0 MB/s at most, come in 500.0 kB/s at most\n"
    assert told.strip() in node.cli("info").stdout
    assert told.strip() in node.cli("status", "--once").stdout
    with at(node):
        assert kc.set_rates(upload="none") == {"upload": None, "download": 500_000}
        for bad in ("10Mbit", "1", -1, "0"):
            with pytest.raises(errors.BadInput):
                kc.set_rates(upload=bad)
    assert node.cli("daemon", "set", "--max-upload", "fast", check=False).returncode == 2
    assert "without a limit" in node.cli("daemon", "set", "--max-download", "none").stdout
    assert "limits" not in node.cli("status", "--once").stdout


def test_a_damaged_store_is_said_to_be_so_on_one_screen(node: Daemon) -> None:
    uri = stored(node, "a.dat", b"a" * 1_000)
    whole = node.cli("verify")
    assert whole.stdout.splitlines()[-1] == "The storage is whole."
    sha1 = uri[7:47]
    path = node.storage / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6] / sha1
    os.chmod(path, 0o644)
    path.write_bytes(b"b" * 1_000)
    broken = node.cli("verify", "--rate", "50M", check=False)
    assert broken.returncode == 4
    assert broken.stdout.splitlines()[-1] == "The storage is not whole."
    assert f"lost        sha1://{sha1}" in broken.stdout
    assert "damaged copies" in node.cli("du").stdout


def test_the_functions_do_the_same_in_both_forms(node: Daemon) -> None:
    with at(node):
        uri = kc.store_bytes(b"x" * 100, "x.dat", keep_for="12h")
        listing = kc.store_json(
            {"files": {"x.dat": {"size": 100, "sha1": hashlib.sha1(b"x" * 100).hexdigest()}}}
        )
        [record] = kc.list_files("x.*")
        assert (record["uri"], record["until"] is not None) == (uri, True)

        async def names() -> list[str]:
            return [each["label"] async for each in kc.alist_files(sort="size")]

        assert asyncio.run(names()) == ["x.dat", "file.json"]
        folder = f"sha1dir://{listing[7:47]}"
        assert kc.pin(folder, "all", keep_for=3_600)["pinned"] == 2
        with pytest.raises(errors.ContentPinned, match="all, with"):
            kc.delete_file(uri)
        assert kc.unpin(folder) == 2
        assert kc.delete_file(uri) == 100
        with pytest.raises(errors.NotFound):
            kc.pin(uri)
        assert kc.set_max_storage("1G")["limit"] == 10**9
        assert kc.collect_garbage(dry_run=True)["count"] == 0
        assert kc.storage_usage()["limit"] == 10**9
        assert kc.verify(progress=False)["lost"] == []
        for bad in (
            lambda: list(kc.list_files(which="yours")),  # type: ignore[arg-type]
            lambda: list(kc.list_files(sort="age")),  # type: ignore[arg-type]
            lambda: kc.store_text("x", keep_for="soon"),
            lambda: kc.set_max_storage(0),
            lambda: kc.unshare_file(listing, "no channel"),
        ):
            with pytest.raises((errors.BadInput, errors.UnknownChannel)):
                bad()


def test_many_files_are_listed_as_they_come(node: Daemon) -> None:
    with at(node):
        uris = {kc.store_text(f"number {n}", f"{n}.txt", progress=False) for n in range(1_100)}
        listed = kc.list_files()
        first = next(listed)
        assert first["uri"] in uris
        assert {first["uri"], *(record["uri"] for record in listed)} == uris
