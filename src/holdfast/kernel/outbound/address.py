"""Reading an address as strictly as the guard needs it: pure rules, no I/O.

Two programs that read one URL differently are how a guard is passed by. So an address has one
reading here or is refused: no user information, no control characters or backslashes, no
percent-escapes in the host, no IPv4 address in decimal, octal, hexadecimal or shortened form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from urllib.parse import quote, urljoin

from holdfast.kernel.errors import Invalid
from holdfast.kernel.outbound.guard import host_port
from holdfast.kernel.outbound.model import FetchFailure

URL_LENGTH_MAX = 16_384
DEFAULT_PORTS = {"http": 80, "https": 443}

_SHAPE = re.compile(r"(?i)(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_CANONICAL_IPV4 = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
# What RFC 3986 admits in a path or query; everything else is percent-encoded, escapes are kept.
_SAFE = "!#$%&'()*+,/:;=?@[]~-._|"


class AddressInvalid(FetchFailure, Invalid):
    """A URL that has no single reading, or not one that Holdfast fetches."""

    code = "address-invalid"


@dataclass(frozen=True, slots=True)
class Target:
    """An http or https address, taken apart and canonical.

    ``host`` is ASCII lower case: a name without the root's dot, or an IP literal without brackets.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def host_port(self) -> str:
        return host_port(self.host, self.port)

    @property
    def authority(self) -> str:
        """The value of ``Host``: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def request_path(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.request_path}"

    @property
    def is_literal(self) -> bool:
        """Whether the host is an IP address, so that nothing needs to be resolved."""
        return ":" in self.host or _CANONICAL_IPV4.fullmatch(self.host) is not None


def parse_target(url: str) -> Target:
    """``url`` taken apart; :class:`AddressInvalid` says what is wrong with it."""
    if len(url) > URL_LENGTH_MAX:
        raise AddressInvalid(
            f"cannot use an address of {len(url)} characters: the bound is {URL_LENGTH_MAX}"
        )
    if _FORBIDDEN.search(url):
        raise AddressInvalid(
            f"cannot use the address {url!r}: it holds a control character or backslash"
        )
    match = _SHAPE.fullmatch(url)
    if match is None:
        raise AddressInvalid(
            f"cannot use the address {url!r}: only http:// and https:// are fetched"
        )
    scheme, authority, path, query = match.groups()
    scheme = scheme.lower()
    host, port = _authority(authority, url)
    return Target(
        scheme=scheme,
        host=host,
        port=DEFAULT_PORTS[scheme] if port is None else port,
        path=quote(path, safe=_SAFE) or "/",
        query=quote(query or "", safe=_SAFE),
    )


def join(base: str, reference: str) -> str:
    """``reference`` resolved against ``base`` (RFC 3986 §5), fragment removed.

    Control characters are refused here too: the library's join would drop them in silence.
    """
    if _FORBIDDEN.search(reference):
        raise AddressInvalid(
            f"cannot use the address {reference!r}: it holds a control character or backslash"
        )
    try:
        joined = urljoin(base, reference.strip(" "))
    except ValueError as error:
        raise AddressInvalid(f"cannot use the address {reference!r}: {error}") from error
    return joined.partition("#")[0]


def canonical_host_port(text: str) -> str:
    """``host:port`` as an operator wrote it, in the spelling the guard compares."""
    match = _AUTHORITY.fullmatch(text.strip())
    if match is None or not match[2]:
        raise AddressInvalid(f"cannot allow {text!r}: write it as host:port")
    host, port = _authority(text.strip(), text)
    assert port is not None, "the pattern asked for one"
    return host_port(host, port)


def _authority(authority: str, url: str) -> tuple[str, int | None]:
    if "@" in authority:
        raise AddressInvalid(
            "cannot use an address with user information before the host",
            hint="give credentials as a secret reference, not in the address",
        )
    match = _AUTHORITY.fullmatch(authority)
    if match is None or not match[1]:
        raise AddressInvalid(f"cannot use the address {url!r}: it has no host")
    port = int(match[2]) if match[2] else None
    if port is not None and not 1 <= port <= 65535:
        raise AddressInvalid(f"cannot use the address {url!r}: there is no port {port}")
    return _host(match[1]), port


def _host(text: str) -> str:
    if text.startswith("["):
        return _ipv6(text[1:-1])
    host = _ascii(text).lower()
    host = host.removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(host)
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressInvalid(f"cannot use the host {text!r}: it is not a host name")
    return host


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    import idna

    try:
        return idna.encode(text, uts46=True, transitional=False).decode("ascii")
    except idna.IDNAError as error:
        raise AddressInvalid(f"cannot use the host {text!r}: {error}") from error


def _ipv4(host: str) -> str:
    # A host whose last label is a number is an IPv4 address to browsers and to the C library
    # (127.1, 0x7f.1, 2130706433, 0177.0.0.1); only the canonical spelling is taken.
    if _CANONICAL_IPV4.fullmatch(host):
        try:
            return str(ip_address(host))
        except ValueError:
            pass
    raise AddressInvalid(
        f"cannot use the host {host!r}: it is a number, but not four decimal numbers of 0 to 255",
        hint="write an IPv4 address as 192.0.2.1",
    )


def _ipv6(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        address = None
    if not isinstance(address, IPv6Address) or address.scope_id is not None:
        raise AddressInvalid(f"cannot use the host '[{text}]': it is not an IPv6 address")
    return str(address)
