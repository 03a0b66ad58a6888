"""Roles and the words for them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.channels.roles import ALL_BITS, ROLES, from_bits, parse_roles, to_bits
from kachery_p2p.protocol.errors import BadInput


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", set(ROLES) - {"proxy"}),
        ("none", set()),
        ("files", {"provide-files", "request-files"}),
        ("tasks,proxy", {"provide-tasks", "request-tasks", "proxy"}),
        ("provide", {"provide-files", "provide-feeds", "provide-tasks"}),
        (" Request , provide-feeds", {r for r in ROLES if r.startswith("req")} | {"provide-feeds"}),
        (["request-files", "request-files"], {"request-files"}),
        ([], set()),
        *((role, {role}) for role in ROLES),
    ],
)
def test_words_mean_roles(text: object, expected: set[str]) -> None:
    assert parse_roles(text) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "admin", "files,", "provide files", ["all", "root"]])
def test_an_unknown_role_is_named_and_the_valid_ones_are_listed(text: object) -> None:
    with pytest.raises(BadInput) as caught:
        parse_roles(text)  # type: ignore[arg-type]
    unknown = "root" if isinstance(text, list) else text.split(",")[-1]  # type: ignore[attr-defined]
    assert repr(unknown) in str(caught.value)
    assert all(role in str(caught.value) for role in (*ROLES, "all", "none"))


@settings(deadline=None, max_examples=50)
@given(st.frozensets(st.sampled_from(ROLES)))
def test_bits_and_sets_are_the_same_thing(roles: frozenset[str]) -> None:
    assert from_bits(to_bits(roles)) == roles
    assert 0 <= to_bits(roles) <= ALL_BITS


def test_the_bits_of_the_format_do_not_move() -> None:
    assert [to_bits({role}) for role in ROLES] == [1, 2, 4, 8, 16, 32, 64]
    assert ROLES[0] == "provide-files"
    assert ROLES[-1] == "proxy"
