"""Whether whoever made a join token still may: then it admits workers, and else it has ended.

Keys and people are identity's. Its answer is not kept: a token is asked about each time it would
admit somebody, so that it ends with its maker at that moment, in whatever process that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from holdfast.fleet.ports import Makers
from holdfast.identity.model import Maker, Standing
from holdfast.kernel.errors import HoldfastError, Unavailable
from holdfast.kernel.principal import Permission, Principal, PrincipalKind

ASK_SECONDS = 10.0
ENDED = "ended"
"""Why a token ended that somebody ended by its id."""
REASONS = {
    "key-revoked": "the key that made it was revoked",
    "key-expired": "the key that made it has expired",
    "person-disabled": "whoever made it was disabled",
    "permission-lost": "whoever made it lost the permission to",
    "maker-unknown": "nobody knows who made it",
}
"""Why a token ended with its maker."""
UNASKED = frozenset({"", PrincipalKind.OPERATOR, PrincipalKind.SERVICE, PrincipalKind.FOREIGN})
"""As whom somebody made a token that ends with nobody: another issuer's token is nobody's here to
ask about; empty: an earlier version made it."""


def is_asked_about(kind: str) -> bool:
    """Whether a token that was made by such a one ends with them."""
    return kind not in UNASKED


def maker_of(tenant: str, row: Any) -> Maker:
    """Who made the token of this row."""
    return Maker(
        tenant=tenant,
        subject=row.created_by,
        kind=row.created_as,
        permission=Permission.WORKERS_WRITE.value,
        since=row.created_at,
    )


async def ask(
    identity: Makers | None, principal: Principal, makers: Sequence[Maker], what: str
) -> list[Standing]:
    """What identity says of these; :class:`Unavailable` whatever keeps it from saying so.

    A refusal of identity's is no answer about them: a coordinator whose key it does not know yet
    is not a token that ended.
    """
    reason = "nobody is there to ask"
    if identity is not None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await identity.standing(principal, makers)
        except TimeoutError:
            reason = f"no answer within {ASK_SECONDS:.0f} seconds"
        except HoldfastError as error:
            reason = error.detail
    raise Unavailable(
        f"{what}: identity does not say whether its maker still may: {reason}",
        code="maker-unasked",
        hint="a drone asks again by itself; `holdfast status` shows whether identity answers",
    )
