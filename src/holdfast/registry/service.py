"""The registry: profiles, versioned by content digest, never mutated.

A version is immutable. A profile's *head* says which version runs and what the operator changed;
each change of a head, its history row and its event are one transaction. Publishing the version
that already runs changes nothing and says so, so publishing may be repeated freely.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec
from sqlalchemy import Connection

from holdfast.kernel.canonical import canonical, digest
from holdfast.kernel.clock import Clock, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Problem
from holdfast.kernel.http.paging import Page, decode_cursor, encode_cursor, page_size
from holdfast.kernel.idempotency import once
from holdfast.kernel.ids import EventId, NewId, is_name
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import Principal
from holdfast.kernel.telemetry import Metrics, request_id
from holdfast.registry import rules, store
from holdfast.registry.errors import ProfileChanged, ProfileInvalid, ProfileUnknown, refusal
from holdfast.registry.model import Limits, Profile, canonical_profile, read_canonical
from holdfast.registry.supported import unsupported
from holdfast.registry.time_rules import schedule_problems
from holdfast.registry.validate import Check, examine
from holdfast.registry.versions import (
    OverridesChange,
    ProfileDiff,
    ProfileEvent,
    ProfileOverrides,
    ProfileStatus,
    ProfileVersion,
    ProfileVersionInfo,
    PublishResult,
    RunnableProfile,
    RunnableSet,
    changed_overrides,
    diff_profiles,
    effective_limits,
)

T = TypeVar("T", str, int)
_LAST = 2**53 - 1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_OPAQUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True, slots=True)
class FromFile:
    """The file of the profiles' folder that a document came from, and the digest of its bytes."""

    file: str
    digest: str


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What a unit needs from the world, made before it: units are pure of time and ids."""

    now: datetime
    by: str
    event_id: str
    profile_id: str
    request: str

    @property
    def row(self) -> store.Stamp:
        return store.Stamp(timestamp(self.now), self.by, self.event_id)


class RegistryService:
    """What others call. One instance serves every tenant; all state is in the database.

    ``checks`` are further looks at a profile before it is published, by slices that know more than
    this one: whether its mapping compiles.
    """

    def __init__(
        self,
        db: Database,
        outbox: Outbox,
        clock: Clock,
        new_id: NewId,
        *,
        checks: Sequence[Check] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self._db = db
        self._outbox = outbox
        self._clock = clock
        self._new_id = new_id
        self._checks = tuple(checks)
        metrics = metrics or Metrics()
        self._by_state = metrics.gauge(
            "holdfast_registry_profiles", "Profiles by what they may do", ["state"]
        )
        self._refused_files = metrics.gauge(
            "holdfast_registry_profile_problems",
            "Files of the profiles' folder that were not taken",
        )
        self._publications = metrics.counter(
            "holdfast_registry_publications_total", "Times a version became the one that runs"
        )

    # --- publishing -----------------------------------------------------------------------------

    async def publish(
        self,
        principal: Principal,
        document: bytes | Profile,
        *,
        media_type: str = "application/yaml",
        dry_run: bool = False,
        expected: str | None = None,
        idempotency_key: str = "",
        file: FromFile | None = None,
    ) -> PublishResult:
        """Make the version in ``document`` the one that runs; durable when this returns.

        Publishing what already runs changes nothing. ``expected`` is the digest that must run now
        (empty: no such profile yet), or ``None`` for whatever runs. ``dry_run`` checks and
        compares, and writes nothing. With ``idempotency_key`` a repeat within a day gets the first
        answer, even if another version was published in between.

        Raises :class:`ProfileInvalid` with everything that is wrong, :class:`ProfileUnsupported`
        with each part that is not built, :class:`ProfileChanged` if ``expected`` does not hold.
        """
        # A large document takes long enough to be felt by everybody else on the event loop.
        examined = await asyncio.to_thread(
            examine, document, media_type=media_type, checks=self._checks
        )
        profile = examined.required()
        stamp = self._stamp(principal)

        def plan(conn: Connection) -> tuple[PublishResult, store.Head | None]:
            return _planned(conn, principal, profile, examined.digest, expected, stamp, dry_run)

        if dry_run:
            return (await self._db.read(principal, plan))[0]
        body = canonical_profile(profile).decode()

        def publish(conn: Connection) -> PublishResult:
            result, current = plan(conn)
            self._write_publication(conn, principal, result, current, body, stamp, file)
            return result

        def unit(conn: Connection) -> PublishResult:
            if not idempotency_key:
                return publish(conn)
            answer, _ = once(
                conn,
                principal,
                "profiles.publish",
                idempotency_key,
                digest(canonical([examined.digest, expected])),
                stamp.now,
                lambda: msgspec.json.encode(publish(conn)),
            )
            return msgspec.json.decode(answer, type=PublishResult)

        result = await self._db.write(principal, unit, size_bytes=2 * len(body))
        if result.changed:
            self._publications.inc()
        await self.measure(principal)
        return result

    def _write_publication(
        self,
        conn: Connection,
        principal: Principal,
        result: PublishResult,
        current: store.Head | None,
        body: str,
        stamp: _Stamp,
        file: FromFile | None,
    ) -> None:
        version = result.version
        if file is not None:
            _refuse_second_file(conn, principal, version.name, file.file)
            seen = store.FileSeen(file.file, version.name, file.digest, "", timestamp(stamp.now))
            store.put_file(conn, principal, seen)
        if result.created:
            store.add_version(
                conn,
                principal,
                name=version.name,
                digest=version.digest,
                sequence=(current.revision if current else 0) + 1,
                canonical=body,
                stamp=stamp.row,
            )
        to = store.Head(
            name=version.name,
            id=current.id if current else stamp.profile_id,
            digest=version.digest,
            revision=(current.revision if current else 0) + 1,
            overrides=current.overrides if current else _packed(ProfileOverrides()),
            removed=False,
            file=file.file if file else "",
            published_at=timestamp(stamp.now),
        )
        if result.changed:
            self._move(conn, principal, to, "published", stamp, {"previous": result.previous})
        elif current is not None and current.removed:
            to = replace(to, published_at=current.published_at)
            self._move(conn, principal, to, "restored", stamp, {})
        elif current is not None and file is not None and current.file != file.file:
            store.set_file_of(conn, principal, version.name, to.file)

    def _move(
        self,
        conn: Connection,
        principal: Principal,
        to: store.Head,
        action: str,
        stamp: _Stamp,
        more: dict[str, Any],
    ) -> None:
        """The new head, its history row and its event, in this transaction."""
        store.move_head(conn, principal, to, action, stamp.row)
        self._outbox.emit(
            conn,
            principal,
            Event(
                id=EventId(stamp.event_id),
                stream=f"profile/{to.id}",
                type=f"profile.{action}",
                time=stamp.now,
                payload={
                    "profile": to.name,
                    "digest": to.digest,
                    "revision": to.revision,
                    "file": to.file,
                    **more,
                },
                request_id=stamp.request,
            ),
        )

    # --- the operator's hand --------------------------------------------------------------------

    async def pause(
        self, principal: Principal, name: str, *, expected: int | None = None
    ) -> ProfileStatus:
        """Keep the profile from being run until it is resumed. Repeating it changes nothing."""
        return await self.override(principal, name, OverridesChange(paused=True), expected=expected)

    async def resume(
        self, principal: Principal, name: str, *, expected: int | None = None
    ) -> ProfileStatus:
        """Let a paused profile run again. Repeating it changes nothing."""
        return await self.override(
            principal, name, OverridesChange(paused=False), expected=expected
        )

    async def override(
        self,
        principal: Principal,
        name: str,
        change: OverridesChange,
        *,
        expected: int | None = None,
    ) -> ProfileStatus:
        """Change what holds beside the profile: paused, schedule, limits; durable on return.

        A member left out stays as it is, ``None`` clears it. Overrides outlive new versions.
        ``expected`` is the revision the head must have, or ``None``. Raises
        :class:`ProfileInvalid` for a schedule or limits that make no sense.
        """
        stamp = self._stamp(principal)

        def unit(conn: Connection) -> ProfileStatus:
            head = _head(conn, principal, name)
            if expected is not None and head.revision != expected:
                raise ProfileChanged(
                    f"cannot change the profile {name}: it is at revision {head.revision}, "
                    f"not {expected}"
                )
            before = _overrides(head)
            after = changed_overrides(before, change)
            profile = _profile(_version(conn, principal, name, head.digest).canonical)
            _check_overrides(name, profile, after)
            if after != before:
                packed = _packed(after)
                head = replace(head, overrides=packed, revision=head.revision + 1)
                action = _action(change)
                more = {"overrides": msgspec.json.decode(packed)}
                self._move(conn, principal, head, action, stamp, more)
            files = store.files(conn, principal, name)
            return _status(head, profile, files)

        status = await self._db.write(principal, unit)
        await self.measure(principal)
        return status

    # --- reading --------------------------------------------------------------------------------

    async def list(
        self, principal: Principal, *, cursor: str | None = None, limit: int = 100
    ) -> Page[ProfileStatus]:
        """Profiles by name, with what is wrong with the newest file of each."""
        limit = page_size(limit)
        after = _position("profiles", cursor, str) if cursor else ""

        def unit(conn: Connection) -> list[ProfileStatus]:
            names = store.names(conn, principal, after, limit + 1)
            return [_status_of(conn, principal, name) for name in names]

        items = await self._db.read(principal, unit)
        more = encode_cursor("profiles", [items[limit - 1].name]) if len(items) > limit else None
        return Page(items=items[:limit], next=more)

    async def count(self, principal: Principal) -> int:
        """How many profiles the whole list has."""
        return await self._db.read(principal, lambda conn: store.count(conn, principal))

    async def status(self, principal: Principal, name: str) -> ProfileStatus:
        """One line of the list; :class:`ProfileUnknown` if there is no such profile."""
        return await self._db.read(principal, lambda conn: _status_of(conn, principal, name))

    async def show(
        self, principal: Principal, name: str, digest: str | None = None
    ) -> ProfileVersion:
        """The version that runs, or the one with ``digest``, whenever it was published."""

        def unit(conn: Connection) -> ProfileVersion:
            wanted = digest or _head(conn, principal, name).digest
            row = _version(conn, principal, name, wanted)
            return ProfileVersion(
                name=name,
                digest=row.digest,
                profile=_profile(row.canonical),
                published_at=row.published_at,
                published_by=row.published_by,
            )

        return await self._db.read(principal, unit)

    async def versions(
        self, principal: Principal, name: str, *, cursor: str | None = None, limit: int = 100
    ) -> Page[ProfileVersionInfo]:
        """Every version ever published, newest first."""
        limit = page_size(limit)
        before = _position("profile-versions", cursor, int) if cursor else _LAST

        def unit(conn: Connection) -> tuple[str, list[Any]]:
            head = _head(conn, principal, name)
            rows = store.versions(conn, principal, name, before, limit + 1)
            return head.digest, list(rows)

        current, rows = await self._db.read(principal, unit)
        items = [
            ProfileVersionInfo(
                name=name,
                digest=row.digest,
                published_at=row.published_at,
                published_by=row.published_by,
                current=row.digest == current,
            )
            for row in rows[:limit]
        ]
        return Page(items=items, next=_next("profile-versions", rows, limit))

    async def history(
        self, principal: Principal, name: str, *, cursor: str | None = None, limit: int = 100
    ) -> Page[ProfileEvent]:
        """What happened to the profile, newest first, each with the event that proves it."""
        limit = page_size(limit)
        before = _position("profile-history", cursor, int) if cursor else _LAST

        def unit(conn: Connection) -> list[Any]:
            _head(conn, principal, name)
            return list(store.history(conn, principal, name, before, limit + 1))

        rows = await self._db.read(principal, unit)
        items = [
            ProfileEvent(
                sequence=row.sequence,
                action=row.action,
                digest=row.digest,
                overrides=msgspec.json.decode(row.overrides, type=ProfileOverrides),
                at=row.at,
                by=row.by,
                event=row.event_id,
            )
            for row in rows[:limit]
        ]
        return Page(items=items, next=_next("profile-history", rows, limit))

    async def diff(
        self, principal: Principal, name: str, before: str, after: str | None = None
    ) -> ProfileDiff:
        """What differs between two versions; ``after`` is the one that runs if it is ``None``."""
        left = await self.show(principal, name, before)
        right = await self.show(principal, name, after)
        return ProfileDiff(
            name=name,
            before=left.digest,
            after=right.digest,
            changes=diff_profiles(left.profile, right.profile),
        )

    async def runnable(self, principal: Principal, *, unless: str = "") -> RunnableSet | None:
        """Every profile that may run, in one read; ``None`` if the etag is still ``unless``.

        The etag changes with every change of any head: asking again costs one row.
        """

        def unit(conn: Connection) -> RunnableSet | None:
            etag = f"profiles-{store.heads_sequence(conn, principal)}"
            if etag == unless:
                return None
            found = [
                _runnable(head, _profile(canonical))
                for head, canonical in store.live(conn, principal)
            ]
            return RunnableSet(etag=etag, profiles=[each for each in found if each is not None])

        return await self._db.read(principal, unit)

    # --- the folder -----------------------------------------------------------------------------

    async def files(self, principal: Principal) -> Sequence[store.FileSeen]:
        """What was last seen of each file of the profiles' folder."""
        return await self._db.read(principal, lambda conn: store.files(conn, principal))

    async def file_refused(
        self, principal: Principal, file: FromFile, name: str, problems: Sequence[Problem]
    ) -> None:
        """A file is not a profile, or not one that is built: say so in the list.

        The version that runs, if there is one, keeps running.
        """
        seen = store.FileSeen(
            file=file.file,
            name=name,
            digest=file.digest,
            problem=_told(file.file, problems),
            seen_at=timestamp(self._clock.now()),
        )
        await self._db.write(principal, lambda conn: store.put_file(conn, principal, seen))
        await self.measure(principal)

    async def file_gone(self, principal: Principal, file: str, *, renamed: bool = False) -> None:
        """A file is no longer there. The profile that came from it stops running, and is kept.

        ``renamed``: another file gives the same name now, and the profile runs on.
        """
        stamp = self._stamp(principal)

        def unit(conn: Connection) -> None:
            store.drop_file(conn, principal, file)
            if renamed:
                return
            for name in store.names_from(conn, principal, file):
                head = replace(_head(conn, principal, name), removed=True)
                head = replace(head, revision=head.revision + 1)
                self._move(conn, principal, head, "removed", stamp, {})

        await self._db.write(principal, unit)
        await self.measure(principal)

    async def measure(self, principal: Principal) -> None:
        """Bring the gauges up to what the database holds."""

        def unit(conn: Connection) -> tuple[list[str], int]:
            heads = store.heads(conn, principal)
            return [_state(head) for head in heads], store.refused_files(conn, principal)

        states, refused = await self._db.read(principal, unit)
        for state in ("active", "paused", "removed"):
            self._by_state.labels(state).set(states.count(state))
        self._refused_files.set(refused)

    def _stamp(self, principal: Principal) -> _Stamp:
        request = request_id()
        return _Stamp(
            now=self._clock.now(),
            by=principal.subject,
            event_id=self._new_id(),
            profile_id=self._new_id(),
            request=request if _OPAQUE.fullmatch(request) else "",
        )


