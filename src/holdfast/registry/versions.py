"""What the registry keeps and says about a profile: versions, overrides, status, history.

Pure types and rules, no I/O.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, json, structs

from holdfast.registry.model import Limits, Profile, Schedule, plain_profile
from holdfast.registry.parts import Duration, Positive


class ProfileVersion(Struct, frozen=True, kw_only=True):
    """One immutable version: its digest is that of the canonical bytes of ``profile``."""

    name: str
    digest: str
    profile: Profile
    published_at: str
    published_by: str


class ProfileVersionInfo(Struct, frozen=True, kw_only=True):
    """A version as the list of versions shows it; ``current`` is the one that runs."""

    name: str
    digest: str
    published_at: str
    published_by: str
    current: bool


class LimitsOverride(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator's bounds: each member given replaces the profile's, the others stay."""

    max_bytes: Positive | None = None
    max_records: Positive | None = None
    max_pages: Positive | None = None
    timeout: Duration | None = None
    max_duration: Duration | None = None
    requests_per_minute: Positive | None = None
    requests_per_day: Positive | None = None
    concurrency: Positive | None = None
    retries: Annotated[int, Meta(ge=0, le=20)] | None = None


class ProfileOverrides(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator changed without a new version: paused or not, schedule, limits."""

    paused: bool = False
    schedule: Schedule | None = None
    limits: LimitsOverride | None = None


class OverridesChange(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A partial change of the overrides; a member left out stays as it is, ``null`` clears it."""

    paused: bool | UnsetType = UNSET
    schedule: Schedule | None | UnsetType = UNSET
    limits: LimitsOverride | None | UnsetType = UNSET


class ProfileCount(Struct, frozen=True, kw_only=True):
    """How many profiles the list has."""

    profiles: int


class ProfileStatus(Struct, frozen=True, kw_only=True):
    """A profile as the list shows it.

    ``problem`` is why the newest file was not taken; the version shown keeps running. ``digest`` is
    empty for a profile whose only file was never good. ``revision`` grows with every change, for
    conditional writes.
    """

    name: str
    title: str
    digest: str
    published_at: str
    enabled: bool
    overrides: ProfileOverrides
    problem: str = ""
    runnable: bool = True
    """Published, enabled, not paused, not removed: what the coordinator schedules."""
    removed: bool = False
    """The file it came from is gone."""
    file: str = ""
    """The file it came from, relative to the profiles' folder."""
    schedule: Schedule | None = None
    """The schedule in force."""
    freshness: str | None = None
    publisher: str = ""
    revision: int = 0


class RunnableProfile(Struct, frozen=True, kw_only=True):
    """A profile that may run, with everything the coordinator needs to run it."""

    name: str
    digest: str
    title: str
    schedule: Schedule | None
    """The operator's schedule, or else the profile's own."""
    limits: Limits
    """The profile's limits with the operator's in their place."""
    limits_override: LimitsOverride | None
    freshness: str | None
    periodic: bool = True
    """Its records have a period, so that a range of them can be asked for."""


class RunnableSet(Struct, frozen=True, kw_only=True):
    """All profiles that may run; ``etag`` changes whenever one of them does."""

    etag: str
    profiles: list[RunnableProfile]


class Change(Struct, frozen=True, kw_only=True):
    """One member that differs between two profiles; ``None`` where a side has no such member."""

    path: str
    before: str | None = None
    after: str | None = None


class PublishResult(Struct, frozen=True, kw_only=True):
    """What publishing did, or would do.

    ``created``: this digest was never published before. ``changed``: the head moves to it.
    """

    version: ProfileVersion
    created: bool
    changed: bool
    dry_run: bool
    previous: str
    """Digest of the version that ran before; empty for a new profile."""
    diff: list[Change]


class ProfileDiff(Struct, frozen=True, kw_only=True):
    """What differs between two versions of one profile."""

    name: str
    before: str
    after: str
    changes: list[Change]


class ProfileEvent(Struct, frozen=True, kw_only=True):
    """One row of a profile's history, stamped with the event that is its evidence."""

    sequence: int
    action: Literal["published", "paused", "resumed", "overridden", "removed", "restored"]
    digest: str
    overrides: ProfileOverrides
    at: str
    by: str
    event: str


def effective_limits(limits: Limits, override: LimitsOverride | None) -> Limits:
    """``limits`` with each member that the operator gave in its place."""
    if override is None:
        return limits
    given = {key: value for key, value in structs.asdict(override).items() if value is not None}
    return structs.replace(limits, **given)


def changed_overrides(current: ProfileOverrides, change: OverridesChange) -> ProfileOverrides:
    """``current`` after ``change``."""
    given = {key: value for key, value in structs.asdict(change).items() if value is not UNSET}
    return structs.replace(current, **given)


def diff_profiles(before: Profile | None, after: Profile | None) -> list[Change]:
    """Every member that differs, by path, in the order of the paths.

    Lists are compared whole: a list's order means something.
    """
    left = _leaves(plain_profile(before)) if before else {}
    right = _leaves(plain_profile(after)) if after else {}
    return [
        Change(path=path, before=left.get(path), after=right.get(path))
        for path in sorted(left.keys() | right.keys())
        if left.get(path) != right.get(path)
    ]


def _leaves(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        leaves: dict[str, str] = {}
        for key, item in value.items():
            leaves |= _leaves(item, f"{path}.{key}" if path else key)
        return leaves
    return {path: json.encode(value).decode()}
