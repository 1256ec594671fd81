"""One request about a person, in every keyring of a deployment.

Roles that run apart have keyrings apart, and each knows a person by a name of its own. Whoever asks
the deployment means all of them. So all are asked how they stand to the person before anything is
destroyed in one: if a role is away, or one keyring has a hold or a retention, nothing is erased
anywhere. Then each is erased, also one that knows nobody of that name: what comes in later is
dropped everywhere. A hold or a retention is placed wherever it can be, since one that is placed in
some already refuses every erasure that is asked for here.

No transaction spans two keyrings, so one may fail after another is done. Then the failure says what
is done where, and the same request again finishes it: what is done is not done twice, and an
erasure that has begun is known by it. Nothing is kept here.

Roles that share a keyring are one: the first of them is asked, as if it were alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from holdfast.kernel.errors import (
    BY_KIND,
    Conflict,
    HoldfastError,
    Kind,
    OutcomeUnknown,
    Problem,
    Unavailable,
)
from holdfast.kernel.principal import Principal
from holdfast.kernel.telemetry import get_logger
from holdfast.keyring.model import (
    Erased,
    ErasedIn,
    EraseRequest,
    Erasure,
    LookRequest,
    Placed,
    PlacedIn,
    Restriction,
    RetainRequest,
    Standing,
    SubjectRequest,
    Subjects,
    SubjectsIn,
    only,
)
from holdfast.keyring.ports import People
from holdfast.keyring.subjects import check_moved_on, moment_of, refusal, unknown

T = TypeVar("T")
log = get_logger("keyring")

Roles = Mapping[str, People]
"""Role → the people of its keyring; in the order in which they are asked."""
Ask = Callable[[Principal], AbstractAsyncContextManager[Roles]]
"""Opens them for a principal: each role sees that one, and judges its rights itself."""

SILENT = frozenset({Kind.UNAVAILABLE, Kind.OUTCOME_UNKNOWN, Kind.INTERNAL})
"""Failures of a role that is not there, or cannot say: all others are refusals."""


@dataclass(frozen=True, slots=True)
class _Keyring:
    """One keyring: the roles whose it is, whom to ask, how it stands to the person."""

    roles: tuple[str, ...]
    people: People
    standing: Standing

    @property
    def name(self) -> str:
        return ", ".join(self.roles)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the keyrings answered, and the roles that did not."""

    keyrings: list[_Keyring]
    away: dict[str, HoldfastError]


class SubjectsEverywhere:
    """See :class:`holdfast.keyring.ports.People`, for all keyrings of a deployment."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    # --- reading ------------------------------------------------------------------------------

    async def list(self, principal: Principal) -> Subjects:
        """Restrictions and erasures of every keyring; the whole, or a failure."""
        async with self._ask(principal) as roles:
            answered, away = await _all(roles, lambda people: people.list(principal))
        if away:
            raise _silent("list what is held and erased", away, [])
        return _merged([((role,), found) for role, found in answered.items()])

    async def look(self, principal: Principal, request: LookRequest) -> Sequence[Standing]:
        """How each keyring stands to a person; of all, or a failure."""
        async with self._ask(principal) as roles:
            asked = await _look(principal, roles, request.subject)
        if asked.away:
            raise _silent("look for the subject", asked.away, [])
        return [
            msgspec.structs.replace(each.standing, roles=[*each.roles]) for each in asked.keyrings
        ]

    # --- reasons to keep ------------------------------------------------------------------------

    async def hold(self, principal: Principal, request: SubjectRequest) -> Placed:
        """Hold a person in every keyring. ``held-in-part`` says in which it is and in which not."""
        async with self._ask(principal) as roles:
            asked = await _look(principal, roles, request.subject)
            return await _place(
                _Doing("hold", "held"), asked, lambda people: people.hold(principal, request)
            )

    async def retain(self, principal: Principal, request: RetainRequest) -> Placed:
        """Retain a person's data in every keyring, unless one retains it for longer.

        ``retained-in-part`` says in which it is and in which not.
        """
        until = moment_of(request.until)
        async with self._ask(principal) as roles:
            asked = await _look(principal, roles, request.subject)
            for each in asked.keyrings:
                check_moved_on(each.standing.restrictions, until)
            return await _place(
                _Doing("retain", "retained"),
                asked,
                lambda people: people.retain(principal, request),
            )

    async def release(self, principal: Principal, request: SubjectRequest) -> Subjects:
        """Release the hold in every keyring. ``released-in-part`` says where one may still be."""
        doing = _Doing("release", "released")
        async with self._ask(principal) as roles:
            asked = await _look(principal, roles, request.subject)
            done, failed = await _each(
                asked.keyrings, lambda people: people.release(principal, request)
            )
        doing.check(asked, dict.fromkeys(done, "released"), failed)
        return _merged([(each.roles, done[each.name]) for each in asked.keyrings])

    # --- erasing ------------------------------------------------------------------------------

    async def erase(self, principal: Principal, request: EraseRequest) -> Erased:
        """Erase a person in every keyring.

        Nothing happens in any of them while a role does not answer, one keyring has a hold or a
        retention, or none knows the name (unless that is meant). ``erased-in-part``: it was begun,
        now or before, and is not done in all.
        """
        doing = _Doing("erase", "erased")
        async with self._ask(principal) as roles:
            asked = await _look(principal, roles, request.subject)
            if asked.away:
                doing.check(asked, _before(asked), {})
            if len(asked.keyrings) == 1:
                return await asked.keyrings[0].people.erase(principal, request)
            doing.check(asked, _before(asked), _refusals(asked))
            if not request.even_unknown and not any(k.standing.known for k in asked.keyrings):
                raise unknown()
            # It is known to one, or that is meant: then it is meant for all.
            wanted = msgspec.structs.replace(request, even_unknown=True)
            done: dict[str, Erased] = {}
            for each in asked.keyrings:
                try:
                    done[each.name] = await each.people.erase(principal, wanted)
                except HoldfastError as error:
                    # And no further: what refuses here has perhaps been placed in the others too.
                    told = _before(asked) | {name: _since(one) for name, one in done.items()}
                    doing.check(asked, told, {each.name: error})
        return _erased([(each.roles, done[each.name]) for each in asked.keyrings])


async def _all(
    roles: Roles, ask: Callable[[People], Awaitable[T]]
) -> tuple[dict[str, T], dict[str, HoldfastError]]:
    """Ask all roles at once: the answers in the roles' order, and the failures."""
    answered: dict[str, T] = {}
    failed: dict[str, HoldfastError] = {}

    async def one(role: str, people: People) -> None:
        try:
            answered[role] = await ask(people)
        except HoldfastError as error:
            failed[role] = error

    async with asyncio.TaskGroup() as group:
        for role, people in roles.items():
            group.create_task(one(role, people))
    return {role: answered[role] for role in roles if role in answered}, failed


