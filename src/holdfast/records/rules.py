"""What a profile version demands of a run and of each of its records. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal

from holdfast.kernel.canonical import canonical_digest
from holdfast.kernel.errors import Invalid
from holdfast.kernel.moments import check_order
from holdfast.records.model import MappedRecord, Run, RunFinish, RunOpen
from holdfast.records.personal import Marks, marks_of
from holdfast.records.within import Asked, Within, since, within
from holdfast.registry.model import Profile, plain_profile
from holdfast.registry.versions import ProfileVersion

Failure = tuple[str, str]
"""A code and a reason: why a run that wanted to be complete is not published."""


@dataclass(slots=True)
class Violations:
    """How many records break what the profile expects, and the first that does."""

    count: int = 0
    first: str = ""

    def add(self, record: MappedRecord, reason: str) -> None:
        if not self.count:
            self.first = f"response {record.response}, position {record.position}: {reason}"[:500]
        self.count += 1


@dataclass(frozen=True, slots=True)
class Rules:
    """The parts of a profile version that the aggregator enforces."""

    profile: str
    digest: str
    mode: Literal["snapshot", "append", "incremental"]
    duplicates: Literal["error", "first", "last"]
    max_rejects: int
    min_records: int
    max_records: int | None
    required: tuple[tuple[str, str], ...] = ()
    ranges: tuple[tuple[str, Decimal | None, Decimal | None], ...] = field(default=())
    has_period: bool = False
    timezone: str = "UTC"
    """The source's own, of the days that a backfill is about."""
    since: Within | None = None
    """What an ordinary run asks for where its windows over time begin somewhere."""
    mapping: str = ""
    """The digest of what decides how records look: shapes are compared within it."""
    drift: Literal["fail", "report"] = "fail"
    drift_allowed: frozenset[str] = frozenset()
    shrinkage: int | None = None
    marks: Marks | None = None
    """What is personal in the records."""

    @property
    def ordered(self) -> bool:
        """Whether batches must come in order, because the first or last of equal keys counts."""
        return self.duplicates != "error"

    def check(self, records: list[MappedRecord]) -> Violations:
        """The records that lack a required field or leave their range; each counts once."""
        found = Violations()
        if not self.required and not self.ranges:
            return found
        for record in records:
            reason = self._broken(record)
            if reason:
                found.add(record, reason)
        return found

    def _broken(self, record: MappedRecord) -> str:
        for group, name in self.required:
            if _value(record, group, name) is None:
                return f"{group}.{name} is missing" if name else f"{group} is missing"
        for name, low, high in self.ranges:
            measure = record.measures.get(name)
            if measure is None or measure.value is None:
                continue
            value = Decimal(measure.value)
            if low is not None and value < low:
                return f"measures.{name} {self._said(name, measure.value)}, below {low}"
            if high is not None and value > high:
                return f"measures.{name} {self._said(name, measure.value)}, above {high}"
        return ""

    def _said(self, name: str, value: str) -> str:
        """The value, unless it is somebody's own."""
        hidden = self.marks is not None and name in self.marks.measures
        return "is out of range" if hidden else f"is {value[:60]}"


def _value(record: MappedRecord, group: str, name: str) -> object:
    if group == "period":
        return record.period
    if group == "measures":
        measure = record.measures.get(name)
        return None if measure is None else measure.value
    values = record.dimensions if group == "dimensions" else record.attributes
    return values.get(name)


def rules_of(version: ProfileVersion) -> Rules:
    """The rules in a profile version."""
    profile = version.profile
    expect = profile.expect
    required = [text.partition(".") for text in expect.required]
    return Rules(
        profile=version.name,
        digest=version.digest,
        mode=profile.mode,
        duplicates=profile.duplicates,
        max_rejects=profile.max_rejects,
        min_records=expect.min_records,
        max_records=expect.max_records,
        required=tuple((group, name) for group, _, name in required),
        ranges=tuple(
            (
                text.rpartition(".")[2],
                None if bounds.min is None else Decimal(bounds.min),
                None if bounds.max is None else Decimal(bounds.max),
            )
            for text, bounds in expect.ranges.items()
        ),
        has_period=profile.period is not None,
        timezone=profile.timezone,
        since=_since(profile),
        mapping=mapping_digest(profile),
        drift=expect.drift,
        drift_allowed=frozenset(expect.drift_allowed),
        shrinkage=expect.shrinkage,
        marks=marks_of(profile),
    )


def _since(profile: Profile) -> Within | None:
    spec = profile.source.windows
    if spec is None:
        return None
    try:
        return since(spec.start, spec.format, profile.timezone)
    except ValueError:  # no worker can ask for it either: the run fails
        return None


