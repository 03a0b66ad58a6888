"""Folders without a node: what is stored of one, what comes back, and what is refused."""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

import kachery_p2p as kc
from kachery_p2p.client.folders import batches, directories, placing, scan
from kachery_p2p.client.folders.placing import Target
from kachery_p2p.protocol.errors import BadInput, BadPath, BadUri, Cancelled, NotFound
from kachery_p2p.protocol.limits import BATCH_FILE, MANIFEST_CHUNK
from tests.another_user import as_nobody


@pytest.fixture
def tree(tmp_path: Path, folder: Path) -> Path:
    """A folder with a bit of everything that can be stored."""
    top = tmp_path / "tree"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "a.txt").write_text("a")
    (top / "none").write_bytes(b"")
    (top / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (top / "sub" / "run.sh").chmod(0o755)
    (top / "sub" / "deep" / "middle").write_bytes(os.urandom(BATCH_FILE + 1))
    (top / "é\n %20?.txt").write_text("odd")
    os.link(top / "a.txt", top / "again.txt")
    return top


def content_of(top: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(top)): (path.read_bytes(), bool(path.stat().st_mode & 0o100))
        if path.is_file()
        else None
        for path in top.rglob("*")
    }


def test_a_folder_comes_back_as_it_was(tree: Path, tmp_path: Path) -> None:
    uri = kc.store_dir(tree)
    assert uri.startswith("sha1dir://")
    assert uri.endswith(".tree")
    assert kc.load_dir(uri, tmp_path / "out") == str(tmp_path / "out")
    assert content_of(tmp_path / "out") == content_of(tree)
    assert kc.store_dir(tmp_path / "out", "tree") == uri
    assert kc.store_dir(f"{tree}/sub/..", label="").startswith(uri[:50])


def test_one_file_of_a_folder_is_had_wherever_a_uri_is_taken(tree: Path, tmp_path: Path) -> None:
    with open(tree / "big", "wb") as file:
        file.truncate(MANIFEST_CHUNK + 5)
        file.write(b"begin")
    uri = kc.store_dir(tree, "my label")
    assert uri.endswith(".my%20label")
    assert kc.load_text(f"{uri}/a.txt") == "a"
    assert kc.load_bytes(f"{uri}/big", 0, 5) == b"begin"
    assert kc.load_text(kc.list_dir(uri)[-1].uri) == "odd"  # type: ignore[index]
    path = kc.load_file(f"{uri}/sub/run.sh", dest=tmp_path / "to.sh")
    assert path is not None
    assert Path(path).read_text() == "#!/bin/sh\n"
    assert kc.load_text(f"{uri}/sub") is None
    entry = {entry.name: entry for entry in kc.list_dir(uri) or []}["big"]
    assert "?manifest=" in entry.uri


def test_the_list_of_a_folder_says_what_is_in_it(tree: Path) -> None:
    uri = kc.store_dir(tree)
    listed = kc.list_dir(uri)
    assert listed is not None
    assert [(e.name, e.is_dir, e.size) for e in listed] == [
        ("a.txt", False, 1),
        ("again.txt", False, 1),
        ("empty", True, 0),
        ("none", False, 0),
        ("sub", True, BATCH_FILE + 1 + 10),
        ("é\n %20?.txt", False, 3),
    ]
    sub = kc.list_dir(listed[4].uri)
    assert sub == kc.list_dir(f"{uri}/sub/") is not None
    assert [(e.name, e.executable) for e in sub or []] == [("deep", False), ("run.sh", True)]
    everything = kc.list_dir(f"{uri}/sub", recursive=True)
    assert [e.name for e in everything or []] == ["run.sh", "deep/middle"]
    for wrong in (f"{uri}/nope", f"{uri}/a.txt", f"{uri}/../x", "sha1://" + "0" * 40):
        with pytest.raises(BadInput):
            kc.list_dir(wrong)
    assert kc.list_dir("sha1dir://" + "0" * 40) is None
    with pytest.raises(BadInput, match="folder is stored as"):
        kc.list_dir("sha1dir://" + kc.store_text("no listing").split("/")[2])


def test_what_is_ignored_is_left_out_and_nothing_else(tree: Path) -> None:
    (tree / ".hidden").write_text("h")
    (tree / "sub" / "x.tmp").symlink_to("/etc/passwd")
    (tree / "build").mkdir()
    (tree / "build" / "x").write_text("x")
    (tree / "sub" / "build").write_text("a file")

    def names(ignore: Any) -> list[str]:
        found = kc.list_dir(kc.store_dir(tree, ignore=ignore), recursive=True)
        return [entry.name for entry in found or []]

    everything = names("*.tmp")
    assert ".hidden" in everything
    assert "build/x" in everything
    assert "sub/build" in everything
    assert "build/x" not in names(["*.tmp", "build/"])
    assert "sub/build" in names(["*.tmp", "build/"])
    assert set(everything) - set(names(["sub/*"])) >= {"sub/build", "sub/deep/middle"}
    assert names(["*"]) == []
    for wrong in ("", "/", [1], [""]):
        with pytest.raises(BadInput, match="pattern"):
            kc.store_dir(tree, ignore=wrong)  # type: ignore[arg-type]