async def _look(principal: Principal, roles: Roles, subject: str) -> _Asked:
    """How the keyrings stand to a person, each once, however many roles share it."""
    request = LookRequest(subject=subject)
    answered, away = await _all(roles, lambda people: people.look(principal, request))
    found: dict[str, _Keyring] = {}
    for role, standings in answered.items():
        for standing in standings:
            known = found.get(standing.keyring)
            if known is None:
                found[standing.keyring] = _Keyring((role,), roles[role], standing)
            else:
                found[standing.keyring] = _Keyring(
                    (*known.roles, role), known.people, known.standing
                )
    return _Asked(list(found.values()), away)


async def _each(
    keyrings: Sequence[_Keyring], ask: Callable[[People], Awaitable[T]]
) -> tuple[dict[str, T], dict[str, HoldfastError]]:
    """Ask one keyring after the other, also when one fails."""
    done: dict[str, T] = {}
    failed: dict[str, HoldfastError] = {}
    for each in keyrings:
        try:
            done[each.name] = await ask(each.people)
        except HoldfastError as error:
            failed[each.name] = error
    return done, failed


async def _place(
    doing: _Doing, asked: _Asked, place: Callable[[People], Awaitable[Placed]]
) -> Placed:
    """Place a hold or a retention in all keyrings that answer."""
    done, failed = await _each(asked.keyrings, place)
    doing.check(
        asked, {name: f"{doing.done} since {p.placed_at}" for name, p in done.items()}, failed
    )
    placed = [(each, done[each.name]) for each in asked.keyrings]
    first = placed[0][1]
    if len(placed) == 1:
        return first
    erased = [answer.erased_at for _, answer in placed]
    return msgspec.structs.replace(
        first,
        known=any(answer.known for _, answer in placed),
        erased_at=max(erased) if all(erased) else "",
        keyrings=[
            PlacedIn(roles=[*each.roles], known=answer.known, restriction=only(Restriction, answer))
            for each, answer in placed
        ],
    )


