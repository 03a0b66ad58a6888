"""Where the limit of a storage folder comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from kachery_p2p.storage.limit import limit_of, set_limit
from kachery_p2p.storage.state import StateDB


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("maxCacheSizeGiB: 20\n", 20_000_000_000),
        ("# mine\nother: 1\nmaxCacheSizeGiB: 0.5  # half\n", 500_000_000),
        ("maxCacheSizeGiB: 0\n", None),
        ("maxCacheSizeGiB: lots\n", None),
        ("maxCacheSizeGiB: 1e99\n", None),
        ("nested:\n  maxCacheSizeGiB: 5\n", None),
        ("", None),
    ],
)
def test_kacherys_own_setting_counts_and_what_the_user_says_counts_more(
    tmp_path: Path, text: str, limit: int | None
) -> None:
    (tmp_path / "kachery.yaml").write_text(text)
    with StateDB(tmp_path / "state.sqlite", durable=False) as state:
        assert limit_of(tmp_path, state) == limit
        set_limit(state, 1_000)
        assert limit_of(tmp_path, state) == 1_000
        set_limit(state, None)
        assert limit_of(tmp_path, state) is None


def test_without_a_file_there_is_no_limit(tmp_path: Path) -> None:
    with StateDB(tmp_path / "state.sqlite", durable=False) as state:
        assert limit_of(tmp_path, state) is None