def test_what_a_listing_cannot_hold_is_said_before_anything_is_stored(
    tree: Path, folder: Path
) -> None:
    (tree / "link").symlink_to("a.txt")
    (tree / "sub" / "dangling").symlink_to("nowhere")
    (tree / "sub" / "out").symlink_to("/etc")
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        before = os.getcwd()
        os.chdir(tree)  # the name of a socket must be short
        try:
            bound.bind("socket")
            os.mkdir(b"bad-\xff-name")
        finally:
            os.chdir(before)
        with pytest.raises(BadPath, match="ignore=") as raised:
            kc.store_dir(tree)
    text = str(raised.value)
    for kind in ("symbolic link", "pipe", "socket", "no UTF-8", "and 1 more"):
        assert kind in text, kind
    assert not folder.exists()
    uri = kc.store_dir(tree, ignore=["link", "dangling", "out", "pipe", "socket", "bad-*"])
    assert kc.load_text(f"{uri}/a.txt") == "a"


def test_what_may_not_be_read_is_said() -> None:
    """Also if root runs the tests, who reads everything."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        top = Path(name)
        top.chmod(0o755)
        (top / "open").write_text("x")
        (top / "secret").write_text("x")
        (top / "secret").chmod(0)
        (top / "closed").mkdir(0)

        def store() -> None:
            with pytest.raises(
                BadPath, match=r"closed': it cannot be read.*secret' is not readable"
            ):
                scan.scan_folder(name, scan.Ignored(()), (), lambda: False)
            left = scan.scan_folder(name, scan.Ignored(["secret", "closed"]), (), lambda: False)
            assert [source.name for source in left.files] == ["open"]

        as_nobody(store)


def test_the_storage_is_not_stored_in_itself(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "mine").write_text("x")
    kc.store_text("so it is there")
    with pytest.raises(BadPath, match="storage itself"):
        kc.store_dir(tmp_path)
    assert kc.store_dir(tmp_path, ignore="folder/")


def test_what_is_no_folder_or_no_label_is_refused(tree: Path, tmp_path: Path) -> None:
    for wrong in (tree / "a.txt", tmp_path / "nope", "\0"):
        with pytest.raises(BadPath):
            kc.store_dir(wrong)
    with pytest.raises(BadPath, match="store_dir"):
        kc.store_file(tree)
    for label in ("a/b", "x" * 1_001):
        with pytest.raises(BadUri):
            kc.store_dir(tree, label)
    with pytest.raises(BadInput, match="link is provided"):
        kc.store_dir(tree, link=True, channel="lab")


def test_a_folder_that_changes_while_it_is_stored_is_said(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = batches.open_source

    def meddle(change: Any) -> Any:
        def open_source(file: batches.Candidate) -> int:
            if file.path.endswith("a.txt"):
                change()
            return real(file)

        return open_source

    def replaced() -> None:
        (tree / "new").write_text("b")
        os.replace(tree / "new", tree / "a.txt")

    for change in (
        lambda: (tree / "a.txt").write_text("longer"),
        lambda: (tree / "more.txt").write_text("came"),
        lambda: (tree / "none").unlink(),
        replaced,
    ):
        monkeypatch.setattr(batches, "open_source", meddle(change))
        with pytest.raises(BadPath, match=r"changed while it was stored|no such file"):
            kc.store_dir(tree)
        (tree / "none").write_text("")
        monkeypatch.setattr(batches, "open_source", real)
        assert kc.store_dir(tree)


def test_a_link_in_place_of_a_file_is_not_followed(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody swaps a file for a link to another's secret just before it is read."""
    real = batches.open_source

    def swap(file: batches.Candidate) -> int:
        if file.path.endswith("a.txt"):
            os.unlink(file.path)
            os.symlink("/etc/passwd", file.path)
        return real(file)

    monkeypatch.setattr(batches, "open_source", swap)
    with pytest.raises(BadPath, match=r"a\.txt"):
        kc.store_dir(tree)


