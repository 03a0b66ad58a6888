"""The client API with real nodes: what a user of A stores, a user of B loads through the proxy."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import kachery_p2p as kc
from kachery_p2p.client.files import local_storage as storage
from kachery_p2p.protocol import errors
from kachery_p2p.protocol.limits import LOCAL_PIECE, MANIFEST_CHUNK
from tests import forked
from tests.client.files.online import ABSENT, BOTH, blob_path, content
from tests.daemons import Lab, announced, at, until

pytestmark = pytest.mark.processes


# --- there and back ------------------------------------------------------------------------------


def npy_bytes(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


@BOTH
def test_the_uris_are_those_that_older_users_know(lab: Lab, call: Any) -> None:
    value = {"a": [1, 2, {"b": 3}]}
    array = np.arange(6, dtype="<i4").reshape(2, 3)
    with at(lab.a):
        text = call("store_text", "some-random-text")
        assert text == "sha1://6af826b3d648ccba6b4bbe58e93e22add640d728/file.txt"
        as_json = call("store_json", value)
        digest = hashlib.sha1(b'{"a":[1,2,{"b":3}]}').hexdigest()
        assert as_json == f"sha1://{digest}/file.json" == call("store_object", value)
        npy = call("store_npy", array)
        assert npy == f"sha1://{hashlib.sha1(npy_bytes(array)).hexdigest()}/file.npy"
        assert call("load_bytes", npy) == npy_bytes(array)
        assert call("store_bytes", b"x").endswith("/file.dat")
        assert call("store_pkl", {"x": 1}).endswith("/file.pkl")


@BOTH
def test_every_pair_travels_from_one_node_to_another(lab: Lab, call: Any, tmp_path: Path) -> None:
    salt = call.__name__
    path = tmp_path / "notes.csv"
    path.write_bytes(content(salt, 5_000))
    array = np.frombuffer(content(f"{salt} array", 80_000), dtype="<u8").reshape(100, 100)
    things: dict[str, Any] = {
        "text": f"Grüße, {salt}\r\n",
        "json": {"salt": salt, "list": [1, 2.5, None, True]},
        "object": [salt, {"as": "before"}],
        "npy": array,
        "pkl": {"salt": salt, "array": array, "tuple": (1, b"2")},
        "bytes": content(salt, 3 * LOCAL_PIECE),
        "file": path,
    }
    with at(lab.a):
        uris = {kind: call(f"store_{kind}", thing) for kind, thing in things.items()}
    with at(lab.b):
        for kind, uri in uris.items():
            assert call(f"load_{kind}", uri, local_only=True) is None
            announced(uri)
            loaded = call(f"load_{kind}", uri)
            if kind == "file":
                assert Path(loaded).read_bytes() == path.read_bytes()
            else:
                np.testing.assert_equal(loaded, things[kind])
            assert call(f"load_{kind}", uri, local_only=True) is not None


@BOTH
def test_what_nobody_has_is_none(lab: Lab, call: Any) -> None:
    with at(lab.b):
        for kind in ("text", "json", "npy", "pkl", "bytes", "file"):
            assert call(f"load_{kind}", ABSENT) is None
            assert call(f"load_{kind}", ABSENT.replace("sha1:", "sha1dir:") + "/x") is None


@BOTH
def test_the_basename_is_the_label(lab: Lab, call: Any, tmp_path: Path) -> None:
    (tmp_path / "own name.txt").write_text("labelled")
    with at(lab.a):
        assert call("store_text", "labelled", "new.txt").endswith("/new.txt")
        assert call("store_json", [1], basename="new.json").endswith("/new.json")
        assert call("store_npy", np.zeros(2), basename="new.npy").endswith("/new.npy")
        assert call("store_pkl", [1], basename="new.pkl").endswith("/new.pkl")
        assert call("store_bytes", b"1", basename="new.dat").endswith("/new.dat")
        assert call("store_file", tmp_path / "own name.txt").endswith("/own%20name.txt")
        assert call("store_file", tmp_path / "own name.txt", "n?w").endswith("/n%3Fw")


def test_a_directory_of_before_is_followed_to_its_files(lab: Lab) -> None:
    with at(lab.a):
        inner = kc.parse_uri(kc.store_text("in a folder", "b.txt")).hash
        listing = {"files": {}, "dirs": {"d": {"files": {"b.txt": {"sha1": inner}}, "dirs": {}}}}
        top = kc.parse_uri(kc.store_json(listing)).hash
        assert kc.load_text(f"sha1dir://{top}.label/d/b.txt") == "in a folder"
        for wrong in ("d", "d/absent", "d/b.txt/deeper"):
            assert kc.load_text(f"sha1dir://{top}/{wrong}") is None
        hostile = kc.parse_uri(kc.store_json({"dirs": [], "files": {"x": {"sha1": 1}}})).hash
        with pytest.raises(errors.BadInput, match="a folder is stored as"):
            kc.load_text(f"sha1dir://{hostile}/x")


def test_what_is_stored_for_one_channel_stays_on_it(lab: Lab) -> None:
    with at(lab.a):
        kc.channel_create("private", [lab.proxy.url])
        lab.proxy.cli("channel", "join", "-", "--roles", "none", stdin=kc.channel_export("private"))
        shared = kc.store_text("for the lab", channel="lab")
        private = kc.store_text("for the others", channel="private")
        assert kc.load_text(private) == "for the others"
        with pytest.raises(errors.UnknownChannel):
            kc.store_text("for nobody", channel="no-such-channel")
    with at(lab.b):
        announced(shared)
        assert kc.load_text(shared, channel="lab") == "for the lab"
        assert kc.load_text(private) is None
        with pytest.raises(errors.UnknownChannel):
            kc.load_text(private, channel="private")


# --- where files go ------------------------------------------------------------------------------


def test_dest_is_a_file_or_a_folder(lab: Lab, tmp_path: Path) -> None:
    with at(lab.a):
        uri = kc.store_text("to be copied", "results.csv")
    with at(lab.b):
        announced(uri)
        target = tmp_path / "copy.txt"
        assert kc.load_file(uri, target) == str(target)
        assert target.read_text() == "to be copied"
        target.write_text("mine now")
        assert kc.load_file(uri, str(target)) == str(target)  # over what was there
        assert kc.load_file(uri, tmp_path) == str(tmp_path / "results.csv")
        assert (tmp_path / "results.csv").read_text() == "to be copied"
        outside = uri.rpartition("/")[0] + "/../../outside.csv"
        assert kc.load_file(outside, tmp_path) == str(tmp_path / "outside.csv")
        nameless = kc.parse_uri(uri).hash
        assert kc.load_file(f"sha1://{nameless}", tmp_path) == str(tmp_path / nameless)
        link = tmp_path / "link"
        link.symlink_to(target)
        kc.load_file(uri, link)
        assert link.is_symlink()
        assert target.read_text() == "to be copied"
        assert Path(kc.load_file(uri) or "").read_text() == "to be copied"


def test_a_dest_that_cannot_be_written_is_a_bad_path_and_leaves_nothing(
    lab: Lab, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with at(lab.a):
        uri = kc.store_text("to be copied nowhere")
        for dest in (tmp_path / "absent" / "x", "/proc/x", tmp_path / "pipe", "/dev/null"):
            with pytest.raises(errors.BadPath, match=str(dest)):
                kc.load_file(uri, dest)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert Path("/dev/null").is_char_device()


def test_a_dest_without_room_is_a_full_disk(lab: Lab, tmp_path: Path) -> None:
    with at(lab.a):
        uri = kc.store_text("to be copied nowhere")
        full = OSError(errno.ENOSPC, "No space left on device")
        with (
            mock.patch("kachery_p2p.client.session.blocking._copy", side_effect=full),
            pytest.raises(errors.StorageFull),
        ):
            kc.load_file(uri, tmp_path / "x")


@BOTH
def test_the_path_of_a_plain_file_loads_as_it_is(lab: Lab, call: Any, tmp_path: Path) -> None:
    path = tmp_path / "plain.json"
    path.write_text("[1,2]")
    np.save(tmp_path / "plain.npy", np.arange(3))
    with at(lab.a):
        assert call("load_file", path) == str(path)
        assert call("load_text", str(path)) == "[1,2]"
        assert call("load_json", path) == [1, 2]
        assert call("load_bytes", path, 1, 4) == b"1,2"
        assert list(call("load_npy", tmp_path / "plain.npy")) == [0, 1, 2]
        assert call("load_file", path, tmp_path / "copy") == str(tmp_path / "copy")
        with pytest.raises(errors.BadPath):
            call("load_file", tmp_path / "absent")


def test_mmap_mode(lab: Lab) -> None:
    array = np.arange(1000.0)
    with at(lab.a):
        uri = kc.store_npy(array)
    with at(lab.b):
        announced(uri)
        mapped = kc.load_npy(uri, mmap_mode="r")
        assert isinstance(mapped, np.memmap)
        assert not mapped.flags.writeable
        copied = kc.load_npy(uri, mmap_mode="c")
        assert copied is not None
        copied[0] = 7
        np.testing.assert_equal(kc.load_npy(uri), array)
        with pytest.raises(errors.BadInput):
            kc.load_npy(uri, mmap_mode="r+")


# --- ranges --------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("size", [1_000, 2 * LOCAL_PIECE + 5, MANIFEST_CHUNK + 1_000])
def test_ranges_of_what_is_elsewhere_and_of_what_is_here(lab: Lab, call: Any, size: int) -> None:
    data = content(f"ranges {call.__name__} {size}", size)
    with at(lab.a):
        uri = kc.store_bytes(data)
    assert ("?manifest=" in uri) == (size > MANIFEST_CHUNK)
    spans = [
        (None, 10),
        (size - 10, None),
        (size // 3, size // 2),
        (5, 5),
        (size - 5, size + 5),
        (size, size + 5),
        (size + 5, size + 9),
    ]
    with at(lab.b):
        announced(uri)
        for start, end in spans:
            assert call("load_bytes", uri, start, end) == data[start:end], (start, end)
        if size > MANIFEST_CHUNK:
            assert call("load_bytes", uri, local_only=True) is None  # not all of it has travelled
        assert call("load_file", uri)
        for start, end in spans:
            assert call("load_bytes", uri, start, end) == data[start:end], (start, end)
        assert call("load_bytes", uri) == data
        for start, end in ((-1, 5), (0, -1), (5, 4)):
            with pytest.raises(errors.BadInput):
                call("load_bytes", uri, start, end)


def test_numpy_numbers_are_byte_ranges_here_and_there_alike(lab: Lab) -> None:
    data = content("numbers", MANIFEST_CHUNK + 1000)
    with at(lab.a):
        uri = kc.store_bytes(data)
    with at(lab.b):
        announced(uri)
    for node in (lab.b, lab.a):
        with at(node):
            for start, end in (
                (np.int64(5), np.uint8(100)),
                (True, 100.0),
                (np.bool_(1), np.float32(9)),
            ):
                assert kc.load_bytes(uri, start, end) == data[int(start) : int(end)]  # type: ignore[arg-type]
            for wrong in ("5", 0.5, [5]):
                with pytest.raises(errors.BadInput, match="start"):
                    kc.load_bytes(uri, wrong, 10)  # type: ignore[arg-type]


def test_write_to_stdout_writes_the_bytes_and_returns_none(lab: Lab) -> None:
    with at(lab.a):
        uri = kc.store_bytes(b"raw \r\n\xff bytes")
    code = "import sys, kachery_p2p as kc; sys.exit(kc.load_bytes(sys.argv[1], 0, 8, True))"
    done = forked.run(
        [sys.executable, "-c", code, uri], env=lab.a.env, capture_output=True, check=True
    )
    assert done.stdout == b"raw \r\n\xff "


# --- links and finding ---------------------------------------------------------------------------


@BOTH
def test_a_linked_file_is_served_until_it_changes(lab: Lab, call: Any, tmp_path: Path) -> None:
    path = tmp_path / "recording.dat"
    path.write_bytes(content(f"link {call.__name__}", 100_000))
    with at(lab.a):
        uri = call("link_file", path)
        assert uri.endswith("/recording.dat")
        assert not blob_path(lab.a, uri).exists()
        assert call("load_file", uri) == str(path)
    with at(lab.b):
        announced(uri)
        assert call("load_bytes", uri) == path.read_bytes()
        blob_path(lab.b, uri).unlink()
    with path.open("r+b") as file:
        file.write(b"changed")
    with at(lab.b):
        assert call("load_bytes", uri) is None
    with at(lab.a):
        assert call("load_file", uri) is None
        with pytest.raises(errors.BadPath):
            call("link_file", tmp_path)


def test_find_says_who_has_it(lab: Lab) -> None:
    with at(lab.a):
        uri = kc.store_text("to be found")
        assert kc.find_file(uri)["local"] == str(blob_path(lab.a, uri))
    with at(lab.b):
        announced(uri)
        found = kc.find_file(uri)
        (holder,) = found["holders"]
        assert (holder["node"], holder["label"]) == (lab.a.node_id, "a")
        assert (holder["channel"], holder["direct"]) == ("lab", False)
        assert (found["local"], found["error"], found["code"]) == (None, "", "")
        kc.load_text(uri)
        assert kc.find_file(uri)["local"] == str(blob_path(lab.b, uri))
        nobody = kc.find_file(ABSENT)
        assert (nobody["holders"], nobody["local"], nobody["code"]) == ([], None, "")
        assert "asked" in nobody["detail"]


def test_what_keeps_us_from_asking_is_not_called_not_found(lab: Lab) -> None:
    with at(lab.a):
        kc.channel_set_roles("lab", "b", "provide-files")
    try:
        with at(lab.b):
            until(lambda: kc.find_file(ABSENT)["code"] == "access-denied", "b may not ask")
            found = kc.find_file(ABSENT)
            assert found["fields"]["role"] == "request-files"
            assert "request-files" in found["error"]
            with pytest.raises(errors.AccessDenied):
                kc.load_text(ABSENT)
        for verb in ("find", "load", "cat"):
            done = lab.b.cli(verb, ABSENT, "--json", check=False)
            assert done.returncode == errors.AccessDenied.exit_status
            assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "access-denied"
    finally:
        with at(lab.a):
            kc.channel_set_roles("lab", "b", "all")
    with at(lab.b):
        until(lambda: not kc.find_file(ABSENT)["code"], "b may ask again")


@BOTH
@pytest.mark.parametrize("size", [3_000, 3 * LOCAL_PIECE])
def test_what_goes_before_it_is_opened_is_fetched_anew(
    lab: Lab, call: Any, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is at its limit lets go of what nobody reads at that moment."""
    data = content(f"{call.__name__} goes", size)
    with at(lab.a):
        uri = call("store_bytes", data)
    with at(lab.b):
        announced(uri)
        path = Path(call("load_file", uri))
        find, times = storage.find, iter([True, True, False])

        def found(*arguments: Any) -> Any:
            blob = find(*arguments)
            if blob is not None and next(times, False):
                path.unlink()
            return blob

        monkeypatch.setattr(storage, "find", found)
        assert Path(call("load_file", uri)).read_bytes() == data
        monkeypatch.undo()
        times = iter([True] * 9)
        monkeypatch.setattr(storage, "find", found)
        with pytest.raises(errors.NotFound):
            call("load_file", uri)
