"""Erasing a subject, and the two reasons not to: a legal hold and a retention.

The order of an erasure is its safety. First, in one transaction of the keyring: check holds and
retentions, note the erasure, destroy the subject's keys. From here on nobody reads the subject's
data, whatever happens next. Then a line in the erasure file, which no restore goes back behind.
Then everybody who keeps copies beside the keys removes them. Then the event that is its evidence,
and *done*. Whatever is not done when a process dies is taken up again at the next start, before
anything is served; every step may be repeated. Of roles that share a keyring only those that keep
copies finish an erasure: another one that is asked destroys the keys and leaves the rest to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from holdfast.kernel.clock import Clock, parse_timestamp, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Invalid
from holdfast.kernel.ids import EventId, NewId, TenantId
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import Principal, service
from holdfast.kernel.telemetry import get_logger, request_id
from holdfast.keyring.copies import note_copies, others_copies, reopen
from holdfast.keyring.errors import SubjectHeld, SubjectRetained, SubjectUnknown
from holdfast.keyring.keyring import Keyring
from holdfast.keyring.lines import (
    add_erasure,
    add_restrictions,
    read_erasures,
    read_restrictions,
)
from holdfast.keyring.model import (
    Erased,
    ErasedParts,
    EraseRequest,
    Erasure,
    ErasureLine,
    LookRequest,
    Placed,
    Release,
    Restriction,
    RestrictionLine,
    RetainRequest,
    Standing,
    SubjectRequest,
    Subjects,
)
from holdfast.keyring.ports import Eraser, Rows
from holdfast.keyring.restrictions import (
    lift,
    merge,
    moment_after,
    note_release,
    place,
    restrictions,
)
from holdfast.keyring.statements import keyring_id

T = TypeVar("T")
log = get_logger("keyring")

LEFT_SECONDS = 600.0
"""An erasure that others leave unfinished for longer is told: they look every two seconds."""


class SubjectsService:
    """The people whose data is kept, by their keyed names.

    ``lists`` is the folder of the two files that outlive a restore; see
    :mod:`holdfast.keyring.lines`.
    """

    def __init__(
        self,
        keyring: Keyring,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        new_id: NewId,
        *,
        lists: Path,
        backup_days: int,
    ) -> None:
        self._keyring = keyring
        self._db = database
        self._outbox = outbox
        self._clock = clock
        self._new_id = new_id
        self._lists = lists
        self._backup_days = backup_days
        self._erasers: list[Eraser] = []
        self._database: str | None = None
        """Whose copies those remove; see :func:`~holdfast.keyring.copies.others_copies`."""
        self._notes = False
        self._left: dict[tuple[str, str], datetime] = {}
        """Since when this process knows of an erasure that others have not ended yet."""
        self._under_way: set[tuple[str, str]] = set()
        self._handed_on: set[str] = set()
        """Erasures of which nothing is left here, and that another is to end."""
        self._failing = 0
        """How many erasures could not be finished when they were last taken up."""

    def add_eraser(self, eraser: Eraser, database: str | None = "", *, notes: bool = False) -> None:
        """Whoever keeps copies beside the keys is told of every erasure.

        ``database`` is the id of the one whose copies those are, if it has got one; None where
        there are none to be expected, as where a command opens another role's directory: then this
        process ends no erasure that somebody else has copies of. With ``notes`` it says in the
        keyring that it is there.
        """
        self._erasers.append(eraser)
        self._database, self._notes = database, notes

    # --- reading ------------------------------------------------------------------------------

    async def token(self, principal: Principal, subject: str) -> str:
        """The keyed name of a subject."""
        return await self._keyring.apart(self._keyring.subject_token, principal.tenant, subject)

    async def list(self, principal: Principal) -> Subjects:
        """Restrictions and erasures of the tenant."""

        def unit(rows: Rows) -> Subjects:
            return Subjects(
                restrictions=restrictions(rows, principal.tenant),
                erasures=_erasures(rows, principal.tenant),
                keyring=keyring_id(rows),
            )

        return await self._transact(unit)

    async def look(self, principal: Principal, request: LookRequest) -> Sequence[Standing]:
        """How this keyring stands to a person; nothing is changed. One item: there is one keyring.

        What is so may be otherwise a moment later: :meth:`erase` looks again as it destroys.
        """
        return [await self._standing(principal, await self.token(principal, request.subject))]

    async def _standing(self, principal: Principal, token: str) -> Standing:
        now = timestamp(self._clock.now())
        found = await self._transact(lambda rows: _standing(rows, principal.tenant, token, now))
        known = found.known or await self._known(principal, token)
        return msgspec.structs.replace(found, known=known)

    # --- reasons to keep ------------------------------------------------------------------------

    async def hold(self, principal: Principal, request: SubjectRequest) -> Placed:
        """Place a legal hold, on somebody who is yet to come as well. Placing it again changes its
        reason."""
        return await self._restrict(principal, request.subject, "hold", request.reason, "")

    async def retain(self, principal: Principal, request: RetainRequest) -> Placed:
        """Keep the subject's data until a time. It can be moved on, never back."""
        until = moment_of(request.until)
        now = timestamp(self._clock.now())
        if until <= now:
            raise Invalid(
                f"cannot retain until {until}: that is over, it is {now} here",
                code="moment-over",
                hint="name a time that is to come; a retention that is over forbids nothing",
            )
        return await self._restrict(principal, request.subject, "retention", request.reason, until)

    async def _restrict(
        self,
        principal: Principal,
        subject: str,
        kind: Literal["hold", "retention"],
        reason: str,
        until: str,
    ) -> Placed:
        tenant, now = principal.tenant, timestamp(self._clock.now())
        token = await self.token(principal, subject)

        def unit(rows: Rows) -> tuple[Restriction, Standing]:
            stood = _standing(rows, tenant, token, now)
            if kind == "retention":
                check_moved_on(stood.restrictions, until)
            made = Restriction(
                subject=token,
                kind=kind,
                reason=reason,
                until=until,
                placed_by=principal.subject,
                placed_at=moment_after(rows, tenant, token, kind, now),
            )
            place(rows, tenant, made)
            return made, stood

        placed, stood = await self._transact(unit)
        await self._tell(RestrictionLine(tenant=tenant, placed=placed))
        await self._emit(
            principal,
            f"subject.{'held' if kind == 'hold' else 'retained'}",
            self._new_id(),
            {"reason": reason, "subject": token, "until": until},
        )
        known = stood.known or await self._known(principal, token)
        erased_at = stood.erasure.requested_at if stood.erasure else ""
        return Placed(**msgspec.structs.asdict(placed), known=known, erased_at=erased_at)

    async def release(self, principal: Principal, request: SubjectRequest) -> Subjects:
        """Release the hold that is there now; harmless if there is none.

        One that somebody places while this one is released stays.
        """
        tenant, token = principal.tenant, await self.token(principal, request.subject)

        def held(rows: Rows) -> Restriction | None:
            found = restrictions(rows, tenant, token)
            return next((each for each in found if each.kind == "hold"), None)

        known = await self._transact(held)
        if known is not None:
            # The evidence first: if we die in between the hold still holds, and a repetition lifts
            # it. The other way round it would be gone, and nobody could say who lifted it.
            await self._emit(
                principal,
                "subject.released",
                self._new_id(),
                {"reason": request.reason, "subject": token},
            )
            release = Release(
                subject=token,
                reason=request.reason,
                through=known.placed_at,
                released_by=principal.subject,
                released_at=timestamp(self._clock.now()),
            )
            if await self._transact(partial(_release, tenant=tenant, known=known, made=release)):
                await self._tell(RestrictionLine(tenant=tenant, released=release))
        return await self.list(principal)

    async def _tell(self, line: RestrictionLine) -> None:
        await asyncio.to_thread(add_restrictions, self._lists, [line])

    # --- erasing ------------------------------------------------------------------------------

    async def erase(self, principal: Principal, request: EraseRequest) -> Erased:
        """Erase a subject: on return its data is unreadable, and no copy beside the keys is left;
        unless another role of this keyring has them: then it is ``erasing`` until that one is done.

        :class:`SubjectHeld` or :class:`SubjectRetained`, with the reason, if it may not be;
        :class:`SubjectUnknown` if nobody of that name was ever heard of, unless the request says
        that this is meant: then nothing has happened. Erasing again answers with the first erasure.
        """
        token = await self.token(principal, request.subject)
        known_here = request.even_unknown or await self._known(principal, token)
        now = self._clock.now()
        erasure = Erasure(
            id=self._new_id(),
            subject=token,
            state="erasing",
            reason=request.reason,
            requested_by=principal.subject,
            requested_at=timestamp(now),
            unrecoverable_by=timestamp(now + timedelta(days=self._backup_days)),
            keys=0,
        )

        def unit(rows: Rows) -> Erasure:
            known = _erasures(rows, principal.tenant, token)
            if known:
                return msgspec.structs.replace(known[0], repeated=True)
            for each in restrictions(rows, principal.tenant, token):
                if each.kind == "hold" or each.until > timestamp(now):
                    raise refusal(each)
            keys = _destroy(rows, principal.tenant, token)
            if not keys and not known_here:
                raise unknown()
            made = msgspec.structs.replace(erasure, keys=keys)
            _note(rows, principal.tenant, made)
            return made

        noted = await self._transact(unit)
        return Erased(**msgspec.structs.asdict(await self._finish(principal, noted)))

    async def _known(self, principal: Principal, token: str) -> bool:
        """Whether anybody has something about the subject that its keys do not tell of."""
        for eraser in self._erasers:
            if await eraser.knows(principal, token):
                return True
        return False

    async def resume(self, tenants: Sequence[TenantId]) -> int:
        """Take up every erasure that is not done, and those that only the file knows of; put back
        what holds and retentions only their file knows of, and lift what it knows to be released.

        At the start, before anything is served: so a restore of an older state brings nobody back.
        Whoever was erased has no key afterwards, whichever of the two was restored with one. Raises
        what hindered the first that could not be finished, when all others are.
        """
        if self._notes and self._database:
            ended, before = await self._transact(partial(note_copies, database=self._database))
            if before:
                log.warning(
                    "another database had its records beside this keyring: what is erased from now "
                    "on is done when it is gone from this one",
                    before=before,
                    now=self._database,
                    hint="a second aggregator needs a keyring of its own",
                )
            if ended:
                log.warning("erasures that others ended are taken up again", erasures=ended)
        await self._join_restrictions(tenants)
        await self._replay_file()
        return await self._finish_those(tenants)

    async def finish(self) -> int:
        """Take up what others that share this keyring have begun, or what broke off here; how many.

        For whoever keeps copies, now and then while it runs. Raises as :meth:`resume` does.
        """
        return await self._finish_those(await self._transact(_unfinished))

    async def check(self) -> str | None:
        """Readiness: degraded while copies of somebody who was erased could not be removed, or
        whoever has them has not removed them for long."""
        late = self._clock.now() - timedelta(seconds=LEFT_SECONDS)
        waiting = any(since <= late for since in self._left.values())
        return "degraded" if self._failing or waiting else None

    async def watch(self) -> None:
        """See which erasures are not done, for :meth:`check`: those left to others as well."""
        now, left = self._clock.now(), await self._transact(_erasing)
        self._left = {who: self._left.get(who, now) for who in left}

    async def _finish_those(self, tenants: Iterable[str]) -> int:
        """One that fails is told and left for the next time: nobody else's waits for it."""
        finished, failures = 0, list[Exception]()
        for tenant in tenants:
            others = await self._transact(partial(self._others, tenant=tenant))
            for erasure in await self._of(tenant):
                if erasure.state == "done" or (tenant, erasure.subject) in self._under_way:
                    continue
                if others and erasure.id in self._handed_on:
                    continue  # it is told, and what was here is gone: looking again helps nobody
                try:
                    done = await self._take_up(tenant, erasure)
                except Exception as error:
                    detail = f"{type(error).__name__}: {error}"
                    log.warning(
                        "cannot finish an erasure; what its keys sealed is gone, copies beside "
                        "them may not be",
                        tenant=tenant,
                        subject=erasure.subject,
                        detail=detail,
                    )
                    failures.append(error)
                else:
                    finished += done.state == "done"
        self._failing = len(failures)
        if failures:
            raise failures[0]
        return finished

    async def _take_up(self, tenant: str, erasure: Erasure) -> Erasure:
        if await self._transact(partial(_destroy, tenant=tenant, token=erasure.subject)):
            log.warning("an erased subject had keys", subject=erasure.subject)
        return await self._finish(service("keyring", TenantId(tenant)), erasure)

    async def again(self, principal: Principal, tokens: set[str]) -> None:
        """Remove copies once more: data of an erased subject came in while it was being erased."""
        for erasure in await self._of(principal.tenant):
            if erasure.subject in tokens:
                await self._remove_copies(principal, erasure)

    async def reopen(self) -> int:
        """Mark every erasure as not done: after a restore all of them are replayed."""
        return await self._transact(reopen)

    async def _finish(self, principal: Principal, erasure: Erasure) -> Erasure:
        who = (str(principal.tenant), erasure.subject)
        self._under_way.add(who)
        try:
            return await self._finish_now(principal, erasure)
        finally:
            self._under_way.discard(who)

    async def _finish_now(self, principal: Principal, erasure: Erasure) -> Erasure:
        await self._keyring.apart(self._keyring.store.scrub)
        await asyncio.to_thread(
            add_erasure,
            self._lists,
            ErasureLine(
                tenant=principal.tenant, erasure=msgspec.structs.replace(erasure, repeated=False)
            ),
        )
        if erasure.state == "done":
            return erasure
        if await self._transact(partial(self._others, tenant=principal.tenant)):
            log.info("an erasure is left to who has copies", subject=erasure.subject)
            await self._remove_copies(principal, erasure)
            self._handed_on.add(erasure.id)
            return erasure
        parts = await self._remove_copies(principal, erasure)
        await self._emit(
            principal,
            "subject.erased",
            erasure.id,
            {
                "erasure": erasure.id,
                "keys": erasure.keys,
                "reason": erasure.reason,
                "requested_at": erasure.requested_at,
                "requested_by": erasure.requested_by,
                "subject": erasure.subject,
                "unrecoverable_by": erasure.unrecoverable_by,
            },
            time=parse_timestamp(erasure.requested_at),
            by=erasure.requested_by,
        )
        done_at = timestamp(self._clock.now())

        def unit(rows: Rows) -> bool:
            if self._others(rows, principal.tenant):
                return False  # somebody with copies has come meanwhile, and tells the same event
            rows.all(
                "UPDATE keyring_erasures SET state = 'done', done_at = $1"
                " WHERE tenant = $2 AND subject = $3",
                done_at,
                principal.tenant,
                erasure.subject,
            )
            return True

        if not await self._transact(unit):
            return erasure
        self._handed_on.discard(erasure.id)
        log.info(
            "subject erased",
            subject=erasure.subject,
            keys=erasure.keys,
            records=parts.records,
            responses=parts.responses,
            projections=parts.projections,
        )
        return msgspec.structs.replace(erasure, state="done", done_at=done_at)

    def _others(self, rows: Rows, tenant: str) -> bool:
        """Whether the end of an erasure is another role's, since that one has copies."""
        return others_copies(rows, tenant, self._database)

    async def _remove_copies(self, principal: Principal, erasure: Erasure) -> ErasedParts:
        parts = ErasedParts()
        for eraser in self._erasers:
            parts = parts.plus(await eraser.erase(principal, erasure))
        return parts

    async def _join_restrictions(self, tenants: Sequence[TenantId]) -> None:
        """Of what the keyring and the file know the stricter stands, unless it was released."""
        lines = await asyncio.to_thread(read_restrictions, self._lists)
        for tenant in sorted({*tenants, *(line.tenant for line in lines)}):
            put_back, lifted, lacking = await self._transact(
                partial(merge, tenant=tenant, lines=lines)
            )
            await asyncio.to_thread(add_restrictions, self._lists, lacking)
            for what, those in (("put back", put_back), ("lifted", lifted)):
                for each in those:
                    log.warning(f"a {each.kind} was {what}", tenant=tenant, subject=each.subject)

    async def _replay_file(self) -> None:
        """Erasures in the file that the keyring does not know: it was restored from before them."""
        for line in await asyncio.to_thread(read_erasures, self._lists):

            def unit(rows: Rows, line: ErasureLine = line) -> bool:
                erasure = line.erasure
                known = bool(_erasures(rows, line.tenant, erasure.subject))
                keys = _destroy(rows, line.tenant, erasure.subject)
                if not known:
                    _note(rows, line.tenant, msgspec.structs.replace(erasure, state="erasing"))
                return not known or keys > 0

            if await self._transact(unit):
                log.warning("erasure replayed", subject=line.erasure.subject)

    async def _emit(
        self,
        principal: Principal,
        kind: str,
        event_id: str,
        payload: dict[str, Any],
        *,
        time: datetime | None = None,
        by: str = "",
    ) -> None:
        event = Event(
            id=EventId(event_id),
            stream="subjects",
            type=kind,
            time=time or self._clock.now(),
            payload=payload,
            subject=by or principal.subject,
            # An erasure that is taken up again after a crash is the same event.
            request_id="" if kind == "subject.erased" else request_id(),
        )
        await self._db.write(principal, lambda conn: self._outbox.emit(conn, principal, event))

    async def _of(self, tenant: str) -> Sequence[Erasure]:
        return await self._transact(lambda rows: _erasures(rows, tenant))

    async def _transact(self, unit: Callable[[Rows], T]) -> T:
        return await self._keyring.apart(self._keyring.store.transact, unit)


