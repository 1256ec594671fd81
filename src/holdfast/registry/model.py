"""What a profile says: one source, how to read it, and what a record of it looks like.

Pure types, no I/O; ``source.py`` has the part about the source, ``parts.py`` what all parts are
made of. The published JSON Schema and the reference are generated from these structs and their
docstrings, so that what is documented, what is checked and what the drone reads is one thing.
Everything that collection will ever need is modelled from the first day, because the model fixes
the schema of what is stored; publishing refuses, by name, a part that this build cannot carry out
yet (``supported.py``).

A profile is data: no code, no secrets (only references to them).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, Literal

from msgspec import NODEFAULT, UNSET, Meta, Struct, convert, field, json, structs

from holdfast.kernel.canonical import canonical, digest
from holdfast.kernel.errors import Corrupt
from holdfast.registry.parts import (
    Address,
    DecimalText,
    Duration,
    FieldName,
    Frequency,
    Mapped,
    Name,
    NotNegative,
    Overlap,
    Part,
    Path,
    Place,
    Positive,
    Text,
)
from holdfast.registry.source import (
    CsvFormat,
    Format,
    JsonFormat,
    JsonStatFormat,
    SheetFormat,
    Source,
)


class Field(Part, frozen=True, kw_only=True):
    """Where one value comes from and what it must be.

    Exactly one of ``path``, ``constant`` and ``join`` is given. In tabular formats a path is a
    column's name. In JSON it begins with ``$`` (or ``@``), the record; with ``$$``, the enclosing
    document, where each ``[*]`` stands for the same element as the one in ``records``; or with
    ``#``, one of the format's ``keys``. In XML it is an XPath from the record: ``name``, ``@unit``,
    ``a/b[@id='x']``; ``../header/@id`` and ``/root/updated`` reach what stands around it.
    """

    path: Path | None = None
    """Where the value stands."""
    constant: Text | None = None
    """The same value for every record, as text."""
    type: Literal["string", "integer", "decimal", "boolean", "date", "datetime"] = "string"
    """What the value must be; a row that fails goes to the rejects. Numbers stay exact."""
    format: Text = ""
    """For dates and times: a strptime pattern, ``epoch-s``, ``epoch-ms``, ``excel`` (the count of
    days in spreadsheets: 44197 is 2021-01-01), ``rfc-2822`` (as feeds and mail write it), or empty
    for ISO 8601; a time without a zone is in the profile's ``timezone``. For booleans: the texts
    that mean true and false, as in ``Y/N``."""
    nulls: list[str] | None = None
    """Spellings that mean "missing" in this field, instead of the profile's own list."""
    required: bool = False
    """A missing value is a reject. Key fields are always required."""
    pad: Annotated[int, Meta(ge=0, le=64)] = 0
    """Left-pad with zeros to this width (a FIPS code that lost its leading zero)."""
    trim: bool = False
    """Blanks around a text do not count: ``A``, `` A`` and ``A `` are one. Around numbers, dates
    and truth values they never do."""
    split: Text = ""
    """Cut the text at this separator and take one ``part``."""
    part: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """Which part, from 0; negative from the end."""
    join: list[Path] = []
    """Several paths whose texts are joined by ``separator``."""
    separator: Text = ""
    """What stands between joined texts; with one ``path``, between the elements of an array."""
    codes: Text = ""
    """Name of a code list: of one in ``code_lists``, or of a file ``codes/NAME.csv`` beside the
    profile. The text becomes what the list has for it; one that is not in it is a reject."""
    thousands: Annotated[str, Meta(max_length=1)] = ""
    """The separator of thousands in a number written as text."""
    decimal: Annotated[str, Meta(min_length=1, max_length=1)] = "."
    """The decimal mark in a number written as text."""
    negative: Literal["minus", "parentheses", "trailing"] = "minus"
    """How a number below zero is written as text, beside a minus in front: as ``(123)`` or as
    ``123-``. Without it such a text is a reject: to some publishers parentheses mean that a number
    is not reliable."""
    unit: Text = ""
    """The unit, preferably as UCUM or an ISO 4217 currency writes it."""
    unit_path: Path | None = None
    """Where the unit stands, when each record says its own."""
    multiplier: DecimalText = "1"
    """What one counts for: ``1000`` for a table in thousands. The value itself is kept as sent."""
    magnitude_path: Path | None = None
    """Where each record says its own multiplier as a power of ten: ``UNIT_MULT`` of SDMX,
    ``SCALAR_ID``; 6 there is millions. Where it says none, ``multiplier`` counts."""
    marks: Annotated[list[Text], Meta(max_length=32)] = []
    """What may stand before or behind a number written as text and is no part of it: ``*``, ``p``,
    ``[b]``; ``()`` stands around it, so that ``(123)`` is 123. What stood there is kept in the
    attribute ``<field>_mark``."""
    description: Text = ""
    """What the value means."""


