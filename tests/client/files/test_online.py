"""The client API with real nodes: what a user of A stores, a user of B loads through the proxy."""

from __future__ import annotations

import asyncio
import errno
import functools
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import kachery_p2p as kc
from kachery_p2p.client.files import stores
from kachery_p2p.client.session.pieces import FilePieces
from kachery_p2p.local import places
from kachery_p2p.protocol import errors
from kachery_p2p.protocol.limits import LOCAL_PIECE, MANIFEST_CHUNK
from tests.daemons import Daemon, Lab, announced, at, free_port, short_folder, until

pytestmark = pytest.mark.processes

ABSENT = "sha1://" + "0" * 40 + "/absent.txt"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One for the whole module; what a test stores is its own by content."""
    with short_folder() as folder:
        made = Lab(folder)
        made.a.options["api_port"] = free_port()
        with made:
            yield made


def content(name: str, size: int) -> bytes:
    return hashlib.shake_128(name.encode()).digest(size)


def blob_path(daemon: Daemon, uri: str) -> Path:
    sha1 = kc.parse_uri(uri).hash
    return daemon.storage / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6] / sha1


def sync_call(name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(kc, name)(*arguments, **options)


def async_call(name: str, *arguments: Any, **options: Any) -> Any:
    async def main() -> Any:
        return await getattr(kc, f"a{name}")(*arguments, **options)

    return asyncio.run(main())


BOTH = pytest.mark.parametrize("call", [sync_call, async_call], ids=["sync", "async"])


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
        assert kc.load_text(f"sha1dir://{hostile}/x") is None


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
    done = subprocess.run(
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


# --- the node ------------------------------------------------------------------------------------


@BOTH
def test_mutables_take_any_json_as_key(lab: Lab, call: Any) -> None:
    keys = ["k", "", "ключ", 1, 1.5, True, None, [1, "2"], {"a": {"b": 1}, "c": 2}, "1", "true"]
    with at(lab.a):
        for number, key in enumerate(keys):
            assert call("set", key, {"number": number})
        for number, key in enumerate(keys):
            assert call("get", key) == {"number": number}
        assert call("get", {"c": 2, "a": {"b": 1}}) == {"number": 8}  # order is no difference
        assert call("set", "k", "other", update=False) is False
        assert call("get", "k") == {"number": 0}
        assert call("set", "k", "text") is True
        assert call("get_string", "k") == "text"
        assert call("delete", "k") is True
        assert call("delete", "k") is False
        assert call("get", "k") is None
        assert call("get_string", "k") is None
        assert call("set", "k", "new", update=False) is True
        for bad in ({1, 2}, b"bytes", float("nan")):
            with pytest.raises(errors.BadInput):
                call("set", bad, 1)
            with pytest.raises(errors.BadInput):
                call("set", "k", bad)
    with at(lab.b):
        assert call("get", "k") is None  # they are this node's alone


@BOTH
def test_the_node_says_who_it_is(lab: Lab, call: Any) -> None:
    with at(lab.a):
        assert call("get_node_id") == lab.a.node_id
        info = call("node_info")
        assert (info["pid"], info["node_id"]) == (lab.a.pid, lab.a.node_id)
        assert info["storage_dir"] == str(lab.a.storage)
        (mine,) = [channel for channel in call("get_channels") if channel["name"] == "lab"]
        assert mine["owner"]
    with at(lab.b):
        (mine,) = call("get_channels")
        assert not mine["owner"]


def test_uris_are_taken_apart_and_put_together() -> None:
    manifest = "de" * 20
    uri = f"sha1://{'ab' * 20}/my%20file.dat?manifest={manifest}"
    parsed = kc.parse_uri(uri)
    assert (parsed.algorithm, parsed.hash) == ("sha1", "ab" * 20)
    assert (parsed.label, parsed.manifest) == ("my file.dat", manifest)
    assert kc.build_uri(parsed) == uri
    assert kc.build_uri(sha1="ab" * 20, label="my file.dat", manifest=manifest) == uri


# --- where it is called from ---------------------------------------------------------------------


def test_from_twenty_threads(lab: Lab, tmp_path: Path) -> None:
    with at(lab.a), ThreadPoolExecutor(20) as pool:
        texts = [f"from thread {number}" for number in range(100)]
        uris = list(pool.map(kc.store_text, texts))
        assert list(pool.map(kc.load_text, uris)) == texts
    with at(lab.b), ThreadPoolExecutor(20) as pool:
        announced(uris[-1])
        assert list(pool.map(kc.load_text, uris)) == texts
        load = functools.partial(kc.load_file, uris[0], tmp_path / "same")
        assert {future.result() for future in [pool.submit(load) for _ in range(40)]} == {
            str(tmp_path / "same")
        }
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


def test_inside_a_running_loop(lab: Lab) -> None:
    async def main() -> tuple[Any, Any]:
        uri = kc.store_text("as in a notebook")
        return kc.load_text(uri), await kc.aload_text(uri)

    with at(lab.a):
        assert asyncio.run(main()) == ("as in a notebook", "as in a notebook")


def test_many_loops_leave_nothing_open(lab: Lab) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def main() -> str:
        return await kc.aget_node_id()

    with at(lab.a):
        asyncio.run(main())
        before = descriptors()
        for _ in range(5):
            assert asyncio.run(main()) == lab.a.node_id
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(main()) == lab.a.node_id
            loop.close()
        asyncio.run(main())
        assert descriptors() == before


FORK = """
import os, sys
import kachery_p2p as kc
uri = kc.store_text("before the fork")
child = os.fork()
if not child:
    ok = kc.load_text(uri) == "before the fork" and kc.store_text("of the child")
    os._exit(0 if ok else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, kc.load_text(uri), kc.load_text(kc.store_text("of the child")))