def _release(rows: Rows, *, tenant: str, known: Restriction, made: Release) -> bool:
    """Lift the hold if it still is the one that was seen, and note that it was; whether it was."""
    lifted = lift(rows, tenant, known)
    if lifted:
        note_release(rows, tenant, made)
    return lifted


def moment_of(text: str) -> str:
    """The time that a retention names, in the form that is compared."""
    try:
        return timestamp(parse_timestamp(text))
    except ValueError as error:
        raise Invalid(
            f"cannot read the time {text[:60]!r}: it is not RFC 3339 with an offset",
            hint="write 2030-01-31T00:00:00Z",
        ) from error


def check_moved_on(found: Iterable[Restriction], until: str) -> None:
    """Refuse a retention that ends before one that stands: it is moved on, never back."""
    for known in found:
        if known.kind == "retention" and known.until > until:
            raise Invalid(f"cannot retain until {until}: the data must be kept until {known.until}")


def refusal(found: Restriction, where: str = "") -> SubjectHeld | SubjectRetained:
    """Why a person may not be erased, and ``where`` that stands if there are several keyrings."""
    if found.kind == "hold":
        return SubjectHeld(
            f"cannot erase the subject: a legal hold is on it{where} since {found.placed_at}: "
            f"{found.reason}",
            hint="`holdfast ledger release` ends a hold",
        )
    return SubjectRetained(
        f"cannot erase the subject: its data must be kept{where} until {found.until}: "
        f"{found.reason}",
        hint="erase it after that: a retention can be moved on, never back",
    )


