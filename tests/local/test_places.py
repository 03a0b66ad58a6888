"""Where things lie, whatever the environment says or leaves out."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from kachery_p2p.local import places
from kachery_p2p.protocol.errors import BadInput

HOME = {"HOME": "/home/ada"}
ME = pwd.getpwuid(os.getuid())


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("~", "/home/ada"),
        ("~/x/y", "/home/ada/x/y"),
        (Path("~/x"), "/home/ada/x"),
        (f"~{ME.pw_name}", ME.pw_dir),
        (f"~{ME.pw_name}/x", f"{ME.pw_dir}/x"),
        ("/a/~/b", "/a/~/b"),
        ("./~", "./~"),
        ("a~", "a~"),
        ("", ""),
    ],
)
def test_a_tilde_is_the_home_folder(path: str, meant: str) -> None:
    assert places.user_path(path, HOME) == meant


def test_the_home_of_nobody_we_know_is_refused() -> None:
    with pytest.raises(BadInput, match="there is no user 'no-such-user'"):
        places.user_path("~no-such-user/x", HOME)


def test_variables_may_begin_with_a_tilde(tmp_path: Path) -> None:
    environ = {**HOME, "KACHERY_STORAGE_DIR": "~/k", "XDG_STATE_HOME": "~/s"}
    assert places.default_storage_dir(environ) == Path("/home/ada/k")
    assert places.default_state_dir(environ) == Path("/home/ada/s/kachery-p2p")
    home = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "~/r"}
    assert places.private_runtime(home) == tmp_path / "r/kachery-p2p"
    for name in (places.OFFLINE_VARIABLE, places.OLD_OFFLINE_VARIABLE):
        assert places.offline_dir({**HOME, name: "~/o"}) == Path("/home/ada/o")


def test_without_home_the_list_of_users_says_where_it_is() -> None:
    assert places.default_storage_dir({}) == Path(ME.pw_dir) / "kachery-storage"
    assert places.default_state_dir({}) == Path(ME.pw_dir) / ".local/state/kachery-p2p"


def test_a_user_without_any_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(BadInput, match="set HOME, or XDG_STATE_HOME and KACHERY_STORAGE_DIR"):
        places.default_state_dir({})
    environ = {"XDG_STATE_HOME": "/s", "KACHERY_STORAGE_DIR": "/k"}
    assert places.default_state_dir(environ) == Path("/s/kachery-p2p")
    assert places.default_storage_dir(environ) == Path("/k")


def test_a_runtime_folder_that_is_not_ours_gets_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 'su' the variable names the folder of the user before; of root's node there would be a
    folder in it that locks that user out."""
    ours, others = tmp_path / "ours", tmp_path / "others"
    ours.mkdir()
    others.mkdir()
    (tmp_path / "file").touch()
    home = {"HOME": str(tmp_path)}
    fallback = tmp_path / ".local/state/kachery-p2p/run"
    system = places.SYSTEM_RUNTIME / places.SOCKET_NAME

    def made_in(value: Path | str) -> Path:
        environ = {**home, "XDG_RUNTIME_DIR": str(value)}
        found = places.socket_candidates(environ)
        assert found[0] == Path(value, "kachery-p2p/node.sock")  # a client asks there all the same
        assert found[-2:] == [places.private_runtime(environ) / "node.sock", system]
        return places.private_runtime(environ)

    assert made_in(ours) == ours / "kachery-p2p"
    assert made_in(ours / "made/by us") == ours / "made/by us/kachery-p2p"
    for value in ("relative", tmp_path / "file", tmp_path / "file/below"):
        assert made_in(value) == fallback
    status = os.stat(others)
    real = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path != others:
            return real(path, **options)
        return os.stat_result((*status[:4], status.st_uid + 1, *status[5:10]))

    monkeypatch.setattr(Path, "stat", stat)
    assert made_in(others) == fallback
    assert places.login_runtime(home) is None