class MeasureField(Field, frozen=True, kw_only=True):
    """A field that is a number: the same as a field, but ``type`` is ``decimal`` by default.

    Exactly one of ``path``, ``constant`` and ``join`` is given.
    """

    type: Literal["integer", "decimal"] = "decimal"
    """What the number must be; it stays exact either way."""


class Period(Part, frozen=True, kw_only=True):
    """The time a record speaks of, with its frequency kept.

    ``A`` year, ``S`` half, ``Q`` quarter, ``M`` month, ``W`` ISO week, ``D`` day, ``H`` hour, ``I``
    instant. Exactly one of ``path`` and ``join`` is given. A time with an offset is brought to the
    profile's ``timezone`` before the period is cut, so that a local midnight written in UTC falls
    in the right month.

    A day or a time stands for the period that it lies in: ``2024-01-01``, ``2024-07-01`` and
    ``2024-12-31`` are all the year 2024 under ``A``, since publishers name a year by its first
    day, its middle or its last. That data is finer than its ``frequency`` shows as repeated keys,
    which fail the run. Under ``H`` and ``I`` a day is its midnight, as sheets write it. What is
    longer than the frequency says is a reject, as is a month under ``A`` or a week under ``M``.
    """

    path: Path | None = None
    """Where the time stands."""
    join: list[Path] = []
    """Several paths (a year and a month) whose texts are joined by ``separator``."""
    separator: Text = "-"
    """What stands between joined texts."""
    frequency: Frequency
    """How long the period is."""
    format: Text = ""
    """A strptime pattern, ``epoch-s``, ``epoch-ms``, ``excel`` (the count of days in spreadsheets),
    ``rfc-2822``, or empty for ISO 8601."""
    codings: Annotated[dict[str, Frequency], Meta(max_length=32)] = {}
    """The publisher's own spellings and the frequency each stands for: regular expressions of the
    whole text with the named groups ``year`` and ``sub`` (the number of the half, quarter, month or
    week, also in Roman numerals) or, for days and hours, ``month``, ``day`` and ``hour``, or
    ``end_hour`` (1 to 24) for an hour that is named by its end. With
    ``"(?P<year>[0-9]{4})-M13": A`` an annual average coded as month 13 is annual, never a month.
    ``end_year`` instead of ``year`` is the calendar year in which a year ends. ``fiscal_year`` (or
    ``fiscal_end_year``) with ``sub`` counts halves, quarters and months from ``year_start``; beside
    a ``year_start`` the groups ``half``, ``quarter`` and ``month`` are the calendar's."""
    months: Annotated[list[Text], Meta(max_length=120)] = []
    """The twelve months as the source calls them, from January on (``Januar``, ``Februar``, …), and
    twelve more names if it has others, too. A name is read as the number of the month, so that
    ``Januar 2020`` is ``01 2020`` to ``format`` (``%m %Y``) and ``codings``."""
    spellings: Annotated[dict[str, str], Meta(max_length=1000)] = {}
    """Texts that no pattern can read, and the period each stands for: ``1976``, ``1976-S2``,
    ``1976-Q3``, ``1976-07``, ``1976-W31`` or ``1976-07-01``."""
    year_start: Annotated[int, Meta(ge=1, le=12)] = 1
    """The month in which a year of frequency ``A`` begins, for fiscal, school and water years;
    ``2020/21``, ``2020-21`` and ``2020/2021`` are then read as the year that begins in 2020. It
    holds for halves, quarters and months where a coding says so (``fiscal_year``); a quarter from
    November is kept by its first day and its length, and is none of the calendar's."""


