"""A real DNS server on loopback whose answers change from query to query."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

_KINDS = {1: 4, 28: 6}
_FINE, _NO_SUCH_NAME = 0x8180, 0x8183
_OWNER = b"\xc0\x0c"


@dataclass
class Zone:
    """``names``: name → its answers, used up in turn; the last one stays.

    An answer may hold IPv4 and IPv6 addresses; a look-up asks for both, and its turn is over once
    both were asked for. ``asked`` counts the queries by (name, 4 or 6).
    """

    names: Mapping[str, Sequence[Sequence[str]]]
    asked: Counter[tuple[str, int]] = field(default_factory=Counter)

    def answer(self, query: bytes) -> bytes:
        """What a query gets."""
        name, at = _name(query)
        (kind,) = struct.unpack(">H", query[at : at + 2])
        family = _KINDS.get(kind, 0)
        turn = self.asked[name, family]
        self.asked[name, family] += 1
        answers = self.names.get(name)
        if answers is None:
            return _reply(query, at, kind, _NO_SUCH_NAME, [])
        found = [ip_address(text) for text in answers[min(turn, len(answers) - 1)]]
        packed = [each.packed for each in found if each.version == family]
        return _reply(query, at, kind, _FINE, packed)


@contextmanager
def served(zone: Zone) -> Iterator[str]:
    """The zone's server, in a thread; its ``address:port``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.bind(("127.0.0.1", 0))
        host, port = line.getsockname()

        def serve() -> None:
            while True:
                query, sender = line.recvfrom(4096)
                if not query:
                    return
                line.sendto(zone.answer(query), sender)

        thread = threading.Thread(target=serve, name="dns", daemon=True)
        thread.start()
        try:
            yield f"{host}:{port}"
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", (host, port))
            thread.join(10)


def _name(query: bytes) -> tuple[str, int]:
    """The name that is asked for, and where its kind stands."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    return ".".join(labels), at + 1


def _reply(query: bytes, at: int, kind: int, flags: int, found: Sequence[bytes]) -> bytes:
    head = query[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0)
    records = [
        # Nobody may keep it: each look-up is a new one.
        _OWNER + struct.pack(">HHIH", kind, 1, 0, len(value)) + value
        for value in found
    ]
    return head + query[12 : at + 4] + b"".join(records)
