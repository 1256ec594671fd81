"""How often one caller may ask, however many connections it has.

Three limits, each off unless set: per address (before anybody is asked who it is, so that guessing
costs the guesser), per principal, and per tenant (so that a hundred keys of one tenant are no
hundred shares). Tables are bounded: whoever has not asked for longest is forgotten first, which
errs on the side of the caller.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address, ip_address

from holdfast.kernel.errors import Exhausted
from holdfast.kernel.principal import Principal, PrincipalKind

CALLERS_MAX = 10_000
IPV6_PREFIX = 64
RATE_EXCEEDED = "rate-exceeded"


class Buckets:
    """So many requests per second of each caller; a second's worth may come at once."""

    def __init__(self, per_second: int, monotonic: Callable[[], float]) -> None:
        self.per_second = per_second
        self._monotonic = monotonic
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def take(self, caller: Hashable, what: str) -> None:
        """Count a request; :class:`Exhausted` when this caller has asked too often."""
        rate = self.per_second
        if not rate:
            return
        now = self._monotonic()
        left, since = self._left.pop(caller, (float(rate), now))
        left = min(float(rate), left + (now - since) * rate)
        granted = left >= 1
        self._left[caller] = (left - 1 if granted else left, now)
        while len(self._left) > CALLERS_MAX:
            self._left.popitem(last=False)
        if not granted:
            raise Exhausted(
                f"cannot do this: more than {rate} requests in a second of one {what}",
                code=RATE_EXCEEDED,
                retry_after_seconds=(1 - left) / rate,
            )


class RequestRates:
    """The limits of one process. Roles that act for themselves are not counted: who they act for
    was counted at the door."""

    def __init__(
        self,
        principal: int = 0,
        tenant: int = 0,
        address: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._principals = Buckets(principal, monotonic)
        self._tenants = Buckets(tenant, monotonic)
        self._addresses = Buckets(address, monotonic)

    def set(self, principal: int, tenant: int, address: int) -> None:
        """Other limits from now on; 0 is none."""
        self._principals.per_second = principal
        self._tenants.per_second = tenant
        self._addresses.per_second = address

    def take(self, principal: Principal) -> None:
        """Count a request of ``principal``; :class:`Exhausted` beyond its limit or its tenant's."""
        if principal.kind is PrincipalKind.SERVICE:
            return
        self._principals.take((principal.tenant, principal.subject), "caller")
        self._tenants.take(principal.tenant, "tenant")

    def take_address(self, address: str) -> None:
        """Count a request from ``address``; :class:`Exhausted` beyond its limit."""
        if self._addresses.per_second:
            self._addresses.take(network_of(address), "address")


def network_of(address: str) -> str:
    """What is counted as one address: of IPv6 the /64, which one household or server has whole."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Address(int(parsed) >> IPV6_PREFIX << IPV6_PREFIX))