def test_linked_files_are_where_they_were(tree: Path, folder: Path) -> None:
    uri = kc.store_dir(tree, link=True)
    assert kc.load_text(f"{uri}/a.txt") == "a"
    links = list(folder.rglob("*.link"))
    assert len(links) == 5, "one for each content"
    (tree / "a.txt").write_text("changed")
    assert kc.load_text(f"{uri}/a.txt") is None


# --- loading -------------------------------------------------------------------------------------


def test_what_is_there_already_is_left_alone(tree: Path, tmp_path: Path) -> None:
    uri, out = kc.store_dir(tree), tmp_path / "out"
    kc.load_dir(uri, out)
    (out / "mine.txt").write_text("stays")
    before = {path: path.stat().st_ino for path in out.rglob("*")}
    (out / "a.txt").unlink()
    (out / "sub" / "run.sh").chmod(0o644)
    kc.load_dir(uri, out)
    after = {path: path.stat().st_ino for path in out.rglob("*")}
    assert before.keys() == after.keys()
    assert {path.name for path in before if before[path] != after[path]} <= {"a.txt"}
    assert os.access(out / "sub" / "run.sh", os.X_OK)


def test_another_file_is_replaced_only_if_that_is_said(tree: Path, tmp_path: Path) -> None:
    uri, out = kc.store_dir(tree), tmp_path / "out"
    out.mkdir()
    (out / "a.txt").write_text("b")
    with pytest.raises(BadPath, match="replace=True"):
        kc.load_dir(uri, out)
    assert (out / "a.txt").read_text() == "b"
    kc.load_dir(uri, out, replace=True)
    assert content_of(out) == content_of(tree)
    assert not list(out.rglob(".kachery-*"))


def test_no_link_leads_out_of_the_destination(tree: Path, tmp_path: Path) -> None:
    uri, out, elsewhere = kc.store_dir(tree), tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "sub").symlink_to(elsewhere)
    for replace in (False, True):
        with pytest.raises(BadPath, match="lead elsewhere"):
            kc.load_dir(uri, out, replace=replace)
    (out / "sub").unlink()
    (elsewhere / "secret").write_text("s")
    (out / "a.txt").symlink_to(elsewhere / "secret")
    for replace in (False, True):
        with pytest.raises(BadPath, match=r"a\.txt"):
            kc.load_dir(uri, out, replace=replace)
    assert [path.name for path in elsewhere.iterdir()] == ["secret"]
    assert (elsewhere / "secret").read_text() == "s"
    # What the user names is theirs to make a link.
    (tmp_path / "linked").symlink_to(elsewhere)
    kc.load_dir(uri, tmp_path / "linked")
    assert (elsewhere / "a.txt").read_text() == "a"


@pytest.mark.parametrize("name", ["..", "../x", "/tmp/x", "a/../../x", "x\0y", "."])
def test_a_listing_with_names_that_lead_out_is_refused(
    folder: Path, tmp_path: Path, name: str
) -> None:
    sha1 = kc.store_text("x").split("/")[2]
    for listing in (
        {"files": {name: {"sha1": sha1, "size": 1}}},
        {"dirs": {name: {"files": {"x": {"sha1": sha1, "size": 1}}}}},
    ):
        hash = kc.store_bytes(json.dumps(listing).encode()).split("/")[2]
        with pytest.raises(BadInput, match="the name"):
            kc.load_dir(f"sha1dir://{hash}", tmp_path / "out" / "in")
    assert not (tmp_path / "out").exists()


