"""Records as a table: which columns there are, and a record's cells in their order. Pure.

One layout serves Parquet, CSV and the data package::

    record_id, revision, period_start, period_end, period_frequency,
    dim_<name>…, <measure>, <measure>__double, <measure>__unit, <measure>__multiplier…,
    attr_<name>…, run, recorded_from

A measure's text is exact; the double beside it is for engines that compute. CSV leaves the doubles
out: what is text there can be read as a number by whoever wants to.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from holdfast.records.content import Content, FieldNames
from holdfast.records.model import Scalar
from holdfast.registry.model import Field, MeasureField, Profile, as_field, as_licence, as_measure

ColumnType = Literal["string", "integer", "boolean", "double"]


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column: its name, its type, which part of the record it shows, and which field."""

    name: str
    type: ColumnType = "string"
    part: str = ""
    field: str = ""
    description: str = ""
    unit: str = ""


def columns_of(profiles: Sequence[Profile], fields: FieldNames) -> list[Column]:
    """The columns for records with these fields under these versions, the newest last.

    A dimension or attribute is typed where every version that declares it agrees; otherwise it is
    text. So is one that no version declares, such as the spelling of a missing value.
    """
    found = [
        Column(
            name="record_id",
            part="record",
            description="Identity of the record; stays the same whatever its values become",
        ),
        Column(
            name="revision",
            type="integer",
            part="revision",
            description="How often what is said of this record has changed, from 1",
        ),
        Column(
            name="period_start",
            part="period",
            field="start",
            description="First day, or UTC time, of the period the record speaks of",
        ),
        Column(
            name="period_end",
            part="period",
            field="end",
            description="First day, or UTC time, that is not in the period any more",
        ),
        Column(
            name="period_frequency",
            part="period",
            field="frequency",
            description="A year, S half, Q quarter, M month, W week, D day, H hour, I instant",
        ),
    ]
    found += [_plain(profiles, "dimensions", "dim", name) for name in fields.dimensions]
    for name in fields.measures:
        declared = _measure(profiles, name)
        said, unit = declared.description, declared.unit
        found += [
            Column(name=name, part="measures", field=name, description=said, unit=unit),
            Column(
                name=f"{name}__double",
                type="double",
                part="double",
                field=name,
                description=said,
                unit=unit,
            ),
            Column(name=f"{name}__unit", part="unit", field=name, description=f"Unit of {name}"),
            Column(
                name=f"{name}__multiplier",
                part="multiplier",
                field=name,
                description=f"What one of {name} counts for: 1000 in a table in thousands",
            ),
        ]
    found += [_plain(profiles, "attributes", "attr", name) for name in fields.attributes]
    return [
        *found,
        Column(name="run", part="run", description="The run that wrote this revision"),
        Column(
            name="recorded_from",
            part="recorded_from",
            description="UTC time since when this is what was known",
        ),
    ]


def _plain(profiles: Sequence[Profile], group: str, prefix: str, name: str) -> Column:
    declared = [
        as_field(getattr(profile, group)[name])
        for profile in profiles
        if name in getattr(profile, group)
    ]
    types = {_TYPES.get(field.type, "string") for field in declared}
    return Column(
        name=f"{prefix}_{name}",
        type=types.pop() if len(types) == 1 else "string",
        part=group,
        field=name,
        description=declared[-1].description if declared else "",
    )


_TYPES: dict[str, ColumnType] = {"integer": "integer", "boolean": "boolean"}


def _measure(profiles: Sequence[Profile], name: str) -> MeasureField | Field:
    for profile in reversed(profiles):
        if name in profile.measures:
            return as_measure(profile.measures[name])
    return MeasureField(path="$")


def scalar_text(value: Scalar) -> str | None:
    """A scalar as text, as filters, CSV and reports write it; ``None`` for null."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


class Row(msgspec.Struct, frozen=True, array_like=True):
    """What a table needs of one revision; ``body`` is its canonical content."""

    record: str
    revision: int
    run: str
    recorded_from: str
    body: str
    sequence: int = 0
    subject: str = ""
    sealed: bytes = b""
    personal: str = ""


PERSONAL_COLUMNS = (
    Column(name="subject", part="subject", description="keyed name of the person it is about"),
    Column(
        name="personal",
        part="personal",
        description="What became of the record's personal fields: sealed, opened, or erased",
    ),
    Column(name="sealed", part="sealed", description="personal fields, under the person's key"),
)
"""What a table of records about people has besides."""

SEALED_KEY = "holdfast.sealed"
"""Of a projection's metadata: the names, as a JSON list, of the columns that it lacks."""

FREQUENCIES_KEY = "holdfast.frequencies"
"""Of a projection's metadata, where periods are personal: the frequencies, as a JSON list, that
they can have by the profile's versions. That tells nothing of any record, and whoever adds them up
must know that a year is not counted beside its months."""


def split_columns(
    columns: Sequence[Column], marks: Iterable[tuple[str, str]]
) -> tuple[list[Column], list[Column]]:
    """The columns that everybody sees, and those of the personal fields: ``(group, name)`` each.

    A sealed field has no column of its own among the first: a null would look like an answer.
    """
    marked = set(marks)
    clear: list[Column] = []
    personal: list[Column] = []
    for column in columns:
        group = "measures" if column.part in _MEASURED else column.part
        mine = ("period", "") if group == "period" else (group, column.field)
        (personal if mine in marked else clear).append(column)
    return clear, personal