def unknown() -> SubjectUnknown:
    """Nobody of that name was ever heard of."""
    return SubjectUnknown(
        "cannot erase the subject: nobody of that name is known here",
        hint="a name is taken to the letter, as the field has it that is the profile's `subject`, "
        "or as an append named whom its event is `about`; a role's own door knows what that role "
        "has, the gateway asks all; --even-unknown (`even_unknown`) erases the name all the same, "
        "with raw responses of failed runs, of which nobody knows whom they name",
    )


def _erasures(rows: Rows, tenant: str, token: str | None = None) -> list[Erasure]:
    wanted = "" if token is None else " AND subject = $2"
    values = (tenant,) if token is None else (tenant, token)
    return [
        Erasure(
            id=row[0],
            subject=row[1],
            state=row[2],
            reason=row[3],
            requested_by=row[4],
            requested_at=row[5],
            unrecoverable_by=row[6],
            keys=int(row[7]),
            done_at=row[8],
        )
        for row in rows.all(
            "SELECT id, subject, state, reason, requested_by, requested_at, unrecoverable_by,"  # noqa: S608
            f" keys, done_at FROM keyring_erasures WHERE tenant = $1{wanted}"
            " ORDER BY requested_at, subject",
            *values,
        )
    ]


def _standing(rows: Rows, tenant: str, token: str, now: str) -> Standing:
    """How the keyring alone stands to a person; who keeps copies may know of them, too."""
    erasures = _erasures(rows, tenant, token)
    return Standing(
        keyring=keyring_id(rows),
        subject=token,
        known=bool(erasures) or _keys(rows, tenant, token) > 0,
        restrictions=[
            each
            for each in restrictions(rows, tenant, token)
            if each.kind == "hold" or each.until > now
        ],
        erasure=erasures[0] if erasures else None,
    )


