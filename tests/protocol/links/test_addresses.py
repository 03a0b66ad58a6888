"""What an address leads to, whom it counts with, and who may have it dialled."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.links import addresses

PUBLIC = ("8.8.8.8", "2606:4700::1111")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.0.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::127.0.0.1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("10.1.2.3", "10.0.0.0/8"),
        ("64:ff9b::a01:203", "10.0.0.0/8"),
        ("172.16.0.1", "172.16.0.0/12"),
        ("172.32.0.1", "public"),
        ("192.168.0.1", "192.168.0.0/16"),
        ("100.64.0.1", "100.64.0.0/10"),
        ("fd12::1", "fc00::/7"),
        ("0.0.0.0", "never"),
        ("0.1.2.3", "never"),
        ("::", "never"),
        ("255.255.255.255", "never"),
        ("224.0.0.251", "never"),
        ("ff02::fb", "never"),
        ("240.0.0.1", "never"),
        ("198.18.0.1", "never"),
        ("fec0::1", "never"),
        ("64:ff9b:1::1", "never"),
        ("8.8.8.8", "public"),
        ("::ffff:8.8.8.8", "public"),
        ("2606:4700::1111", "public"),
    ],
)
def test_an_address_is_judged_by_what_it_leads_to(text: str, where: str) -> None:
    assert addresses.range_of(ip_address(text)) == where


@pytest.mark.parametrize(
    ("target", "own", "allowed", "may"),
    [
        ("8.8.8.8", [], [], True),
        ("127.0.0.1", [], [], False),
        ("127.0.0.1", ["8.8.8.8", "10.0.0.1"], [], False),
        ("127.0.0.1", ["127.0.0.1"], [], True),
        ("::1", ["127.0.0.1"], [], True),
        ("::ffff:127.0.0.1", [], [], False),
        ("10.9.9.9", ["10.0.0.1"], [], True),
        ("10.9.9.9", ["192.168.0.1", "127.0.0.1"], [], False),
        ("192.168.7.7", ["10.0.0.1"], ["192.168.7.0/24"], True),
        ("192.168.8.7", ["10.0.0.1"], ["192.168.7.0/24"], False),
        ("::ffff:192.168.7.7", [], ["192.168.7.0/24"], True),
        ("169.254.169.254", ["10.0.0.1"], [], False),
        ("0.0.0.0", ["127.0.0.1", "0.0.0.0"], [], False),
        ("224.0.0.1", ["224.0.0.1"], [], False),
        ("fd00::1", ["fd12::1"], [], True),
        ("fd00::1", ["10.0.0.1"], ["10.0.0.0/8"], False),
    ],
)
def test_private_addresses_are_dialled_from_their_own_range_or_by_the_users_leave(
    target: str, own: list[str], allowed: list[str], may: bool
) -> None:
    assert (
        addresses.may_dial(
            ip_address(target),
            own=map(ip_address, own),
            allowed=map(addresses.parse_network, allowed),
        )
        is may
    )


@given(st.ip_addresses())
def test_no_address_raises_and_what_is_not_public_is_not_dialled_by_a_node_without_one(
    address: addresses.Address,
) -> None:
    where = addresses.range_of(address)
    assert addresses.may_dial(address, own=()) is (where == "public")
    assert where != "public" or addresses.leads_to(address).is_global
    assert addresses.group_of(str(address))


@pytest.mark.parametrize(
    ("peer", "headers", "trusted", "client"),
    [
        ("8.8.8.8", ["1.1.1.1"], [], "8.8.8.8"),  # a stranger's word
        ("127.0.0.1", ["1.1.1.1"], [], "1.1.1.1"),
        ("::1", ["1.1.1.1"], [], "1.1.1.1"),
        ("127.0.0.1", ["9.9.9.9, 1.1.1.1"], [], "1.1.1.1"),  # the first one, the client made up
        ("127.0.0.1", ["9.9.9.9", "1.1.1.1"], [], "1.1.1.1"),
        ("10.0.0.2", ["1.1.1.1"], [], "10.0.0.2"),
        ("10.0.0.2", ["1.1.1.1"], ["10.0.0.2"], "1.1.1.1"),
        ("10.0.0.2", ["9.9.9.9, 1.1.1.1, 10.0.0.7"], ["10.0.0.0/24"], "1.1.1.1"),
        ("127.0.0.1", [], [], "127.0.0.1"),
        ("127.0.0.1", ["nonsense"], [], "127.0.0.1"),
        ("127.0.0.1", ["1.1.1.1, nonsense"], [], "127.0.0.1"),
        ("127.0.0.1", ["[2606:4700::1]:443"], [], "2606:4700::1"),
        ("127.0.0.1", ["1.1.1.1:555"], [], "1.1.1.1"),
        ("127.0.0.1", [","], [], "127.0.0.1"),
    ],
)
def test_only_a_reverse_proxy_says_for_whom_it_speaks(
    peer: str, headers: list[str], trusted: list[str], client: str
) -> None:
    networks = [addresses.parse_network(text) for text in trusted]
    assert addresses.client_address(peer, headers, networks) == client


def test_an_ipv6_network_counts_as_one_stranger() -> None:
    assert addresses.group_of("2001:db8:1:2::1") == addresses.group_of("2001:db8:1:2:ffff::9")
    assert addresses.group_of("2001:db8:1:2::1") != addresses.group_of("2001:db8:1:3::1")
    assert addresses.group_of("::ffff:8.8.8.8") == addresses.group_of("8.8.8.8") == "8.8.8.8"
    assert addresses.group_of("local") == "local"


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "10.0.0.1/8", "lab", "10.0.0.0/8/8"])
def test_a_network_that_is_none_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput):
        addresses.parse_network(text)
