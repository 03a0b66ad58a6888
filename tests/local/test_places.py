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


def test_variables_may_begin_with_a_tilde() -> None:
    environ = {
        **HOME,
        "KACHERY_STORAGE_DIR": "~/k",
        "XDG_STATE_HOME": "~/s",
        "XDG_RUNTIME_DIR": "~/r",
    }
    assert places.default_storage_dir(environ) == Path("/home/ada/k")
    assert places.default_state_dir(environ) == Path("/home/ada/s/kachery-p2p")
    assert places.private_runtime(environ) == Path("/home/ada/r/kachery-p2p")
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