"""


def test_after_a_fork_on_both_sides(lab: Lab) -> None:
    assert lab.a.python(FORK) == "0 before the fork of the child\n"


LOAD = """
import json, sys
import kachery_p2p as kc
def tell(info):
    print(json.dumps(info), flush=True)
try:
    kc.load_file(sys.argv[1], progress=tell)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_ends_a_load_that_the_next_one_continues(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "large.dat"
    size = 192 * 1024 * 1024
    piece = content("large", 1 << 20)
    with path.open("wb") as file:
        for number in range(size >> 20):
            file.write(number.to_bytes(8, "big") + piece[8:])
    with at(lab.a):
        uri = kc.store_file(path)
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, uri], env=lab.b.env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    verified = 0
    for line in process.stdout:
        verified = json.loads(line)["done"]
        if verified >= size // 8:
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=10)
    assert process.returncode == 130
    with at(lab.b):
        assert kc.load_file(uri, local_only=True) is None
        told: list[dict[str, Any]] = []
        assert kc.load_file(uri, progress=told.append) == str(blob_path(lab.b, uri))
    assert told[-1]["done"] == size
    assert 0 < told[-1]["fetched"] <= size - verified


# --- when something is the matter ----------------------------------------------------------------


@BOTH
def test_without_a_node_the_error_names_what_was_tried(tmp_path: Path, call: Any) -> None:
    with at(Daemon(tmp_path, "none")), pytest.raises(errors.DaemonNotRunning) as caught:
        call("load_text", ABSENT)
    for part in (str(tmp_path / "none/run/kachery-p2p"), "/run/kachery-p2p", "daemon start"):
        assert part in str(caught.value)


def test_after_a_restart_the_next_call_of_the_same_process_works(lab: Lab) -> None:
    async def main() -> None:
        assert await kc.aget_node_id() == lab.b.node_id
        for end in (lab.b.stop, lab.b.kill):
            await asyncio.to_thread(end)
            with pytest.raises(errors.DaemonNotRunning):
                await kc.anode_info()
            await asyncio.to_thread(lab.b.start)
            assert (await kc.anode_info())["pid"] == lab.b.pid

    with at(lab.b):
        uri = kc.store_text("survives")
        for end in (lab.b.stop, lab.b.kill):
            end()
            lab.b.start()
            assert kc.load_text(uri) == "survives"
            assert kc.node_info()["pid"] == lab.b.pid
        asyncio.run(main())