# --- pure parts of the units --------------------------------------------------------------------


def _planned(
    conn: Connection,
    principal: Principal,
    profile: Profile,
    wanted: str,
    expected: str | None,
    stamp: _Stamp,
    dry_run: bool,
) -> tuple[PublishResult, store.Head | None]:
    """What publishing comes to, given what is there now."""
    current = store.head(conn, principal, profile.name)
    running = current.digest if current else ""
    if expected is not None and running != expected:
        raise ProfileChanged(
            f"cannot publish the profile {profile.name}: "
            + (f"{running} runs now, not {expected}" if running else "there is none yet"),
            hint="look at what runs with `holdfast profile diff`, then decide",
        )
    known = store.version(conn, principal, profile.name, wanted)
    before = None
    if running and running != wanted:
        before = _profile(_version(conn, principal, profile.name, running).canonical)
    result = PublishResult(
        version=ProfileVersion(
            name=profile.name,
            digest=wanted,
            profile=profile,
            published_at=known.published_at if known else timestamp(stamp.now),
            published_by=known.published_by if known else stamp.by,
        ),
        created=known is None,
        changed=running != wanted,
        dry_run=dry_run,
        previous=running,
        diff=diff_profiles(before, profile) if running != wanted else [],
    )
    return result, current


def _refuse_second_file(conn: Connection, principal: Principal, name: str, file: str) -> None:
    for other in store.files(conn, principal, name):
        if other.file != file and not other.problem:
            problem = Problem("name", f"{name} is already given by {other.file}", "take another")
            raise refusal(name, [problem], [])


