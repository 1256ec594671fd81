"""What the parts of the service share: its handles, the grant check, profile rules, tenant keys."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Row

from holdfast.fleet.grants import Grants
from holdfast.fleet.model import Grant
from holdfast.kernel.clock import Clock, parse_timestamp, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, NotFound
from holdfast.kernel.ids import NewId
from holdfast.kernel.objects import Objects
from holdfast.kernel.outbox import Outbox
from holdfast.kernel.principal import Principal
from holdfast.kernel.secrets import TenantSecrets
from holdfast.kernel.telemetry import Metrics
from holdfast.kernel.trusted import TrustedKeys
from holdfast.keyring import Keyring
from holdfast.records import store
from holdfast.records.content import RecordKeys
from holdfast.records.errors import no_such_run
from holdfast.records.metrics import RecordsMetrics
from holdfast.records.model import Drift, Run, RunStatus
from holdfast.records.personal import Marks
from holdfast.records.ports import Evidence, Profiles
from holdfast.records.rules import Rules, rules_of
from holdfast.records.settings import RecordsSettings
from holdfast.registry.parts import MARK_SUFFIX, MISSING_SUFFIX
from holdfast.registry.versions import ProfileVersion

NORMAL_MAX = 50_000
"""Profiles whose freshness is remembered: a short text each."""

K = TypeVar("K")
V = TypeVar("V")


class Remembered(OrderedDict[K, V]):
    """The last ``size`` things that were looked up; only for what never changes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def keep(self, key: K, value: V) -> V:
        self[key] = value
        while len(self) > self._size:
            self.popitem(last=False)
        return value


@dataclass(frozen=True, slots=True)
class Handles:
    """Everything the aggregator works with."""

    db: Database
    objects: Objects
    outbox: Outbox
    secrets: TenantSecrets
    keyring: Keyring
    profiles: Profiles
    ledger: Evidence
    grants: TrustedKeys
    clock: Clock
    new_id: NewId
    settings: RecordsSettings
    metrics: Metrics


class Part:
    """One part of the service; they share one :class:`Handles` and the caches below."""

    def __init__(self, handles: Handles) -> None:
        self._handles = handles
        self._db = handles.db
        self._clock = handles.clock
        self._new_id = handles.new_id
        self._settings = handles.settings
        self._metrics = RecordsMetrics(handles.metrics)
        self._versions: Remembered[tuple[str, str, str], ProfileVersion] = Remembered(256)
        self._normal: Remembered[tuple[str, str, str], str | None] = Remembered(NORMAL_MAX)
        self._rules_known: Remembered[tuple[str, str, str], Rules] = Remembered(256)
        self._keys_known: Remembered[tuple[str, str], RecordKeys] = Remembered(256)
        self._grants = Grants(handles.grants, handles.clock)

    def _grant(self, principal: Principal, token: str, run: str, fence: int | None = None) -> Grant:
        """The grant in ``token``; see :meth:`holdfast.fleet.grants.Grants.of`."""
        grant = self._grants.of(principal, token, run, fence)
        # In the one spelling that sorts by time.
        expires = timestamp(parse_timestamp(grant.lease_expires_at))
        return msgspec.structs.replace(grant, lease_expires_at=expires)

    async def _version(self, principal: Principal, profile: str, digest: str) -> ProfileVersion:
        key = (principal.tenant, profile, digest)
        known = self._versions.get(key)
        if known is not None:
            return known
        found = await self._handles.profiles.show(principal, profile, digest)
        return self._versions.keep(key, found)

    async def _rules(self, principal: Principal, profile: str, digest: str) -> Rules:
        key = (principal.tenant, profile, digest)
        known = self._rules_known.get(key)
        if known is not None:
            return known
        return self._rules_known.keep(key, rules_of(await self._version(principal, *key[1:])))

    async def _fetched_rules(self, principal: Principal, rules: Rules) -> Rules:
        """The rules under which the last complete run asked its source: those of its version."""
        last = await self._db.read(
            principal, lambda conn: store.last_complete(conn, principal.tenant, rules.profile)
        )
        if last is None:
            return rules
        return await self._rules(principal, rules.profile, last.profile_digest)

    async def _marks_now(self, principal: Principal, profile: str) -> Marks | None:
        """What is people's own by the newest version of the profile; ``None`` if nothing is.

        ``NotFound`` for a profile that the registry does not know: what is people's own in it
        nobody can tell.
        """
        newest = await self._handles.profiles.status(principal, profile)
        if not newest.digest:
            raise NotFound(f"cannot find a version of the profile {profile}")
        return (await self._rules(principal, profile, newest.digest)).marks

    async def _check_marks(self, principal: Principal, rules: Rules) -> None:
        """``Conflict`` for a version that marks less than the newest one does.

        Whoever may start runs chooses their version. Under one from before the marks, what is
        people's own would be kept in clear, for everybody who reads records.
        """
        now = await self._marks_now(principal, rules.profile)
        lacking = now.names - (rules.marks.names if rules.marks else frozenset()) if now else ()
        if lacking:
            derived = (MISSING_SUFFIX, MARK_SUFFIX)
            named = [name for name in sorted(lacking) if not name.endswith(derived)]
            raise Conflict(
                f"cannot run {rules.profile} under the version {rules.digest[:19]}: it does not "
                f"mark {', '.join((named or sorted(lacking))[:5])}, which the profile does now",
                code="marks-lacking",
                hint="run the newest version, or publish one with its marks",
            )

    def _keys(self, principal: Principal, profile: str) -> RecordKeys:
        key = (principal.tenant, profile)
        known = self._keys_known.get(key)
        if known is not None:
            return known
        return self._keys_known.keep(
            key, RecordKeys(self._handles.secrets, principal.tenant, profile)
        )

    async def worked(self, size: int, work: Callable[[], V]) -> V:
        """``work()``; in a thread if it is about so many records that the loop would feel it."""
        if size <= self._settings.thread_records:
            return work()
        return await asyncio.to_thread(work)


def seen_run(conn: Connection, principal: Principal, run: str) -> Row[Any]:
    """The run's row; no such run for whoever is limited to other profiles than its own."""
    row = store.find(conn, store.runs, principal.tenant, run=run)
    if row is None or not principal.sees(row.profile):
        raise no_such_run(run)
    return row


def run_of(row: Row[Any]) -> Run:
    """A run's row as it is read back."""
    return Run(
        id=row.run,
        profile=row.profile,
        profile_digest=row.profile_digest,
        task=row.task,
        worker=row.worker,
        fence=row.fence,
        status=RunStatus(row.status),
        attempts=row.attempts,
        started_at=row.started_at,
        lease_expires_at=row.lease_expires_at,
        finished_at=row.finished_at,
        published_at=row.published_at,
        publication=row.publication,
        replayed=row.replayed,
        batches=row.batches,
        records=row.records,
        new=row.new,
        changed=row.changed,
        unchanged=row.unchanged,
        withdrawn=row.withdrawn,
        unasked=row.unasked,
        kept=row.kept,
        withheld=row.withheld,
        duplicates=row.duplicates,
        rejects=row.rejects,
        pages=row.pages,
        requests=row.requests,
        bytes_fetched=row.bytes_fetched,
        cursor=row.cursor,
        code=row.code,
        reason=row.reason,
        kind=row.kind,
        range_start=row.range_start,
        range_end=row.range_end,
        rehearsal=row.rehearsal,
        usual=row.usual,
        drift=_drifts(row.drift),
        drift_accepted=row.drift_accepted,
    )


_drifts = msgspec.json.Decoder(list[Drift]).decode
