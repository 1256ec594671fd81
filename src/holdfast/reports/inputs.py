"""A report's inputs as they are read: projections, with their digests and their fields checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import msgspec

from holdfast.kernel.clock import parse_timestamp
from holdfast.kernel.errors import Problem, Unavailable
from holdfast.records.columns import FREQUENCIES_KEY, SEALED_KEY
from holdfast.reports.errors import InputCorrupt, InputMismatch
from holdfast.reports.model import BUCKETS, Input, function_of

if TYPE_CHECKING:
    import pyarrow

LOCAL_DAY = "local day"
"""A column beside a projection's own, none of which has a blank in its name."""
PERIODS = frozenset({"period_start", "period_end", "period_frequency"})


class InputFile(msgspec.Struct, frozen=True, kw_only=True):
    """A projection on disk and the digest that its bytes must have."""

    path: str
    digest: str


def read_projection(
    name: str, source: Input, file: InputFile, needed: set[str], *, timeless: bool = False
) -> pyarrow.Table:
    """The needed columns of a projection, after its digest was compared.

    ``timeless`` says that nothing is made of the periods: then they may be personal, and are null,
    if they all are of one frequency, which the column of that name then has.

    Raises :class:`InputCorrupt` if the bytes are not the ones named, ``Unavailable`` if the file is
    gone, and :class:`InputMismatch` that lists every field the profile does not have.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        data = Path(file.path).read_bytes()
    except FileNotFoundError as error:
        raise Unavailable(
            f"cannot read the input {name}: its projection was replaced meanwhile",
            hint="run the report again",
        ) from error
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != file.digest:
        raise InputCorrupt(
            f"cannot read the input {name}: the projection's digest is {found}, not {file.digest}"
        )
    try:
        schema = pyarrow.parquet.read_schema(pyarrow.BufferReader(data))
        present = schema.names
        sealed = sealed_columns(schema)
        unused = PERIODS.intersection(sealed) if timeless else frozenset()
        _check_sealed(name, source, sealed, needed - unused)
        _check_fields(name, source, present, needed)
        columns = [column for column in present if column in needed]
        parquet = pyarrow.parquet.ParquetFile(
            pyarrow.BufferReader(data), read_dictionary=[c for c in columns if _repeats(c)]
        )
        table = parquet.read(columns)
        known = {"period_frequency": _frequency(name, source, schema)} if unused else {}
        for column in sorted(unused):
            cell = pyarrow.scalar(known.get(column), pyarrow.string())
            table = table.append_column(column, pyarrow.repeat(cell, len(table)))
        return table
    except pyarrow.ArrowInvalid as error:
        raise InputCorrupt(f"cannot read the input {name}: {error}") from error


def with_local_day(table: pyarrow.Table, timezone: str) -> pyarrow.Table:
    """The table with :data:`LOCAL_DAY`: when each period begins, of hours and instants the day in
    that zone. By the zones that mapping goes by; the engine has tables of its own."""
    import pyarrow
    import pyarrow.compute

    texts = table.column("period_start").cast(pyarrow.string())
    distinct = pyarrow.compute.unique(texts)
    zone = ZoneInfo(timezone)
    days = [_local_day(text, zone) for text in distinct.to_pylist()]
    found = pyarrow.compute.index_in(texts, distinct)
    return table.append_column(LOCAL_DAY, pyarrow.array(days, pyarrow.string()).take(found))


def _local_day(text: str | None, zone: tzinfo) -> str | None:
    if text is None or "T" not in text:
        return text
    try:
        return parse_timestamp(text).astimezone(zone).date().isoformat()
    except OverflowError:  # the first and the last day of the calendar, beyond which there is none
        return text


def needed_fields(
    source: Input, columns: Iterable[str], keys: Iterable[str], *, exact: bool
) -> set[str]:
    """The projection's fields that the given columns, keys and filters of an input touch."""
    needed = {*PERIODS, "record_id", "revision"}
    for reference in [*keys, *source.where, *(source.aggregate.by if source.aggregate else ())]:
        if reference not in BUCKETS:
            needed.add(field_of(reference))
    for column in columns:
        if column in source.measures:
            needed |= {f"{column}__{part}" for part in ("double", "unit", "multiplier")}
            if exact or source.aggregate is not None:
                needed.add(column)
    for measure in source.units:
        needed |= {f"{measure}__{part}" for part in ("double", "unit", "multiplier")}
    needed |= {f"dim_{name}" for name in source.dimensions if name in columns}
    needed |= {f"attr_{name}" for name in source.attributes if name in columns}
    return needed