def _head(conn: Connection, principal: Principal, name: str) -> store.Head:
    head = store.head(conn, principal, name) if is_name(name) else None
    if head is None:
        raise ProfileUnknown(
            f"cannot find the profile {name!r}", hint="`holdfast profile list` shows what there is"
        )
    return head


def _version(conn: Connection, principal: Principal, name: str, wanted: str) -> Any:
    known = is_name(name) and _DIGEST.fullmatch(wanted)
    row = store.version(conn, principal, name, wanted) if known else None
    if row is None:
        raise ProfileUnknown(f"cannot find the version {wanted[:80]!r} of the profile {name!r}")
    return row


@lru_cache(maxsize=1024)
def _profile(canonical: str) -> Profile:
    """Versions are immutable, so a decoded one can be kept."""
    return read_canonical(canonical.encode())


@lru_cache(maxsize=1024)
def _unpacked(packed: str) -> ProfileOverrides:
    return msgspec.json.decode(packed, type=ProfileOverrides)


def _overrides(head: store.Head) -> ProfileOverrides:
    return _unpacked(head.overrides)


def _packed(overrides: ProfileOverrides) -> str:
    return canonical(overrides).decode()


def _action(change: OverridesChange) -> str:
    if change.schedule is msgspec.UNSET and change.limits is msgspec.UNSET:
        return "paused" if change.paused else "resumed"
    return "overridden"


