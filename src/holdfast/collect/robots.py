"""``robots.txt`` (RFC 9309): what a publisher asks of programs, and whether we keep to it.

It is read once an hour for each origin and drone, before the first page is asked for. A profile may
say why it does not apply (``source.robots``); then it is not asked for.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes, urlsplit
from weakref import WeakValueDictionary

from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Denied
from holdfast.kernel.outbound import (
    FetchLimits,
    OutboundClient,
    OutboundRequest,
    Place,
    RedirectRefused,
    ResponseTooLarge,
    SourceUnavailable,
    parse_target,
)

AGENT = "holdfast"
KEPT_SECONDS = 3600.0
DELAY_SECONDS_MAX = 60.0
_BYTES_MAX = 512 * 1024
"""RFC 9309 asks for at least 500 KiB."""
_ORIGINS_MAX = 1_000
_RULES_MAX = 10_000
_LINE_MAX = 4_096


class RobotsRefused(Denied):
    """The publisher asks programs not to fetch this address."""

    code = "robots"


@dataclass(frozen=True, slots=True)
class Rules:
    """What one ``robots.txt`` asks of us: (allowed, pattern) each, and a pause between requests."""

    rules: tuple[tuple[bool, str], ...] = ()
    delay_seconds: float = 0.0

    def allows(self, path: str) -> bool:
        """Whether ``path`` (with its query) may be fetched: the longest rule that fits decides."""
        if path == "/robots.txt":
            return True
        path = _spelled(path)
        best, allowed = -1, True
        for allow, pattern in self.rules:
            if len(pattern) < best or not _fits(pattern, path):
                continue
            if len(pattern) > best or allow:
                best, allowed = len(pattern), allow
        return allowed


def parse(text: str, agent: str = AGENT) -> Rules:
    """The rules for ``agent``: those of its own groups, or else of the groups for everybody."""
    own: list[tuple[bool, str]] = []
    general: list[tuple[bool, str]] = []
    delays = {True: 0.0, False: 0.0}
    named = anybody = found = in_rules = False
    for key, value in _lines(text):
        if key == "user-agent":
            if in_rules:
                named = anybody = in_rules = False
            product = value.partition("/")[0].strip().lower()
            named |= product == agent
            anybody |= product == "*"
            found |= named
            continue
        in_rules = True
        if key == "crawl-delay":
            for mine in (True,) * named + (False,) * anybody:
                delays[mine] = _delay(value)
        elif value and len(own) + len(general) < _RULES_MAX:
            rule = (key == "allow", _spelled(value))
            own += [rule] * named
            general += [rule] * anybody
    return Rules(tuple(own if found else general), delays[found])


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")):
        key, colon, value = line[:_LINE_MAX].partition("#")[0].partition(":")
        key = key.strip().lower()
        if colon and key in {"user-agent", "allow", "disallow", "crawl-delay"}:
            yield key, value.strip()


def _delay(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value):
        return 0.0
    return min(float(value), DELAY_SECONDS_MAX)


def _spelled(path: str) -> str:
    """One spelling for each path: what need not be percent-encoded is not, and ``*`` and ``$``
    stand for themselves only where a rule has them."""
    return quote(unquote_to_bytes(path), safe="/?&=:@!$'()*+,;~%#[]")


def _fits(pattern: str, path: str) -> bool:
    """Whether ``path`` begins as ``pattern`` says; ``*`` is anything, a last ``$`` the end.

    The parts between the stars are searched one after the other: never more than once over the path
    for each, whatever a stranger writes.
    """
    ends = pattern.endswith("$")
    first, *rest = (pattern[:-1] if ends else pattern).split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    for number, part in enumerate(rest, 1):
        if ends and number == len(rest):
            return len(path) - len(part) >= at and path.endswith(part)
        found = path.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return not ends or bool(rest) or at == len(path)


class Robots:
    """What the origins ask, remembered for a while; shared by the runs of one drone."""

    def __init__(self, outbound: OutboundClient, clock: Clock) -> None:
        self._outbound = outbound
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, Rules]] = OrderedDict()
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One asks an origin while the others that want it wait; who wants another does not."""

    async def check(
        self, url: str, place: Place | None = None, per_minute: int | None = None
    ) -> Rules:
        """The rules of ``url``'s origin, if they admit it. ``place`` is held while they are asked
        for, at no more than ``per_minute``: it is a request to that host like any other.

        Raises :class:`RobotsRefused`, and :class:`SourceUnavailable` where the origin cannot say:
        then nobody knows what it asks. A recording is nobody's to protect.
        """
        if self._outbound.is_replayed(url):
            return Rules()
        target = parse_target(url)
        rules = await self._rules(
            f"{target.scheme}://{target.authority}/robots.txt", place, per_minute
        )
        parts = urlsplit(url)
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        if not rules.allows(path):
            raise RobotsRefused(
                f"cannot fetch {target.scheme}://{target.authority}{parts.path}: its robots.txt "
                "asks programs not to",
                hint="ask the publisher, or say in `source.robots` why it does not apply",
            )
        return rules

    async def _rules(self, url: str, place: Place | None, per_minute: int | None) -> Rules:
        known = self._fresh(url)
        if known is not None:
            return known
        lock = self._asking.setdefault(url, asyncio.Lock())
        async with lock:
            known = self._fresh(url)
            if known is not None:
                return known
            now = self._clock.monotonic()
            rules = await self._fetched(url, place, per_minute)
            self._known[url] = (now, rules)
            while len(self._known) > _ORIGINS_MAX:
                self._known.popitem(last=False)
            return rules

    def _fresh(self, url: str) -> Rules | None:
        known = self._known.get(url)
        if known is None or self._clock.monotonic() - known[0] >= KEPT_SECONDS:
            return None
        return known[1]

    async def _fetched(self, url: str, place: Place | None, per_minute: int | None) -> Rules:
        limits = FetchLimits(size_bytes_max=_BYTES_MAX, total_seconds=30.0, retries=1)
        try:
            request = OutboundRequest(
                url=url, limits=limits, place=place, requests_per_minute=per_minute
            )
            answer = await self._outbound.read(request)
        except SourceUnavailable as error:
            if error.code == "status" and 400 <= error.status < 500:
                return Rules()  # there is none (RFC 9309 §2.3.1.3)
            raise
        except (RedirectRefused, ResponseTooLarge):
            return Rules()  # nothing there that could be read as one
        return parse(answer.content.decode("utf-8", "replace"))
