"""Which of the door's exchanges are of note. Sign-ins are events of the sessions themselves; a link
that signs somebody in is kept in memory only, so that it was made is noted here.

The ledger has a door of its own, and requests by the gateway beside it. Their callers are the
gateway's, which sees the same answer and notes it: noted by both, one refusal would be two.
"""

from __future__ import annotations

from typing import Any

from holdfast.gateway.proxy import VOUCHED_BY
from holdfast.identity.audit import LINK_MADE, REFUSED, Happened, Trail
from holdfast.kernel.http.door import CLIENT, CODE, SAFE_METHODS, SUBJECT, TENANT
from holdfast.kernel.telemetry import request_id

OF_NOTE = frozenset({401, 403, 421, 429})
"""A credential that is none, something not allowed, a foreign name, too much."""
GATEWAY = "gateway"
LOGIN_LINKS = "/v1/login/links"
PRESENTED = frozenset({b"authorization", b"cookie", b"holdfast-hop", b"holdfast-join-token"})


class DoorAudit:
    """Tells a :class:`Trail` of refusals of note, and of login links."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    def exchange(self, scope: Any, status: int) -> None:
        """An exchange is over.

        Who asks without any credential is shown the way to one: that happens all day, and is told
        of only where something was to be changed.
        """
        made = scope.get("path_template") == LOGIN_LINKS and scope["method"] == "POST"
        if made and status < 300:
            self._note(scope, LINK_MADE, "login-link")
            return
        if status not in OF_NOTE:
            return
        if status == 401 and scope["method"] in SAFE_METHODS and not _presents(scope):
            return
        if status != 401 and scope.get(VOUCHED_BY) == GATEWAY:
            # 401 is about the hop itself, of which the gateway may know nothing: another body was
            # sent under its token. Whoever asks there is somebody before we are asked.
            return
        self._note(scope, REFUSED, str(scope.get(CODE, status)))

    def _note(self, scope: Any, type_: str, code: str) -> None:
        self._trail.note(
            Happened(
                type_,
                code=code,
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