def asked_by(rules: Rules, run: Any) -> Asked | None:
    """What the worker of a run asked for; ``None`` if that was everything there is.

    Nothing bounds it above: windows end with the run's beginning, and none before it knew more. Of
    a run that reads stored bytes, ``rules`` are those under which they were fetched.
    """
    if run.range_start is not None:
        return Asked((within(run.range_start, run.range_end, rules.timezone),))
    return None if rules.since is None else Asked((rules.since,), undated=True)


_MAPPING = (
    "dimensions", "measures", "attributes", "period", "unpivot", "nulls", "timezone", "ambiguous",
    "code_lists",
)  # fmt: skip


def mapping_digest(profile: Profile) -> str:
    """The digest of the parts of a profile that decide what its records look like."""
    plain = plain_profile(profile)
    parts = {name: plain[name] for name in _MAPPING if name in plain}
    return canonical_digest({"format": plain["source"].get("format"), **parts})


def for_kind(rules: Rules, kind: str) -> Rules:
    """The rules as they hold for a run of this kind.

    A backfill brings a part, so that how many records are expected says nothing of it. A merge
    reads what several runs brought, the later first: a key comes as often as it was collected, and
    what a run may reject each of them might have rejected.
    """
    if kind == "backfill":
        return replace(rules, min_records=0, max_records=None)
    if kind == "merge":
        return replace(
            rules,
            min_records=0,
            max_records=None,
            max_rejects=2**53,
            duplicates="first" if rules.duplicates == "error" else rules.duplicates,
        )
    return rules


def check_opening(rules: Rules, request: RunOpen) -> None:
    """``Invalid`` for a range where there is none to be kept to, or a backfill without one."""
    ranged = request.range_start is not None and request.range_end is not None
    if ranged != (request.kind == "backfill") or (
        (request.range_start is None) != (request.range_end is None)
    ):
        raise Invalid("cannot open the run: a backfill, and nothing else, has a range")
    if request.range_start is not None and request.range_end is not None:
        try:
            asked = within(request.range_start, request.range_end, rules.timezone)
        except ValueError as error:
            raise Invalid("cannot open the run: its range is none of the calendar's") from error
        begins, ends = ("range_start", request.range_start), ("range_end", request.range_end)
        check_order("open the run", begins, ends, asked.moments)
    if ranged and not rules.has_period:
        raise Invalid(
            f"cannot backfill {rules.profile}: its records have no period",
            hint="add `period` to the profile",
        )


def doubled(run: Any) -> Failure | None:
    """Why a re-mapping that withdraws nothing must not be published: under other keys, records
    would be there twice, under the old one and the new one.

    As many may be as there are new keys and known ones that did not come. Where the keys are the
    same, those that did not come are the rejected rows nobody can tell the key of: about as many as
    these, and few. So it is refused for one more than there are such rows, and for more than a
    tenth of all (a row that several runs brought is rejected several times), or if no known key
    came at all.
    """
    if run.kind not in ("remap", "merge") or not run.withheld:
        return None
    twice, known = min(run.new, run.withheld), run.present + run.withheld
    if run.present and twice <= run.unkeyed and twice * 10 <= known:
        return None
    return (
        "keys-unclear",
        f"of {known} known keys {run.present or 'none'} came again, {run.new} are new, and of "
        f"{run.unkeyed} rejected rows nobody can tell which records they are: {run.withheld} that "
        "are published could not be withdrawn, and might be there twice",
    )


def completion_failure(
    rules: Rules,
    run: Run,
    finish: RunFinish,
    *,
    gapless: bool,
    violations: Violations,
    repeat: str,
) -> Failure | None:
    """Why this complete run must not be published; ``None`` if it may.

    ``gapless``: the batches that came are numbered 0…n−1. ``repeat`` is the first repeated key.
    """
    if run.batches != finish.batches or not gapless:
        return (
            "batches-missing",
            f"the worker sent {finish.batches} batches from 0 on, {run.batches} are here",
        )
    if run.rejects > rules.max_rejects:
        return (
            "too-many-rejects",
            f"{run.rejects} rows were rejected, max_rejects allows {rules.max_rejects}",
        )
    if run.duplicates and rules.duplicates == "error":
        many = "1 record repeats" if run.duplicates == 1 else f"{run.duplicates} records repeat"
        return ("duplicate-keys", f"{many} a key; first: {repeat}")
    if violations.count:
        return (
            "expectation-failed",
            f"{violations.count} records break what the profile expects; first: {violations.first}",
        )
    if run.records < rules.min_records:
        return (
            "too-few-records",
            f"{run.records} records came, the profile expects at least {rules.min_records}",
        )
    if rules.max_records is not None and run.records > rules.max_records:
        return (
            "too-many-records",
            f"{run.records} records came, the profile expects at most {rules.max_records}",
        )
    return None
