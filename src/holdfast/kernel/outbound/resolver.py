"""Name resolution as a setting, so that what the guard checks can be tested on a served program."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from holdfast.kernel.errors import Invalid
from holdfast.kernel.outbound.model import SourceUnavailable


class Resolver(Protocol):
    """Turns a host name into IP addresses, in the order in which they should be tried.

    Must answer with at least one address or raise :class:`SourceUnavailable`. It does not judge:
    the guard looks at every address of every answer, and the answer is used once, so what was
    checked is what is connected to.
    """

    async def resolve(self, host: str) -> Sequence[str]: ...


class SystemResolver:
    """The machine's own resolution: hosts file, DNS, whatever the C library is told to use."""

    async def resolve(self, host: str) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise SourceUnavailable(f"cannot resolve {host}: {error}") from error
        addresses = [str(sockaddr[0]) for *_, sockaddr in found]
        if not addresses:
            raise SourceUnavailable(f"cannot resolve {host}: it has no address")
        return list(dict.fromkeys(addresses))


class FileResolver:
    """Answers from a JSON file: name → list of answers, each a list of addresses.

    Answers are used up in turn and the last one stays: ``{"a.test": [["192.0.2.1"],
    ["127.0.0.1"]]}`` is a name that rebinds. A name that is not in the file does not resolve.
    """

    def __init__(self, answers: dict[str, list[list[str]]]) -> None:
        self._answers = {host.lower().removesuffix("."): list(a) for host, a in answers.items()}
        self._used: dict[str, int] = {}

    @classmethod
    def load(cls, path: Path) -> FileResolver:
        """The resolver that ``path`` describes; :class:`Invalid` says what is wrong with it."""
        try:
            return cls(msgspec.json.decode(path.read_bytes(), type=dict[str, list[list[str]]]))
        except (OSError, msgspec.DecodeError) as error:
            raise Invalid(f"cannot read the resolver file {path}: {error}") from error

    async def resolve(self, host: str) -> Sequence[str]:
        answers = self._answers.get(host, [])
        turn = self._used.get(host, 0)
        self._used[host] = turn + 1
        answer = answers[min(turn, len(answers) - 1)] if answers else []
        if not answer:
            raise SourceUnavailable(f"cannot resolve {host}: the resolver file has no address")
        return answer


def resolver_from_setting(setting: str) -> Resolver:
    """The resolver that an operator named: ``system``, ``file:PATH`` or ``dns:ADDRESS[:PORT]``."""
    kind, _, rest = setting.partition(":")
    if setting in {"", "system"}:
        return SystemResolver()
    if kind == "file" and rest:
        return FileResolver.load(Path(rest))
    if kind == "dns" and rest:
        from holdfast.kernel.outbound.dns import DnsResolver

        return DnsResolver.at(rest)
    raise Invalid(
        f"cannot use the resolver {setting!r}: known are system, file:PATH and dns:ADDRESS[:PORT]"
    )