def _check_overrides(name: str, profile: Profile, overrides: ProfileOverrides) -> None:
    """An operator's schedule and limits must hold to the same rules as a profile's."""
    limits: Limits = effective_limits(profile.limits, overrides.limits)
    problems = list(rules.limits_problems(limits, "limits"))
    if overrides.schedule is not None:
        problems += schedule_problems(overrides.schedule, "schedule")
    if problems:
        raise ProfileInvalid(f"cannot override the profile {name}", problems=problems)
    lacking = [
        problem
        for problem in unsupported(msgspec.structs.replace(profile, limits=limits))
        if problem.path.startswith("limits.")
    ]
    if lacking:
        raise refusal(name, [], lacking)


def _runnable(head: store.Head, profile: Profile) -> RunnableProfile | None:
    overrides = _overrides(head)
    if head.removed or overrides.paused or not profile.enabled:
        return None
    return RunnableProfile(
        name=head.name,
        digest=head.digest,
        title=profile.title,
        schedule=overrides.schedule or profile.schedule,
        limits=effective_limits(profile.limits, overrides.limits),
        limits_override=overrides.limits,
        freshness=profile.freshness,
        periodic=profile.period is not None,
    )


def _status_of(conn: Connection, principal: Principal, name: str) -> ProfileStatus:
    if not is_name(name):
        _head(conn, principal, name)
    head = store.head(conn, principal, name)
    files = store.files(conn, principal, name)
    if head is not None:
        return _status(
            head, _profile(_version(conn, principal, name, head.digest).canonical), files
        )
    if not files:
        _head(conn, principal, name)
    return ProfileStatus(
        name=name,
        title="",
        digest="",
        published_at="",
        enabled=False,
        overrides=ProfileOverrides(),
        problem=_problem(files),
        runnable=False,
        file=files[0].file,
    )


