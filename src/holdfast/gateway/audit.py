"""Which of the door's exchanges are of note. Sign-ins are events of the sessions themselves."""

from __future__ import annotations

from typing import Any

from holdfast.identity.audit import REFUSED, Happened, Trail
from holdfast.kernel.http.door import CLIENT, CODE, SAFE_METHODS, SUBJECT, TENANT
from holdfast.kernel.telemetry import request_id

OF_NOTE = frozenset({401, 403, 421, 429})
"""A credential that is none, something not allowed, a foreign name, too much."""
PRESENTED = frozenset({b"authorization", b"cookie", b"holdfast-hop", b"holdfast-join-token"})


class DoorAudit:
    """Tells a :class:`Trail` of refusals of note."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    def exchange(self, scope: Any, status: int) -> None:
        """An exchange is over.

        Who asks without any credential is shown the way to one: that happens all day, and is told
        of only where something was to be changed.
        """
        if status not in OF_NOTE:
            return
        if status == 401 and scope["method"] in SAFE_METHODS and not _presents(scope):
            return
        self._trail.note(
            Happened(
                REFUSED,
                code=str(scope.get(CODE, status)),
                tenant=str(scope.get(TENANT, "")),
                subject=str(scope.get(SUBJECT, "")),
                method=scope["method"],
                route=str(scope.get("path_template") or ""),
                address=str(scope.get(CLIENT, "")),
                request_id=request_id(),
            )
        )


def _presents(scope: Any) -> bool:
    return any(name in PRESENTED for name, _ in scope["headers"])