def test_another_storage_than_the_nodes_is_refused(lab: Lab, tmp_path: Path) -> None:
    with at(lab.a, KACHERY_STORAGE_DIR=str(tmp_path)):
        with pytest.raises(errors.StorageMismatch) as caught:
            kc.store_text("x")
        assert str(tmp_path) in str(caught.value)
        assert str(lab.a.storage) in str(caught.value)
    same = tmp_path / "same"
    same.symlink_to(lab.a.storage)
    with at(lab.a, KACHERY_STORAGE_DIR=str(same)):
        assert kc.load_text(kc.store_text("x")) == "x"


def test_a_file_that_is_cut_while_it_is_stored_over_tcp_is_an_error(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(5_000_000))

    class Cut(FilePieces):
        async def read(self, start: int, length: int) -> bytes:
            if start > 0:
                os.truncate(path, 0)
            return await super().read(start, length)

    with at(lab.a, KACHERY_P2P_API_PORT=str(lab.a.options["api_port"])):
        with monkeypatch.context() as patch:
            patch.setattr(stores, "FilePieces", Cut)
            with pytest.raises(errors.BadInput, match="cut to"):
                kc.store_file(path)
        path.write_bytes(b"x" * 2_000_000)
        assert kc.load_bytes(kc.store_file(path)) == path.read_bytes()


def test_over_tcp_with_the_token(lab: Lab, tmp_path: Path) -> None:
    port = str(lab.a.options["api_port"])
    token = Path(lab.a.env["XDG_RUNTIME_DIR"], "kachery-p2p", f"api-{port}.full.token")
    assert token.stat().st_mode & 0o077 == 0
    big = content("tcp", MANIFEST_CHUNK + 5)
    path = tmp_path / "big.dat"
    path.write_bytes(big)
    with at(lab.a, KACHERY_P2P_API_PORT=port):
        assert kc.load_text(kc.store_text("by TCP")) == "by TCP"
        uri = kc.store_file(path)
        assert "?manifest=" in uri
        assert kc.load_bytes(uri) == big
        assert kc.store_bytes(big, "big.dat") == uri
        with pytest.raises(errors.BadInput, match="Unix socket"):
            kc.link_file(path)
    right = token.read_text()
    for wrong in ("0" * len(right), "", "ä"):
        token.write_text(wrong)
        with at(lab.a, KACHERY_P2P_API_PORT=port), pytest.raises(errors.DaemonNotPermitted):
            kc.get_node_id()
    token.write_text(right)
    with at(lab.a, KACHERY_P2P_API_PORT=str(free_port())), pytest.raises(errors.DaemonNotRunning):
        kc.get_node_id()
    with at(lab.a, KACHERY_P2P_API_PORT="nonsense"), pytest.raises(errors.BadInput):
        kc.get_node_id()


@pytest.mark.parametrize("size", [20, 2 * LOCAL_PIECE])
def test_damage_on_the_local_disk_is_seen_put_aside_and_mended(lab: Lab, size: int) -> None:
    data = content(f"damage {size}", size).hex()
    with at(lab.a):
        uri = kc.store_text(data)
    with at(lab.b):
        announced(uri)
        for damage in range(2):
            assert kc.load_text(uri) == data
            path = blob_path(lab.b, uri)
            with path.open("r+b") as file:
                first = file.read(1)
                file.seek(0)
                file.write(bytes([first[0] ^ 1]))
            assert (kc.load_text if damage else kc.load_bytes)(uri) in (data, data.encode())
            assert path.read_text() == data
            assert path.with_name(f"{path.name}.corrupt-{damage + 1}").exists()
        assert any(kc.parse_uri(uri).hash in str(told) for told in kc.node_info()["warnings"])