def _status(head: store.Head, profile: Profile, files: Sequence[store.FileSeen]) -> ProfileStatus:
    overrides = _overrides(head)
    return ProfileStatus(
        name=head.name,
        title=profile.title,
        digest=head.digest,
        published_at=head.published_at,
        enabled=profile.enabled,
        overrides=overrides,
        problem=_problem(files),
        runnable=_runnable(head, profile) is not None,
        removed=head.removed,
        file=head.file,
        schedule=overrides.schedule or profile.schedule,
        freshness=profile.freshness,
        publisher=profile.publisher,
        revision=head.revision,
    )


def _problem(files: Sequence[store.FileSeen]) -> str:
    return "\n".join(seen.problem for seen in files if seen.problem)


_TOLD_MAX = 20


def _told(file: str, problems: Sequence[Problem]) -> str:
    lines = [f"{file}: {problem}" for problem in problems[:_TOLD_MAX]]
    if len(problems) > _TOLD_MAX:
        lines.append(f"{file}: and {len(problems) - _TOLD_MAX} more problems")
    return "\n".join(lines)


def _state(head: store.Head) -> str:
    if head.removed:
        return "removed"
    return "paused" if _overrides(head).paused else "active"


def _position(kind: str, cursor: str, wanted: type[T]) -> T:
    """What a cursor of ours holds; anything else is somebody's own making."""
    return cast("T", decode_cursor(kind, cursor, wanted)[0])


def _next(kind: str, rows: Sequence[Any], limit: int) -> str | None:
    return (
        encode_cursor(kind, [cast("int", rows[limit - 1].sequence)]) if len(rows) > limit else None
    )
