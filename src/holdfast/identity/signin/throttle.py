"""How often signing in may fail: per address and per account, without locking anybody out.

A right answer is always let in: what is bounded is how often somebody may be wrong, and how many
sign-ins one address may begin. So a stranger who fails in somebody else's name costs that somebody
nothing. A browser that has signed in before has a bucket of its own (the device cookie), so that
strangers at the same address do not use up its share either.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

from holdfast.kernel.errors import Exhausted

BEGINS_PER_MINUTE = 60
FAILURES_PER_MINUTE = 10
BUCKETS_MAX = 20_000
MINUTE = 60.0


class Buckets:
    """So many in a minute of each; a minute's worth may come at once. Bounded in memory: the ones
    longest unused are forgotten, which only ever gives more."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float]) -> None:
        self._most = float(per_minute)
        self._monotonic = monotonic
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, name: str) -> float:
        """Seconds until there is one; 0 if there is one now."""
        left = self._now(name)
        return 0.0 if left >= 1 else (1 - left) * MINUTE / self._most

    def take(self, name: str) -> float:
        """Take one if there is one; seconds to wait otherwise."""
        left = self._now(name)
        granted = left >= 1
        self._left[name] = (left - 1 if granted else left, self._monotonic())
        self._left.move_to_end(name)
        while len(self._left) > BUCKETS_MAX:
            self._left.popitem(last=False)
        return 0.0 if granted else (1 - left) * MINUTE / self._most

    def _now(self, name: str) -> float:
        left, since = self._left.get(name, (self._most, self._monotonic()))
        return min(self._most, left + (self._monotonic() - since) * self._most / MINUTE)


class Throttle:
    """What a door asks before it begins a sign-in, and tells after one failed."""

    def __init__(self, monotonic: Callable[[], float], key: bytes) -> None:
        self._begins = Buckets(BEGINS_PER_MINUTE, monotonic)
        self._failures = Buckets(FAILURES_PER_MINUTE, monotonic)
        self._key = key

    def begin(self, address: str, device: str) -> None:
        """Count a sign-in that begins; :class:`Exhausted` beyond a minute's worth."""
        self._refuse(self._begins.take(self.caller(address, device)))

    def failed(self, address: str, device: str, account: str = "") -> None:
        """Count one that failed. Beyond a minute's worth, per caller or per account, the answer is
        :class:`Exhausted` instead of what was wrong: whoever guesses learns no more."""
        waits = [self._failures.take(self.caller(address, device))]
        if account:
            waits.append(self._failures.take(f"account {account}"))
        self._refuse(max(waits))

    def caller(self, address: str, device: str) -> str:
        """Who is counted: a browser that we know, else the address, IPv6 per /64."""
        if device and self.knows(device):
            return f"device {device[:64]}"
        return f"address {network_of(address)}"

    def device(self, random: bytes) -> str:
        """A new device cookie. It signs nobody in; it only names a browser that has signed in."""
        name = random.hex()
        return f"{name}.{self._mac(name)}"

    def knows(self, device: str) -> bool:
        """Whether we made this device cookie."""
        name, _, mac = device.partition(".")
        return hmac.compare_digest(mac.encode(), self._mac(name).encode())

    def _mac(self, name: str) -> str:
        return hmac.new(self._key, f"device {name}".encode(), hashlib.sha256).hexdigest()

    def _refuse(self, seconds: float) -> None:
        if seconds > 0:
            raise Exhausted(
                "cannot sign in: too many attempts in a minute",
                code="sign-in-throttled",
                retry_after_seconds=seconds,
            )


def network_of(address: str) -> str:
    """The address that is counted: itself, or the /64 that one IPv6 caller has to itself."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ip_network(f"{parsed}/64", strict=False))
    return str(parsed)
