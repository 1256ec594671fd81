"""The aggregator: the concrete class that everybody else holds.

It keeps runs, their raw responses and batches, and the records that they publish. Its parts are in
modules of their own: :mod:`runs`, :mod:`raw`, :mod:`kept`, :mod:`intake`, :mod:`reading`,
:mod:`changes`, :mod:`projection`, :mod:`exporting`. The client of a split deployment
(:mod:`client`) has the same methods.
"""

from __future__ import annotations

from holdfast.kernel.clock import Clock
from holdfast.kernel.database import Database
from holdfast.kernel.ids import NewId
from holdfast.kernel.objects import Objects
from holdfast.kernel.outbox import Outbox
from holdfast.kernel.secrets import TenantSecrets
from holdfast.kernel.telemetry import Metrics
from holdfast.kernel.trusted import TrustedKeys
from holdfast.keyring import Keyring
from holdfast.records.base import Handles
from holdfast.records.changes import Differences
from holdfast.records.erasing import Erasing
from holdfast.records.exporting import Exporting
from holdfast.records.intake import Intake
from holdfast.records.kept import KeptResponses
from holdfast.records.ports import Evidence, Profiles
from holdfast.records.receipts import Receipts
from holdfast.records.remapping import Remapping
from holdfast.records.runs import Runs
from holdfast.records.settings import RecordsSettings


class RecordsService(
    Runs, KeptResponses, Remapping, Intake, Differences, Exporting, Erasing, Receipts
):
    """Runs, batches, records, results and rejects of every tenant.

    *Atomic*: what a run brought becomes visible at once or never. *Exactly once*: a batch, a
    finish, a close may be repeated at will. *Fenced*: an attempt that was taken over changes
    nothing any more. *Evident*: every publication and every end of a run commits together with its
    event. Methods raise the kernel's errors and those of :mod:`holdfast.records.errors`.
    """

    def __init__(
        self,
        *,
        db: Database,
        objects: Objects,
        outbox: Outbox,
        secrets: TenantSecrets,
        keyring: Keyring,
        profiles: Profiles,
        ledger: Evidence,
        grants: TrustedKeys,
        clock: Clock,
        new_id: NewId,
        settings: RecordsSettings,
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__(
            Handles(
                db=db,
                objects=objects,
                outbox=outbox,
                secrets=secrets,
                keyring=keyring,
                profiles=profiles,
                ledger=ledger,
                grants=grants,
                clock=clock,
                new_id=new_id,
                settings=settings,
                metrics=metrics or Metrics(),
            )
        )