@dataclass(frozen=True, slots=True)
class _Doing:
    """What is done to a person in every keyring, and how it is told that it is not."""

    verb: str
    done: str

    def check(
        self, asked: _Asked, told: Mapping[str, str], failed: Mapping[str, HoldfastError]
    ) -> None:
        """Raise unless all is done: ``told`` says what is done in which keyring, ``failed`` which
        one refused or was lost.

        Where nothing is done anywhere it is the failure itself, as if one had been asked alone.
        """
        failures = {**failed, **asked.away}
        if not failures:
            return
        first = next(iter(failures.values()))
        alone = len(asked.keyrings) == 1 and not asked.away
        if alone or (failed and not told and first.kind is not Kind.OUTCOME_UNKNOWN):
            raise first
        lines = [Problem(each.name, self._line(each, told, failed)) for each in asked.keyrings]
        lines += [
            Problem(role, f"not {self.done}: {failure.detail}")
            for role, failure in asked.away.items()
        ]
        if not failed and not told:
            raise _silent(f"{self.verb} the subject", asked.away, lines)
        log.warning(f"a subject is {self.done} in part", undone=sorted(failures))
        refused = not any(each.kind in SILENT for each in failures.values())
        kind = Conflict if refused else OutcomeUnknown
        raise kind(
            f"cannot {self.verb} the subject in every keyring: some is done, some is not",
            code=f"{self.done}-in-part",
            hint="the same again, once that is mended, does the rest; what is done stays done, and "
            "repeating is safe",
            problems=lines,
            retry_after_seconds=None if refused else 1,
            internal="; ".join(each.internal for each in failures.values() if each.internal),
        )

    def _line(
        self, keyring: _Keyring, told: Mapping[str, str], failed: Mapping[str, HoldfastError]
    ) -> str:
        known, failure = told.get(keyring.name, ""), failed.get(keyring.name)
        if failure is None:
            return known or f"not {self.done}"
        if known:
            return f"{known}, and not finished: {failure.detail}"
        lost = failure.kind is Kind.OUTCOME_UNKNOWN
        return f"{'perhaps' if lost else 'not'} {self.done}: {failure.detail}"


def _silent(
    what: str, away: Mapping[str, HoldfastError], lines: Sequence[Problem]
) -> HoldfastError:
    """Roles that were to be asked first did not answer, or would not: nothing was done."""
    first = next(iter(away.values()))
    kind = Unavailable if first.kind in SILENT else BY_KIND[first.kind]
    return kind(
        f"cannot {what}: {'; '.join(each.detail for each in away.values())}",
        code=first.code,
        hint=first.hint
        or "every role with keys of people is asked before anything is done, and "
        f"nothing was: see that the {' and the '.join(away)} runs (`holdfast status`)",
        problems=lines,
        retry_after_seconds=first.retry_after_seconds,
        internal=first.internal,
    )


def _refusals(asked: _Asked) -> dict[str, HoldfastError]:
    """The keyrings in which a hold or a retention refuses what has not happened there yet."""
    return {
        each.name: refusal(each.standing.restrictions[0], f" in the keyring of the {each.name}")
        for each in asked.keyrings
        if each.standing.erasure is None and each.standing.restrictions
    }


def _before(asked: _Asked) -> dict[str, str]:
    """The keyrings in which it was erased before."""
    return {
        each.name: _since(each.standing.erasure)
        for each in asked.keyrings
        if each.standing.erasure is not None
    }


def _since(erasure: Erasure) -> str:
    done = f"erased since {erasure.requested_at}"
    return done if erasure.state == "done" else f"{done}, copies are still to be removed"


def _erased(found: Sequence[tuple[tuple[str, ...], Erased]]) -> Erased:
    """What the erasures in several keyrings come to."""
    every = [erased for _, erased in found]
    head = next((each for each in every if each.keys), every[0])
    return msgspec.structs.replace(
        head,
        state="done" if all(each.state == "done" for each in every) else "erasing",
        requested_at=max(each.requested_at for each in every),
        unrecoverable_by=max(each.unrecoverable_by for each in every),
        done_at=max(each.done_at for each in every),
        keys=sum(each.keys for each in every),
        repeated=all(each.repeated for each in every),
        keyrings=[ErasedIn(roles=[*roles], erasure=only(Erasure, each)) for roles, each in found],
    )


def _merged(found: Iterable[tuple[tuple[str, ...], Subjects]]) -> Subjects:
    """Several lists as one, that of each keyring once."""
    keyrings: dict[str, tuple[tuple[str, ...], Subjects]] = {}
    for roles, listed in found:
        # A role of an earlier release names none: then it is its own, or a list would be lost.
        name = listed.keyring or ",".join(roles)
        known = keyrings.get(name, ((), listed))
        keyrings[name] = ((*known[0], *roles), listed)
    parts = [
        SubjectsIn(roles=[*roles], restrictions=listed.restrictions, erasures=listed.erasures)
        for roles, listed in keyrings.values()
    ]
    if len(parts) == 1:
        return next(iter(keyrings.values()))[1]
    return Subjects(
        restrictions=[each for part in parts for each in part.restrictions],
        erasures=[each for part in parts for each in part.erasures],
        keyrings=parts,
    )
