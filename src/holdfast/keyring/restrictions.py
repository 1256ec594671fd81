"""Holds and retentions in the keyring's tables, and what of them stands once two tellings differ.

A keyring that was restored from before a hold does not know of it, and one from before a release
still has it. So what was placed and what was released is in a file beside the keys, too
(:mod:`holdfast.keyring.lines`), and at each start the two are joined: everything that anybody knows
to have been placed stands, unless somebody knows of a later release. Of two retentions the longer
one stands: they are never released.

What is later is told by ``placed_at``, which grows with every hold on a person, also where the
clock steps back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.keyring.model import Release, Restriction, RestrictionLine
from holdfast.keyring.ports import Rows

INSTANT = timedelta(microseconds=1)


def standing(
    placed: Iterable[Restriction], released: Iterable[Release]
) -> tuple[dict[tuple[str, str], Restriction], dict[str, Release]]:
    """What stands, by subject and kind, and the last release of each subject. Pure; the order in
    which it is told does not matter."""
    last: dict[str, Release] = {}
    for release in released:
        known = last.get(release.subject)
        if known is None or known.through < release.through:
            last[release.subject] = release
    stands: dict[tuple[str, str], Restriction] = {}
    for each in placed:
        lifted = last.get(each.subject)
        if each.kind == "hold" and lifted is not None and each.placed_at <= lifted.through:
            continue
        known_one = stands.get((each.subject, each.kind))
        if known_one is None or _rank(known_one) < _rank(each):
            stands[each.subject, each.kind] = each
    return stands, last


def _rank(each: Restriction) -> tuple[str, str]:
    return each.until, each.placed_at


def merge(
    rows: Rows, tenant: str, lines: Sequence[RestrictionLine]
) -> tuple[list[Restriction], list[Restriction], list[RestrictionLine]]:
    """Join the tables with the file's lines: what was put back, what was lifted, and the lines that
    the file lacks."""
    lines = [line for line in lines if line.tenant == tenant]
    told = [line.placed for line in lines if line.placed is not None]
    told_released = [line.released for line in lines if line.released is not None]
    there, there_released = restrictions(rows, tenant), releases(rows, tenant)
    stands, last = standing([*told, *there], [*told_released, *there_released])
    lifted = [each for each in there if (each.subject, each.kind) not in stands]
    put_back = [each for each in stands.values() if each not in there]
    for each in lifted:
        lift(rows, tenant, each)
    for each in put_back:
        place(rows, tenant, each)
    for release in last.values():
        if release not in there_released:
            note_release(rows, tenant, release)
    lacking = [RestrictionLine(tenant=tenant, placed=each) for each in there if each not in told]
    lacking += [
        RestrictionLine(tenant=tenant, released=each)
        for each in there_released
        if each not in told_released
    ]
    return put_back, lifted, lacking


def moment_after(rows: Rows, tenant: str, subject: str, kind: str, now: str) -> str:
    """``now``, or an instant after the last that was placed on the subject, or released."""
    known = [e.placed_at for e in restrictions(rows, tenant, subject) if e.kind == kind]
    known += [each.through for each in releases(rows, tenant, subject)]
    latest = max(known, default="")
    return now if now > latest else timestamp(parse_timestamp(latest) + INSTANT)


def restrictions(rows: Rows, tenant: str, token: str | None = None) -> list[Restriction]:
    """The holds and retentions that stand, of everybody or of one subject."""
    wanted = "" if token is None else " AND subject = $2"
    values = (tenant,) if token is None else (tenant, token)
    return [
        Restriction(
            subject=row[0],
            kind=row[1],
            reason=row[2],
            until=row[3],
            placed_by=row[4],
            placed_at=row[5],
        )
        for row in rows.all(
            "SELECT subject, kind, reason, until, placed_by, placed_at FROM keyring_restrictions"  # noqa: S608
            f" WHERE tenant = $1{wanted} ORDER BY placed_at, subject, kind",
            *values,
        )
    ]


def releases(rows: Rows, tenant: str, token: str | None = None) -> list[Release]:
    """The last release of everybody whose hold was ever released, or of one subject."""
    wanted = "" if token is None else " AND subject = $2"
    values = (tenant,) if token is None else (tenant, token)
    return [
        Release(
            subject=row[0], reason=row[1], through=row[2], released_by=row[3], released_at=row[4]
        )
        for row in rows.all(
            "SELECT subject, reason, through, released_by, released_at FROM keyring_releases"  # noqa: S608
            f" WHERE tenant = $1{wanted} ORDER BY subject",
            *values,
        )
    ]


def place(rows: Rows, tenant: str, each: Restriction) -> None:
    """Write one down, in place of the one of its kind."""
    rows.all(
        "INSERT INTO keyring_restrictions"
        " (tenant, subject, kind, reason, until, placed_by, placed_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, subject, kind)"
        " DO UPDATE SET reason = excluded.reason, until = excluded.until,"
        " placed_by = excluded.placed_by, placed_at = excluded.placed_at",
        tenant,
        each.subject,
        each.kind,
        each.reason,
        each.until,
        each.placed_by,
        each.placed_at,
    )


def lift(rows: Rows, tenant: str, known: Restriction) -> bool:
    """Remove a restriction if it still is the one that was seen; whether it was."""
    if known not in restrictions(rows, tenant, known.subject):
        return False
    rows.all(
        "DELETE FROM keyring_restrictions WHERE tenant = $1 AND subject = $2 AND kind = $3",
        tenant,
        known.subject,
        known.kind,
    )
    return True


def note_release(rows: Rows, tenant: str, release: Release) -> None:
    """Write down that everything placed on the subject up to then is released."""
    rows.all(
        "INSERT INTO keyring_releases"
        " (tenant, subject, reason, through, released_by, released_at)"
        " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, subject)"
        " DO UPDATE SET reason = excluded.reason, through = excluded.through,"
        " released_by = excluded.released_by, released_at = excluded.released_at",
        tenant,
        release.subject,
        release.reason,
        release.through,
        release.released_by,
        release.released_at,
    )