# --- other users ---------------------------------------------------------------------------------


BECOME_NOBODY = """
import asyncio, json, os, pwd, sys
import kachery_p2p as kc
from tests.another_user import import_everything
# Once all is imported: nobody may be unable to read the folder that this Python is in.
import_everything()
nobody = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(nobody.pw_gid)
os.setuid(nobody.pw_uid)
"""


def as_nobody(daemon: Daemon, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BECOME_NOBODY + code, *arguments],
        env={**daemon.env, "PYTHONPATH": os.getcwd()},
        cwd="/",
        text=True,
        capture_output=True,
    )


@pytest.fixture
def open_folder(short_folder: Path) -> Path:
    """A folder that others may look into."""
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    short_folder.chmod(0o755)
    return short_folder


EVERYTHING = """
def attempt(function, *arguments):
    try:
        return function(*arguments)
    except kc.KacheryError as error:
        return [error.code, str(error)]
big, text = sys.argv[1:]
print(json.dumps({
    "text": attempt(kc.load_text, text),
    "range": attempt(lambda: kc.load_bytes(big, 0, 3).hex()),
    "get": attempt(kc.get, "key"),
    "store": attempt(kc.store_text, "x"),
    "file": attempt(kc.store_file, "/etc/passwd"),
    "link": attempt(kc.link_file, "/etc/passwd"),
    "set": attempt(kc.set, "key", 1),
    "delete": attempt(kc.delete, "key"),
    "leave": attempt(kc.channel_leave, "lab"),
    "stop": attempt(kc.stop_node),
}))
"""


def test_a_user_whom_the_socket_does_not_let_in_is_told_so(open_folder: Path) -> None:
    with Daemon(open_folder, "n") as node:
        done = as_nobody(node, EVERYTHING, ABSENT, ABSENT)
        assert done.returncode == 0, done.stderr
        for code, sentence in json.loads(done.stdout).values():
            assert code == "daemon-not-permitted"
            assert node.env["XDG_RUNTIME_DIR"] in sentence
            assert "--auth-group" in sentence


def test_a_read_only_user_may_load_and_change_nothing(open_folder: Path) -> None:
    node = Daemon(open_folder, "n")
    # Not by 'daemon start', whose socket would be in the one folder that all tests would share.
    config = {
        "state_dir": str(node.home / "state"),
        "storage_dir": str(node.storage),
        "runtime_dir": str(node.home / "run" / "kachery-p2p"),
        "socket_mode": 0o666,
        "others_read_only": True,
    }
    command = [sys.executable, "-m", "kachery_p2p.node", json.dumps(config), "--foreground"]
    process = subprocess.Popen(command, env=node.env, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "is up" in line:
                break
        with at(node):
            text = kc.store_text("to be read by others")
            big = kc.store_bytes(bytes(MANIFEST_CHUNK + 1))
            kc.set("key", "value")
        done = as_nobody(node, EVERYTHING, big, text)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told.pop("text") == "to be read by others"
        assert told.pop("range") == "000000"
        assert told.pop("get") == "value"
        for code, sentence in told.values():
            assert code == "read-only-user"
            assert "nobody" in sentence
        with at(node):
            assert kc.get("key") == "value"
    finally:
        process.terminate()
        process.communicate()


def test_a_socket_of_somebody_elses_does_not_hide_ones_own(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after 'su', with the other user's XDG_RUNTIME_DIR: the system's node is found anyway."""
    locked = mock.Mock(side_effect=PermissionError(errno.EACCES, "Permission denied"))
    mine = places.socket_candidates(lab.a.env)[0]
    monkeypatch.setattr(places, "socket_candidates", lambda: [tmp_path / "locked", mine])
    unix = kc.client.session.connection._unix
    monkeypatch.setattr(
        kc.client.session.connection,
        "_unix",
        lambda path: ("locked", locked) if path.name == "locked" else unix(path),
    )
    with at(lab.a):
        assert kc.get_node_id() == lab.a.node_id
    assert locked.called