class Table:
    """Turns rows into cells, column by column."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = list(columns)

    def vectors(self, rows: Sequence[Row], contents: Sequence[Content]) -> list[list[Any]]:
        """For each column the cells of all rows."""
        return [self._vector(column, rows, contents) for column in self.columns]

    def cells(self, row: Row, content: Content) -> list[Any]:
        """One row's cells."""
        return [vector[0] for vector in self.vectors([row], [content])]

    def _vector(
        self, column: Column, rows: Sequence[Row], contents: Sequence[Content]
    ) -> list[Any]:
        name = column.field
        match column.part:
            case "record":
                return [row.record for row in rows]
            case "revision":
                return [row.revision for row in rows]
            case "run":
                return [row.run for row in rows]
            case "recorded_from":
                return [row.recorded_from for row in rows]
            case "subject":
                return [row.subject or None for row in rows]
            case "personal":
                return [row.personal or None for row in rows]
            case "sealed":
                return [b64encode(row.sealed).decode() or None for row in rows]
            case "period":
                return [getattr(content.period, name, None) for content in contents]
            case "dimensions":
                return _typed(column.type, (content.dimensions.get(name) for content in contents))
            case "attributes":
                return _typed(column.type, (content.attributes.get(name) for content in contents))
            case part:
                measures = (content.measures.get(name) for content in contents)
                return [_MEASURED[part](measure) for measure in measures]


def _typed(wanted: ColumnType, values: Iterable[Scalar]) -> list[Any]:
    if wanted == "integer":
        return [
            value if isinstance(value, int) and not isinstance(value, bool) else None
            for value in values
        ]
    if wanted == "boolean":
        return [value if isinstance(value, bool) else None for value in values]
    return [scalar_text(value) for value in values]


def _double(measure: Any) -> float | None:
    return None if measure is None or measure.value is None else float(measure.value)


_MEASURED: dict[str, Any] = {
    "measures": lambda measure: None if measure is None else measure.value,
    "double": _double,
    "unit": lambda measure: None if measure is None else measure.unit,
    "multiplier": lambda measure: None if measure is None else measure.multiplier,
}


def without_doubles(columns: Sequence[Column]) -> list[Column]:
    """The columns of a text file."""
    return [column for column in columns if column.type != "double" and column.part != "sealed"]


def is_numeric(column: Column) -> bool:
    """Whether a text file holds plain numbers in this column, and the data package says so."""
    return column.part in ("measures", "multiplier") or column.type == "integer"


# --- the data package ---------------------------------------------------------------------------

_FRICTIONLESS = {"string": "string", "integer": "integer", "boolean": "boolean", "double": "number"}


def data_package(
    profile: Profile,
    columns: Sequence[Column],
    sealed: Sequence[Column] = (),
    *,
    publication: int,
    recorded_at: str,
    rows: int,
) -> dict[str, Any]:
    """A Frictionless data package (v1) that describes the exports of a publication.

    The first resource is the CSV file, which any Frictionless tool validates; the second the
    Parquet file, with the doubles that only it has. ``columns`` are the CSV's; of ``sealed``, the
    personal fields' own, the Parquet file has none, and ``holdfast:sealed`` of a resource names
    those that it lacks.
    """
    withheld = {column.name for column in sealed}
    lacking = withheld - {column.name for column in columns}
    licence = as_licence(profile.licence)
    source: dict[str, Any] = {"title": profile.publisher, "path": profile.source.url}
    described: dict[str, Any] = {"title": licence.name}
    if licence.url:
        described["path"] = licence.url
    package: dict[str, Any] = {
        "profile": "tabular-data-package",
        "name": profile.name,
        "title": profile.title or profile.name,
        "description": profile.description,
        "version": str(publication),
        "created": recorded_at,
        "licenses": [described],
        "sources": [source],
        "contributors": [{"title": profile.publisher, "role": "publisher"}],
        "resources": [
            {
                "profile": "tabular-data-resource",
                "name": profile.name,
                "path": f"{profile.name}.csv",
                "format": "csv",
                "mediatype": "text/csv",
                "encoding": "utf-8",
                "rows": rows,
                "schema": {
                    "fields": [_described(column) for column in without_doubles(columns)],
                    "primaryKey": ["record_id"],
                    "missingValues": [""],
                },
            },
            {
                "name": f"{profile.name}.parquet",
                "path": f"{profile.name}.parquet",
                "format": "parquet",
                "mediatype": "application/vnd.apache.parquet",
                "rows": rows,
                "schema": {
                    "fields": [
                        {**_described(column), "type": _FRICTIONLESS[column.type]}
                        for column in columns
                        if column.name not in withheld
                    ],
                    "primaryKey": ["record_id"],
                },
            },
        ],
    }
    for resource, names in zip(package["resources"], (lacking, withheld), strict=True):
        told = without_doubles(sealed) if names is lacking else sealed
        if left_out := [column.name for column in told if column.name in names]:
            resource["holdfast:sealed"] = left_out
    if profile.source.homepage:
        package["homepage"] = profile.source.homepage
    if profile.attribution:
        package["attribution"] = profile.attribution
    return {name: value for name, value in package.items() if value != ""}


def _described(column: Column) -> dict[str, Any]:
    kind = _FRICTIONLESS[column.type]
    if kind == "string" and is_numeric(column):
        kind = "number"
    found: dict[str, Any] = {"name": column.name, "type": kind}
    if column.description:
        found["description"] = column.description
    if column.unit:
        found["unit"] = column.unit
    return found
