"""What the fleet needs from its neighbours, as the app wires it in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from holdfast.identity.model import Maker, Standing
from holdfast.kernel.principal import Principal
from holdfast.registry.versions import RunnableSet


class Profiles(Protocol):
    """The registry, as the coordinator sees it: its service, or its client."""

    async def runnable(self, principal: Principal, *, unless: str = "") -> RunnableSet | None:
        """Every profile that may be collected now; ``None`` if the etag is still ``unless``."""
        ...


class Makers(Protocol):
    """Identity, as the coordinator sees it."""

    async def standing(self, principal: Principal, makers: Sequence[Maker]) -> list[Standing]:
        """Whether what these made still stands, as it is now; at most 1,000 at a time.

        :class:`~holdfast.kernel.errors.HoldfastError` where that cannot be said: nothing stands
        then, and nothing has ended.
        """
        ...


class Runs(Protocol):
    """The aggregator, as the coordinator sees it."""

    async def close_run(
        self,
        principal: Principal,
        *,
        run: str,
        fence: int,
        profile: str,
        profile_digest: str,
        task: str,
        outcome: str,
        code: str,
        reason: str,
    ) -> object:
        """End a run whose task is dead or cancelled: ``failed`` or ``cancelled``.

        Idempotent; a run that has ended stays as it ended, one that never began is recorded as
        ended. :class:`~holdfast.kernel.errors.Unavailable` to be asked again later.
        """
        ...
