"""The address guard against a table of its own and against every disguise of an IPv4 address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.kernel.outbound.guard import check_address, check_contact

# Copied by hand from the registries' own pages, not from the code: address blocks that are in the
# IANA special-purpose registries (2025), with what is multicast or unallocated added.
IPV4_SPECIAL = [
    ip_network(block)
    for block in [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    ]
]
IPV6_SPECIAL = [
    ip_network(block)
    for block in [
        "2001:1::/32",
        "2001:2::/48",
        "2001:3::/32",
        "2001:4:112::/48",
        "2001:10::/28",
        "2001:20::/28",
        "2001:30::/28",
        "2001:db8::/32",
        "2620:4f:8000::/48",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
        "64:ff9b:1::/48",
        "100::/64",
        "100:0:0:1::/64",
    ]
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "192.0.1.1", "100.128.0.1", "172.32.0.1",
          "198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2a00:1450::1",
          "2620:4f:8001::1", "2001:4860:4860::8888", "2400:cb00::1"]  # fmt: skip


def special_ipv4(address: IPv4Address) -> bool:
    return any(address in block for block in IPV4_SPECIAL)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_ordinary_public_address_passes(address: str) -> None:
    assert check_address(address) is None
    assert check_address(ip_address(address)) is None


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("0.0.0.0", "this network"),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "shared"),
        ("169.254.169.254", "link local"),
        ("192.0.0.9", "protocol assignments"),
        ("198.19.255.255", "benchmarking"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("240.0.0.1", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b::a9fe:a9fe", "link local"),
        ("64:ff9b:1::7f00:1", "NAT64"),
        ("64:ff9b:1::808:808", "NAT64"),
        ("2002:7f00:1::", "loopback"),
        ("2002:a00:1::1", "private"),
        # Teredo: the server 127.0.0.1; and a public server with the client 10.0.0.1 inverted.
        ("2001:0:7f00:1::", "loopback"),
        ("2001:0:808:808:0:0:f5ff:fffe", "private"),
        ("fd00::1", "private"),
        ("fe80::1", "link local"),
        ("fec0::1", "site local"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "documentation"),
        ("3fff::1", "documentation"),
        ("5f00::1", "segment routing"),
        ("100::1", "discard"),
        ("4000::1", "not global unicast"),
        ("fe80::1%eth0", "zone"),
        ("localhost", "not an IP address"),
        ("2130706433", "not an IP address"),
        ("127.1", "not an IP address"),
        ("0177.0.0.1", "not an IP address"),
        ("", "not an IP address"),
    ],
)
def test_a_special_address_is_refused_with_its_reason(address: str, word: str) -> None:
    reason = check_address(address)
    assert reason is not None
    assert word in reason


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1).map(IPv4Address))
@example(IPv4Address("192.0.0.255"))
@example(IPv4Address("192.0.1.0"))
def test_ipv4_agrees_with_the_registry_table(address: IPv4Address) -> None:
    assert (check_address(address) is not None) == special_ipv4(address)


@pytest.mark.parametrize("block", IPV4_SPECIAL, ids=str)
def test_the_edges_of_each_ipv4_block_are_inside_and_its_neighbours_judged_alone(block) -> None:
    assert check_address(block[0]) is not None
    assert check_address(block[-1]) is not None
    for neighbour in (int(block[0]) - 1, int(block[-1]) + 1):
        if 0 <= neighbour < 2**32:
            address = IPv4Address(neighbour)
            assert (check_address(address) is not None) == special_ipv4(address)


@pytest.mark.parametrize("block", IPV6_SPECIAL, ids=str)
def test_the_edges_of_each_ipv6_block_are_refused(block) -> None:
    assert check_address(block[0]) is not None
    assert check_address(block[-1]) is not None


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1).map(IPv4Address))
@example(IPv4Address("127.0.0.1"))
@example(IPv4Address("8.8.8.8"))
def test_every_form_that_carries_an_ipv4_address_is_judged_by_it(inner: IPv4Address) -> None:
    value = int(inner)
    forms = [
        IPv6Address((0xFFFF << 32) | value),
        IPv6Address((0x64FF9B << 96) | value),
        IPv6Address((0x2002 << 112) | (value << 80)),
    ]
    for form in forms:
        assert (check_address(form) is not None) == special_ipv4(inner), form
    inverted = value ^ 0xFFFF_FFFF
    teredo = IPv6Address((0x20010000 << 96) | (0x08080808 << 64) | inverted)
    assert (check_address(teredo) is not None) == special_ipv4(inner)


@settings(deadline=None)
@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_what_passes_is_global_unicast_outside_the_table(address: IPv6Address) -> None:
    if check_address(address) is not None:
        return
    assert not any(address in block for block in IPV6_SPECIAL)
    carries = ("::ffff:0:0/96", "64:ff9b::/96", "2000::/3")
    assert any(address in ip_network(block) for block in carries)


@settings(deadline=None)
@given(st.integers(0x2000 << 112, (0x3FFF << 112) | (2**112 - 1)).map(IPv6Address))
def test_global_unicast_outside_the_table_passes(address: IPv6Address) -> None:
    special = any(address in block for block in IPV6_SPECIAL)
    assigned = address in ip_network("2001::/23") or address in ip_network("2002::/16")
    if not special and not assigned:
        assert check_address(address) is None


def test_a_private_address_needs_its_exact_host_and_port_named() -> None:
    assert check_contact("127.0.0.1", "127.0.0.1", 8080) == "loopback"
    assert check_contact("127.0.0.1", "127.0.0.1", 8080, {"127.0.0.1:8080"}) is None
    assert check_contact("127.0.0.1", "127.0.0.1", 8081, {"127.0.0.1:8080"}) == "loopback"
    assert check_contact("127.0.0.2", "127.0.0.2", 8080, {"127.0.0.1:8080"}) == "loopback"
    assert check_contact("127.0.0.1", "other.test", 8080, {"127.0.0.1:8080"}) == "loopback"
    assert check_contact("10.0.0.1", "intranet.test", 443, {"intranet.test:443"}) is None
    assert check_contact("::1", "::1", 80, {"[::1]:80"}) is None
    assert check_contact("::ffff:10.0.0.1", "intranet.test", 443, {"intranet.test:443"}) is None


def test_a_name_never_leads_to_a_metadata_service_even_where_it_is_allowed() -> None:
    allow = {"intranet.test:80", "169.254.169.254:80", "0.0.0.0:80", "224.0.0.1:80"}
    assert check_contact("169.254.169.254", "intranet.test", 80, allow) == "link local"
    assert check_contact("169.254.169.254", "169.254.169.254", 80, allow) is None
    assert check_contact("0.0.0.0", "0.0.0.0", 80, allow) == "this network"
    assert check_contact("224.0.0.1", "224.0.0.1", 80, allow) == "multicast"