def test_a_listing_of_kachery_loads(folder: Path, tmp_path: Path) -> None:
    sha1 = kc.store_text("x").split("/")[2]
    listing = {
        "files": {"a.txt": {"size": 1, "sha1": sha1}},
        "dirs": {"d": {"files": {}, "dirs": {}}},
    }
    hash = kc.store_json(listing).split("/")[2]
    kc.load_dir(f"sha1dir://{hash}.old", tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_text() == "x"
    assert (tmp_path / "out" / "d").is_dir()
    kc.load_dir(f"sha1dir://{hash}.old/d", tmp_path / "d")
    assert list((tmp_path / "d").iterdir()) == []
    listing = {"files": {"a.txt": {"size": 1, "md5": "00" * 16}, "b": {"size": 2}}}
    hash = kc.store_json(listing).split("/")[2]
    with pytest.raises(BadInput, match=r"a\.txt.* and 1 more is listed without a SHA-1"):
        kc.load_dir(f"sha1dir://{hash}", tmp_path / "md5")
    assert (kc.list_dir(f"sha1dir://{hash}") or [])[0].uri == ""
    assert kc.load_text(f"sha1dir://{hash}/a.txt") is None


def test_a_file_that_is_nowhere_is_said_and_the_others_come(tree: Path, tmp_path: Path) -> None:
    uri = kc.store_dir(tree)
    path = kc.load_file(f"{uri}/a.txt")
    assert path is not None
    os.unlink(path)
    with pytest.raises(NotFound, match=r"'a\.txt' of sha1dir.*1 more"):
        kc.load_dir(uri, tmp_path / "out")
    assert (tmp_path / "out" / "sub" / "run.sh").exists()
    assert kc.load_dir("sha1dir://" + "0" * 40, tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_damaged_content_never_gets_to_the_destination(tree: Path, tmp_path: Path) -> None:
    uri = kc.store_dir(tree)
    path = kc.load_file(f"{uri}/a.txt")
    assert path is not None
    os.chmod(path, 0o644)
    Path(path).write_text("X")
    with pytest.raises(kc.errors.CorruptContent):
        kc.load_dir(uri, tmp_path / "out")
    assert not (tmp_path / "out" / "a.txt").exists()


def test_names_that_are_one_on_a_disk_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not tell A from a shows one of the two names, and finds it by both."""
    target = Target(str(tmp_path / "out"), replace=True)
    (tmp_path / "out" / "A.txt").write_text("x")
    real = os.stat
    monkeypatch.setattr(
        placing.os,
        "stat",
        lambda name, **more: real("A.txt" if name == "a.txt" else name, **more),
    )
    with target.folder("") as opened:
        assert opened is not None
        target.check_twin(opened, "", "A.txt", "a.txt")
        with pytest.raises(BadPath, match=r"'A\.txt' are one"):
            target.check_twin(opened, "", "a.txt", "A.txt")
    target.close()


def test_where_files_have_no_unnamed_ones_they_are_renamed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = kc.store_dir(tree)
    monkeypatch.setattr(placing, "_unnamed", lambda folder, mode: -1)
    kc.load_dir(uri, tmp_path / "out")
    (tmp_path / "out" / "a.txt").write_text("b")
    kc.load_dir(uri, tmp_path / "out", replace=True)
    assert content_of(tmp_path / "out") == content_of(tree)


def test_progress_is_that_of_the_whole_folder(tree: Path, tmp_path: Path) -> None:
    told: list[kc.ProgressInfo] = []
    uri = kc.store_dir(tree, progress=told.append)
    total = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    assert (told[-1]["done"], told[-1]["total"], told[-1]["ended"]) == (total, total, True)
    assert all(info["name"] == "tree" and info["done"] <= total for info in told)
    told.clear()
    kc.load_dir(uri, tmp_path / "out", progress=told.append)
    assert (told[-1]["done"], told[-1]["total"], told[-1]["ended"]) == (total, total, True)
    assert all(info["name"] == "tree" and info["done"] <= total for info in told)


def test_a_sparse_file_stays_one(tree: Path, tmp_path: Path) -> None:
    with open(tree / "sparse", "wb") as file:
        file.truncate(8_000_000)
    kc.load_dir(kc.store_dir(tree), tmp_path / "out")
    status = (tmp_path / "out" / "sparse").stat()
    assert status.st_size == 8_000_000
    assert status.st_blocks * 512 < 4_000_000


def test_many_files_are_more_than_one_batch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "BATCH_FILES", 7)
    monkeypatch.setattr(batches, "BATCH_BYTES", 30)
    top = tmp_path / "many"
    top.mkdir()
    for number in range(40):
        (top / f"{number:02}").write_text("x" * (number % 13))
    uri = kc.store_dir(top)
    kc.load_dir(uri, tmp_path / "out")
    assert content_of(tmp_path / "out") == content_of(top)
    (top / "20").write_text("changed")
    assert kc.store_dir(top) != uri


def test_a_store_that_nobody_waits_for_any_more_ends(tree: Path) -> None:
    gone = threading.Event()
    gone.set()
    with pytest.raises(Cancelled):
        scan.scan_folder(str(tree), scan.Ignored(()), (), gone.is_set)


@pytest.fixture
def deep(tmp_path: Path, folder: Path) -> Path:
    """More folders in one another than a listing holds."""
    before = os.getcwd()
    top = tmp_path / "deep"
    top.mkdir()
    os.chdir(top)
    try:
        for _ in range(258):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(before)
    return top


def test_a_folder_that_is_too_deep_is_refused(deep: Path) -> None:
    with pytest.raises(BadPath, match="folders deep"):
        kc.store_dir(deep)


def test_modes_are_as_the_umask_has_them(tree: Path, tmp_path: Path) -> None:
    uri = kc.store_dir(tree)
    before = os.umask(0o027)
    try:
        kc.load_dir(uri, tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out" / "a.txt").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "out" / "sub" / "run.sh").stat().st_mode) == 0o750