class Unpivot(Part, frozen=True, kw_only=True):
    """Turn a wide row into one record for each column that matches.

    Fields read the column's name as ``#column`` and its cell as ``#value``.
    """

    columns: Text
    """A regular expression that the whole name of a column must match. Fields read its named groups
    as ``#name``: ``(?P<year>[0-9]{4}) \\| (?P<sex>.+)`` gives ``#year`` and ``#sex``."""
    beside: Annotated[dict[FieldName, Text | int], Meta(max_length=8)] = {}
    """Columns that say more of the cell, by the names with which fields read them (``#flag``). Each
    is a column's name with ``{column}``, or a group of ``columns``, in its place (``"{column}
    flag"``, ``"F_{year}"``), or how many columns to the right it stands (``1``; ``-1`` to the
    left)."""
    skip_nulls: bool = True
    """Cells that are missing give no record, unless something stands in a column ``beside``."""


class Cursor(Part, frozen=True, kw_only=True):
    """Where an incremental source continues: the greatest value at ``path`` published so far."""

    path: Path
    """Where the value stands in a record."""
    parameter: Text
    """The parameter that carries it."""
    into: Place = "query"
    """Where the parameter goes, as for pagination."""
    start: Text
    """The value of the first run."""
    overlap: Overlap = "0s"
    """How far to go back before the cursor, for late arrivals: a time, or a number if the cursor
    is one."""
    format: Text = ""
    """How the value is read and written: a strptime pattern, ``epoch-s``, ``epoch-ms``, or empty
    for ISO 8601."""
    template: Text = ""
    """What is sent, where the source wants an expression: ``updated > '{value}'`` has the time or
    number in the place of its one ``{value}``. ``start`` is a time or number then, too."""


class Range(Part, frozen=True, kw_only=True):
    """Bounds, inclusive, for a measure; decimals, kept as written."""

    min: DecimalText | None = None
    """The smallest value allowed."""
    max: DecimalText | None = None
    """The greatest value allowed."""


class Expect(Part, frozen=True, kw_only=True):
    """What a complete run must satisfy, or nothing of it is published."""

    min_records: NotNegative = 0
    """At least this many records."""
    max_records: Positive | None = None
    """At most this many records."""
    required: Annotated[list[str], Mapped] = []
    """Fields (``measures.price``, ``period``) that no record may lack."""
    ranges: Annotated[dict[str, Range], Mapped] = {}
    """Bounds for measures, by field (``measures.price``)."""
    drift: Literal["fail", "report"] = "fail"
    """What a breaking change of shape means, against what earlier runs of this profile saw: a
    dimension, measure or period gone, another type or unit, numbers that jumped by about a power of
    ten or changed their sign. ``fail``: the run fails and nothing of it is published, until
    somebody accepts it (``holdfast run accept``). ``report``: it is published, and an event says
    so. Changes that are not breaking are always reported only."""
    drift_allowed: Annotated[list[Text], Mapped] = []
    """Fields (``measures.price``) and kinds (``unit-jumped``) that may change their shape."""
    shrinkage: Annotated[int, Meta(ge=1, le=100)] | None = None
    """Fail a run that brings this many percent fewer records than usual. A snapshot of 20 records
    or more that brings less than half is always reported, and one that brings nothing where
    something is published fails (unless ``drift`` is ``report``) until somebody accepts it."""


class Limits(Part, frozen=True, kw_only=True):
    """Bounds on a run. Reaching one is an error with what was kept marked partial, never a cut."""

    max_bytes: Positive = 2_147_483_648
    """Bytes of all bodies of a run, after decompression."""
    max_records: Positive = 10_000_000
    """Records of a run."""
    max_pages: Positive = 10_000
    """Requests for pages of a run."""
    timeout: Duration = "60s"
    """How long one request may take to bring its next bytes."""
    max_duration: Duration = "1h"
    """How long a run may take."""
    requests_per_minute: Positive | None = None
    """Requests a minute to this source, over the whole fleet, evenly spread: a request waits until
    its host has not been asked for that long, by whichever profile with such a limit."""
    requests_per_day: Positive | None = None
    """Requests a day to this source, over the whole fleet."""
    concurrency: Positive = 1
    """Requests at once within a run: where the source has said how many pages there are, or windows
    cut its history. A crash may cost as many pages. The operator's bound on requests to one host at
    once counts too."""
    retries: Annotated[int, Meta(ge=0, le=20)] = 3
    """Repeats of a request that failed in a way that may pass, within one attempt of a run. A run
    has four attempts with longer and longer pauses between them, so that a request that always
    fails is sent at most 4 × (``retries`` + 1) times; ``requests_per_minute`` and
    ``requests_per_day`` count each."""