def in_time(source: Input, keys: Iterable[str]) -> bool:
    """Whether an aggregate's groups, what is let into them or what is made of them depend on the
    records' periods."""
    aggregate = source.aggregate
    if source.period is not None or any(
        used in BUCKETS for used in (*keys, *(aggregate.by if aggregate else ()))
    ):
        return True
    return aggregate is not None and any(
        function_of(aggregate, measure) in ("first", "last") for measure in source.measures
    )


def _repeats(field: str) -> bool:
    """Whether the texts of a field repeat, so that reading them as a dictionary is quicker."""
    return field.startswith(("dim_", "attr_", "period_")) or field.endswith(
        ("__unit", "__multiplier")
    )


def sealed_columns(schema: pyarrow.Schema) -> list[str]:
    """The columns that a projection lacks because their fields are personal."""
    told = (schema.metadata or {}).get(SEALED_KEY.encode())
    return [] if told is None else msgspec.json.decode(told, type=list[str])


def _frequency(name: str, source: Input, schema: pyarrow.Schema) -> str:
    """The one frequency of periods that are personal: what is of several would count twice."""
    told = (schema.metadata or {}).get(FREQUENCIES_KEY.encode())
    found = [] if told is None else msgspec.json.decode(told, type=list[str])
    if len(found) == 1:
        return found[0]
    why = (
        f"its records may have the frequencies {', '.join(found)}, which must not be mixed"
        if found
        else "it is not known which frequencies its records have"
    )
    raise InputMismatch(
        f"cannot use the input {name}: {why}, and which one a record has is personal in "
        f"{source.profile}",
        hint="a profile for each frequency keeps them apart",
    )


def _check_sealed(name: str, source: Input, sealed: list[str], needed: set[str]) -> None:
    """A personal field is in no report: computed with nulls for it, that would be a wrong one."""
    if problems := [
        Problem(f"inputs.{name}", f"{field.removesuffix('__double')} is personal, and sealed")
        for field in sealed
        if field in needed
    ]:
        raise InputMismatch(
            f"cannot read the input {name}: a report cannot use what is personal in "
            f"{source.profile}",
            problems=problems,
            hint=f"`holdfast record list --profile {source.profile}` shows it to those who may "
            "see it",
        )


def _check_fields(name: str, source: Input, present: list[str], needed: set[str]) -> None:
    """Every field that the input names must be there; the format's own columns always are."""
    measures = [column[: -len("__double")] for column in present if column.endswith("__double")]
    problems = [
        Problem(f"inputs.{name}.measures", f"has no measure {measure}", _known(measures))
        for measure in source.measures
        if f"{measure}__double" in needed and f"{measure}__double" not in present
    ]
    for prefix, word in (("dim_", "dimension"), ("attr_", "attribute")):
        known = [field.removeprefix(prefix) for field in present if field.startswith(prefix)]
        problems += [
            Problem(f"inputs.{name}", f"has no {word} {field.removeprefix(prefix)}", _known(known))
            for field in sorted(needed - set(present))
            if field.startswith(prefix)
        ]
    if problems:
        raise InputMismatch(
            f"cannot read the input {name}: {source.profile} has no such fields", problems=problems
        )


def _known(names: list[str]) -> str:
    return f"there are {', '.join(names)}" if names else "there is none"


def field_of(reference: str) -> str:
    """The projection's field of a dimension, or of an attribute (``attributes.name``)."""
    prefix, _, name = reference.rpartition(".")
    return f"attr_{name}" if prefix == "attributes" else f"dim_{name}"