def _unfinished(rows: Rows) -> list[str]:
    """The tenants with erasures that are not done."""
    found = rows.all(
        "SELECT DISTINCT tenant FROM keyring_erasures WHERE state <> 'done' ORDER BY tenant"
    )
    return [row[0] for row in found]


def _erasing(rows: Rows) -> list[tuple[str, str]]:
    """Tenant and subject of every erasure that is not done."""
    found = rows.all("SELECT tenant, subject FROM keyring_erasures WHERE state <> 'done'")
    return [(row[0], row[1]) for row in found]


def _keys(rows: Rows, tenant: str, token: str) -> int:
    """How many keys the subject has."""
    found = rows.all(
        "SELECT count(*) FROM keyring_keys WHERE tenant = $1 AND kind = 'subject' AND subject = $2",
        tenant,
        token,
    )
    return int(found[0][0])


def _destroy(rows: Rows, tenant: str, token: str) -> int:
    """Destroy the subject's keys; how many there were."""
    keys = _keys(rows, tenant, token)
    rows.all(
        "DELETE FROM keyring_keys WHERE tenant = $1 AND kind = 'subject' AND subject = $2",
        tenant,
        token,
    )
    return keys


def _note(rows: Rows, tenant: str, erasure: Erasure) -> None:
    rows.all(
        "INSERT INTO keyring_erasures (tenant, subject, id, state, reason, requested_by,"
        " requested_at, unrecoverable_by, keys, done_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '')",
        tenant,
        erasure.subject,
        erasure.id,
        erasure.state,
        erasure.reason,
        erasure.requested_by,
        erasure.requested_at,
        erasure.unrecoverable_by,
        erasure.keys,
    )
