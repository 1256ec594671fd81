"""Which addresses Holdfast may contact: pure rules, no I/O.

An address is refused when it lies in one of the IANA special-purpose registries (RFC 6890), is
multicast, or is no global unicast address at all. Forms that carry an IPv4 address are judged by
what they carry, because the machine or a router on the way will unwrap them: IPv4-mapped and
IPv4-compatible addresses, NAT64, 6to4 and Teredo. The library's own ``is_global`` is not asked: it
differs between Python versions, and calls ``64:ff9b::7f00:1`` (loopback behind NAT64) global.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)

IPAddress = IPv4Address | IPv6Address

# https://www.iana.org/assignments/iana-ipv4-special-registry and ipv4-address-space (multicast).
# The registry's few globally reachable blocks (anycast relays, AS112 sinks) stay in: no source
# publishes data there.
_IPV4: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private use"),
        ("100.64.0.0/10", "shared address space"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link local"),
        ("172.16.0.0/12", "private use"),
        ("192.0.0.0/24", "IETF protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112"),
        ("192.52.193.0/24", "automatic multicast tunnelling"),
        ("192.88.99.0/24", "6to4 relay anycast"),
        ("192.168.0.0/16", "private use"),
        ("192.175.48.0/24", "AS112"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
    )
)

# https://www.iana.org/assignments/iana-ipv6-special-registry. More specific blocks come first, so
# that the reason names them.
_IPV6: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(network), reason)
    for network, reason in (
        ("::1/128", "loopback"),
        ("::/128", "unspecified"),
        ("64:ff9b:1::/48", "local-use NAT64"),
        ("100::/64", "discard only"),
        ("100:0:0:1::/64", "dummy prefix"),
        ("2001:2::/48", "benchmarking"),
        ("2001:3::/32", "automatic multicast tunnelling"),
        ("2001:4:112::/48", "AS112"),
        ("2001:10::/28", "ORCHID"),
        ("2001:20::/28", "ORCHIDv2"),
        ("2001:30::/28", "drone remote identification"),
        ("2001::/23", "IETF protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2620:4f:8000::/48", "AS112"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "private use"),
        ("fe80::/10", "link local"),
        ("fec0::/10", "site local"),
        ("ff00::/8", "multicast"),
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_TEREDO = IPv6Network("2001::/32")
_SIX_TO_FOUR = IPv6Network("2002::/16")

_LOCAL_REASONS = frozenset({"private use", "shared address space", "loopback"})
_NEVER_REASONS = frozenset({"this network", "unspecified", "multicast", "broadcast"})


def check_address(ip: str | IPAddress) -> str | None:
    """Why ``ip`` may not be contacted, or ``None`` if it is an ordinary public address.

    ``ip`` in the spelling of :mod:`ipaddress`; anything else is refused as "not an IP address".
    """
    try:
        address = ip_address(ip) if isinstance(ip, str) else ip
    except ValueError:
        return "not an IP address"
    if isinstance(address, IPv4Address):
        return _check_ipv4(address)
    if address.scope_id is not None:
        return "an address with a zone"
    return _check_ipv6(address)


def check_contact(
    ip: str | IPAddress, host: str, port: int, allow: Collection[str] = frozenset()
) -> str | None:
    """Why ``ip``, reached as ``host:port``, may not be contacted, or ``None``.

    Where the operator named that exact ``host:port`` in ``allow``, a *name* may lead to loopback
    and private networks, and a *literal address* to whatever it says. A name never leads to link
    local addresses, where machines keep their credentials, and nothing allows multicast or the
    unspecified address.
    """
    reason = check_address(ip)
    if reason is None or host_port(host, port) not in allow:
        return reason
    bare = reason.rpartition(": ")[2]
    if bare in _LOCAL_REASONS:
        return None
    if _is_literal(host) and bare not in _NEVER_REASONS:
        return None
    return reason


def host_port(host: str, port: int) -> str:
    """``host:port`` as an operator writes it, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _check_ipv4(address: IPv4Address) -> str | None:
    return next((reason for network, reason in _IPV4 if address in network), None)


def _check_ipv6(address: IPv6Address) -> str | None:
    carried = _carried(address)
    for form, inner in carried:
        reason = _check_ipv4(inner)
        if reason is not None:
            return f"{form} {inner}: {reason}"
    if carried and address not in _COMPATIBLE:
        return None
    for network, reason in _IPV6:
        if address in network:
            return reason
    return None if address in _GLOBAL_UNICAST else "not global unicast"


def _carried(address: IPv6Address) -> list[tuple[str, IPv4Address]]:
    """The IPv4 addresses inside ``address``; each must pass.

    Local-use NAT64 (64:ff9b:1::/48) is not listed: where in it the IPv4 address stands depends on
    the network (RFC 8215), so it is refused whole.
    """
    value = int(address)
    low = IPv4Address(value & 0xFFFF_FFFF)
    if address in _MAPPED:
        return [("IPv4-mapped", low)]
    if address in _NAT64:
        return [("NAT64 of", low)]
    if address in _SIX_TO_FOUR:
        return [("6to4 of", IPv4Address((value >> 80) & 0xFFFF_FFFF))]
    if address in _TEREDO:
        server = IPv4Address((value >> 64) & 0xFFFF_FFFF)
        client = IPv4Address((value & 0xFFFF_FFFF) ^ 0xFFFF_FFFF)
        return [("Teredo server", server), ("Teredo client", client)]
    if address in _COMPATIBLE and value > 1:
        return [("IPv4-compatible", low)]
    return []
