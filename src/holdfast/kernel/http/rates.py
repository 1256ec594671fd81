"""How often one principal may ask, however many connections it has."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from holdfast.kernel.errors import Exhausted
from holdfast.kernel.principal import Principal, PrincipalKind

PRINCIPALS_MAX = 10_000


class RequestRate:
    """So many requests per second of each principal; a second's worth may come at once.

    Roles that act for themselves are not counted: who they act for was counted at the door.
    """

    def __init__(self, per_second: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._monotonic = monotonic
        self._left: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, principal: Principal) -> None:
        """Count a request; :class:`Exhausted` when this principal has asked too often."""
        if principal.kind is PrincipalKind.SERVICE:
            return
        key = (principal.tenant, principal.subject)
        now = self._monotonic()
        left, since = self._left.pop(key, (float(self._per_second), now))
        left = min(float(self._per_second), left + (now - since) * self._per_second)
        granted = left >= 1
        self._left[key] = (left - 1 if granted else left, now)
        while len(self._left) > PRINCIPALS_MAX:
            self._left.popitem(last=False)
        if not granted:
            raise Exhausted(
                f"cannot do this: more than {self._per_second} requests in a second",
                code="rate-exceeded",
                retry_after_seconds=(1 - left) / self._per_second,
            )