class Schedule(Part, frozen=True, kw_only=True):
    """When to collect. Exactly one of ``every`` and ``cron`` is given."""

    every: Duration | None = None
    """An interval."""
    cron: Text | None = None
    """Five fields: minute, hour, day of month, month, day of week."""
    timezone: Text = "UTC"
    """The time zone that ``cron`` speaks of."""
    jitter: Duration = "0s"
    """Spread starts over this long, the same for the same profile each time."""


class Licence(Part, frozen=True, kw_only=True):
    """The terms the publisher gives the data under."""

    name: Annotated[str, Meta(min_length=1, max_length=4096)]
    """The licence, by its usual name."""
    url: Address | None = None
    """Its text."""


class Profile(Part, frozen=True, kw_only=True):
    """One source, how to read it, and what a record of it looks like."""

    version: Literal[1]
    """The version of this form of profile: 1."""
    name: Name
    """The name by which commands, files and metrics know the profile."""
    title: Text = ""
    """A line for people."""
    description: Text = ""
    """A paragraph for people."""
    publisher: Annotated[str, Meta(min_length=1, max_length=4096)]
    """Who publishes the data."""
    licence: Licence | Annotated[str, Meta(min_length=1, max_length=4096)]
    """The terms the publisher gives the data under: a name, or a name and an address."""
    attribution: Text = ""
    """The credit line that charts and exports print."""
    source: Source
    """Where the bytes come from and how to read them."""
    mode: Literal["snapshot", "append", "incremental"] = "snapshot"
    """``snapshot``: a complete run is the whole truth, and keys absent from it are withdrawn. With
    ``windows`` it speaks of what begins in them: what a backfill brought from before them stays.
    ``append``: records arrive and stay. ``incremental``: each run asks for what is new since the
    ``cursor``."""
    cursor: Cursor | None = None
    """Where an incremental source continues."""
    key: Annotated[list[str], Meta(max_length=32)] | Literal["position"]
    """Fields (``dimensions.station``, ``period``) that identify a record; ``position`` is content
    plus occurrence number, for sources where whole rows repeat."""
    duplicates: Literal["error", "first", "last"] = "error"
    """What two records of one run with the same key mean."""
    timezone: Text = "UTC"
    """The source's own time zone: of its times without an offset, and of its days and months. An
    hour or an instant that the zone's clocks never showed, because they were put forward over it,
    is a reject; of longer periods only the day counts, and it is there. A time with the name of a
    zone (``CEST``) that is neither UTC nor what the clocks here say then is a reject, too."""
    ambiguous: Literal["first", "second", "reject"] = "first"
    """Which is meant of a time without an offset that the zone's clocks showed twice, because they
    were put back over it: the ``first``, the ``second``, or none: ``reject`` makes it a reject. Two
    rows of such an hour have one key; a source that has both says which is which by an offset."""
    nulls: list[str] = field(default_factory=lambda: [""])
    """Spellings that mean "missing" in this source; the original is kept beside the record."""
    unpivot: Unpivot | None = None
    """How a wide row becomes several records."""
    dimensions: Annotated[dict[FieldName, Field | Path], Mapped] = {}
    """What a record is about. A bare text is a path."""
    measures: Annotated[dict[FieldName, MeasureField | Path], Mapped] = {}
    """The numbers. A bare text is a path."""
    attributes: Annotated[dict[FieldName, Field | Path], Mapped] = {}
    """What else is known of a record: status flags, notes. A bare text is a path."""
    period: Period | None = None
    """The time a record speaks of."""
    code_lists: Annotated[dict[Text, dict[str, str]], Meta(max_length=32)] = {}
    """Code lists by name: from the source's code to what stands for it, or to nothing (an empty
    text) where it is no value; ``*`` is for all other codes."""
    subject: Text = ""
    """The field (``dimensions.patient``) that names the person a record is about; it is personal
    itself. Erasing takes that name to the letter."""
    personal: Annotated[list[str], Mapped] = []
    """More fields (``measures.weight``, ``attributes.note``, ``period``) that are sealed under the
    subject's key: shown in lists and exports to those who may see them, in no query, report or
    Parquet file, and gone when the subject is erased."""
    enabled: bool = True
    """Whether the profile may run."""
    schedule: Schedule | None = None
    """When it runs; without one, only when asked."""
    limits: Limits = field(default_factory=Limits)
    """Bounds on a run."""
    expect: Expect = field(default_factory=Expect)
    """What a complete run must satisfy."""
    max_rejects: NotNegative = 0
    """More rejected rows than this fail the run, and nothing of it is published. In a snapshot a
    rejected row keeps the record that its key names as it is; where its key cannot be read, the run
    withdraws nothing and says so."""
    freshness: Duration | None = None
    """How long silence is normal; after that the profile is stale."""


GROUPS = ("dimensions", "measures", "attributes")
"""The three parts of a record that hold named fields."""


def is_tabular(form: Format) -> bool:
    """Whether the fields of a format are columns with names."""
    return isinstance(form, CsvFormat | SheetFormat | JsonStatFormat) or (
        isinstance(form, JsonFormat) and (form.header or form.columns)
    )


COLUMN, VALUE = "#column", "#value"
"""What fields of an unpivoted row read: the column's name and its cell."""


def cell_paths(profile: Profile) -> tuple[str, ...]:
    """The paths by which fields read a cell of an unpivoted row and what belongs to it."""
    if profile.unpivot is None:
        return ()
    try:
        groups = re.compile(profile.unpivot.columns).groupindex
    except (re.error, RecursionError, OverflowError):  # a rule says so
        groups = {}
    return (COLUMN, VALUE, *(f"#{name}" for name in (*groups, *profile.unpivot.beside)))


def field_names(profile: Profile) -> list[str]:
    """Every field of a record by its full name: ``dimensions.station``, …, ``period``."""
    names = [f"{group}.{name}" for group in GROUPS for name in getattr(profile, group)]
    return [*names, "period"] if profile.period else names


def as_field(value: Field | str) -> Field:
    """A mapping entry in its long form: a bare text is a path."""
    return Field(path=value) if isinstance(value, str) else value


def as_measure(value: MeasureField | str) -> MeasureField:
    """A measure in its long form: a bare text is a path."""
    return MeasureField(path=value) if isinstance(value, str) else value


def as_licence(value: Licence | str) -> Licence:
    """A licence in its long form: a bare text is its name."""
    return Licence(name=value) if isinstance(value, str) else value


# --- one profile, one digest --------------------------------------------------------------------


def plain_profile(profile: Profile) -> dict[str, Any]:
    """``profile`` as plain data in its one form.

    A member that has its default is left out, however it was written, and short forms are written
    long: two profiles that mean the same have the same form. Defaults therefore never change
    within a version of the form.
    """
    plain = _plain(profile)
    assert isinstance(plain, dict)
    plain["licence"] = _plain(as_licence(profile.licence))
    for group in GROUPS:
        if group in plain:
            long = as_measure if group == "measures" else as_field
            plain[group] = {
                name: _plain(long(value)) for name, value in getattr(profile, group).items()
            }
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        config = value.__struct_config__
        plain = {config.tag_field: config.tag} if config.tag_field else {}
        for member in _members(type(value)):
            found = getattr(value, member.name)
            if found is UNSET or (not member.required and found == default_of(member)):
                continue
            plain[member.encode_name] = _plain(found)
        return plain
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


@cache
def _members(part: type[Struct]) -> tuple[structs.FieldInfo, ...]:
    return structs.fields(part)


def default_of(member: structs.FieldInfo) -> Any:
    """The value that a member has when it is left out."""
    if member.default is not NODEFAULT:
        return member.default
    return member.default_factory()


def canonical_profile(profile: Profile) -> bytes:
    """The canonical bytes of ``profile``: what its digest is of and what the registry keeps."""
    return canonical(plain_profile(profile))


def profile_digest(profile: Profile) -> str:
    """The digest that names this version of the profile, whoever computes it."""
    return digest(canonical_profile(profile))


def read_canonical(data: bytes) -> Profile:
    """The profile that :func:`canonical_profile` wrote.

    Raises :class:`Corrupt` if the bytes are anything but that form.
    """
    try:
        return convert(json.decode(data), Profile)
    except ValueError as error:
        raise Corrupt("cannot read a stored profile: it is not one", internal=str(error)) from error
