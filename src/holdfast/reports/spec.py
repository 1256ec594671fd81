"""Reading a spec: from YAML or JSON to :class:`ReportSpec`, with *all* that is wrong at once.

Three steps: the text is read strictly (as profiles are), the shape is held against the model, and
then the parts are held against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast.kernel.canonical import canonical, digest
from holdfast.kernel.errors import Invalid, Problem, TooLarge
from holdfast.records.within import beginnings
from holdfast.registry.document import DOCUMENT_BYTES_MAX, dotted, read_document
from holdfast.registry.time_rules import zone_problems
from holdfast.reports.errors import SpecInvalid
from holdfast.reports.expression import compile_expression
from holdfast.reports.model import (
    BUCKETS,
    PERIOD,
    CorrelationOutput,
    Input,
    JoinKey,
    PeriodFilter,
    ReportSpec,
    TableOutput,
    derived,
    join_key,
    key_name,
)
from holdfast.reports.shape import shape_problems


def read_spec(data: bytes, *, media_type: str = "application/yaml") -> ReportSpec:
    """The spec in ``data``: JSON where the media type says so, else YAML.

    Raises :class:`SpecInvalid`, which lists every problem with its line.
    """
    try:
        document = read_document(data, media_type=media_type)
    except TooLarge as error:
        raise SpecInvalid(
            f"cannot read the spec: it has {len(data)} bytes, at most {DOCUMENT_BYTES_MAX} are read"
        ) from error
    if document.problems:
        raise _invalid(document.problems)
    try:
        return convert_spec(document.plain)
    except SpecInvalid as error:
        lines = {dotted(place): line for place, line in document.lines.items()}
        found = [_with_line(problem, lines) for problem in error.problems]
        raise _invalid(sorted(found, key=lambda problem: problem.line)) from error


def _with_line(problem: Problem, lines: dict[str, int]) -> Problem:
    """``problem`` with the line of its path, or of the nearest thing around it."""
    path = problem.path
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return msgspec.structs.replace(problem, line=lines.get(path, 0))


def convert_spec(plain: Any) -> ReportSpec:
    """The spec that plain data holds, checked in full."""
    problems = shape_problems(plain, ReportSpec)
    if problems:
        raise _invalid(problems)
    spec = msgspec.convert(plain, ReportSpec)
    check_spec(spec)
    return spec


def check_spec(spec: ReportSpec) -> None:
    """Hold the parts against each other; :class:`SpecInvalid` lists all that do not fit."""
    problems = _semantic_problems(spec)
    if problems:
        raise _invalid(problems)


def canonical_spec(spec: ReportSpec) -> bytes:
    """The bytes that identify a spec; members left at their defaults are not in them."""
    return canonical(spec)


def spec_digest(spec: ReportSpec) -> str:
    """The digest of :func:`canonical_spec`."""
    return digest(canonical_spec(spec))


def spec_schema() -> dict[str, Any]:
    """The published JSON Schema (2020-12) of a spec: ``api/report.schema.json``."""
    schema = msgspec.json.schema(ReportSpec)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Holdfast report",
        **schema,
    }


def _invalid(problems: list[Problem]) -> SpecInvalid:
    count = len(problems)
    return SpecInvalid(
        f"cannot run the report: {count} problem{'s' if count > 1 else ''} in the spec",
        problems=problems,
        hint="docs/reference/report.md lists every member",
    )


# --- the parts against each other ---------------------------------------------------------------


class Names:
    """The columns that a spec brings forth, and what a reference to one means.

    A column is known as ``input.column``, and by its bare name where only one bears it. Keys of the
    join belong to no input.
    """

    def __init__(self, spec: ReportSpec) -> None:
        self.keys = (
            [join_key(key, list(spec.inputs)) for key in spec.join.keys] if spec.join else []
        )
        self.full: list[str] = []
        key_names = [key.name for key in self.keys]
        for name, source in spec.inputs.items():
            for column in input_columns(source, joined=spec.join is not None):
                if column not in key_names:
                    self.full.append(f"{name}.{column}")
        self.derived = list(spec.derive)
        self._bare: dict[str, list[str]] = {}
        for full in self.full:
            self._bare.setdefault(full.partition(".")[2], []).append(full)
        for name in [*key_names, *self.derived]:
            self._bare.setdefault(name, []).append(name)

    def all(self) -> list[str]:
        """Every column: keys, then inputs in their order, then derived ones."""
        return [*(key.name for key in self.keys), *self.full, *self.derived]

    def resolve(self, reference: str) -> str:
        """The column meant; ``LookupError`` says why none or which two."""
        if reference in self.full:
            return reference
        found = self._bare.get(reference, [])
        if len(found) == 1:
            return found[0]
        if found:
            raise LookupError(f"{reference} could be {' or '.join(found)}; write one of them")
        raise LookupError(f"there is no column {reference}; there are {', '.join(self.all())}")

    def shown(self, column: str) -> str:
        """The name a column gets in the answer: bare where that is enough."""
        bare = column.rpartition(".")[2]
        return bare if len(self._bare.get(bare, [])) == 1 else column


def input_columns(source: Input, *, joined: bool = True) -> list[str]:
    """The columns that an input brings, before the join.

    Records shown as they are bring their :data:`PERIOD` too, unless a field bears its name.
    """
    if source.aggregate is not None:
        measures = source.measures or ["records"]
        return [*map(key_name, source.aggregate.by), *measures]
    fields = [*source.dimensions, *source.attributes, *source.measures]
    return fields if joined or not fields or PERIOD in fields else [PERIOD, *fields]


def _semantic_problems(spec: ReportSpec) -> list[Problem]:
    found: list[Problem] = []
    for name, source in spec.inputs.items():
        found += _input_problems(f"inputs.{name}", source)
    found += _join_problems(spec)
    if found:
        return found
    names = Names(spec)
    found += _derive_problems(spec, names)
    return found + _output_problems(spec, names) + _chart_problems(spec, names)


def _input_problems(path: str, source: Input) -> list[Problem]:
    found = []
    columns = input_columns(source)
    for column in sorted({c for c in columns if columns.count(c) > 1}):
        found.append(Problem(path, f"names the column {column} twice"))
    for key, wanted in source.where.items():
        if key in BUCKETS:
            found.append(Problem(f"{path}.where.{key}", "is a time", "use period: {from:, until:}"))
        if wanted == []:
            found.append(Problem(f"{path}.where.{key}", "lists no value, so no record could pass"))
    found += [
        Problem(f"{path}.units.{name}", "is not one of the measures")
        for name in source.units
        if name not in source.measures
    ]
    if source.timezone is not None:
        found += zone_problems(source.timezone, f"{path}.timezone")
    if source.period is not None:
        found += _period_problems(f"{path}.period", source.period)
    return found + _aggregate_problems(path, source)


def _period_problems(path: str, period: PeriodFilter) -> list[Problem]:
    found, bounds = [], []
    for member, value in (("from", period.start), ("until", period.until)):
        try:
            bounds.append("" if value is None else beginnings(str(value), "UTC")[1])
        except ValueError:
            found.append(Problem(f"{path}.{member}", f"{value} is no time of the calendar"))
    if not found and all(bounds) and bounds[0] >= bounds[1]:
        found.append(Problem(path, "ends before it begins", "from <= start < until"))
    return found


def _aggregate_problems(path: str, source: Input) -> list[Problem]:
    aggregate = source.aggregate
    if aggregate is None:
        return []
    found = []
    for member in ("dimensions", "attributes"):
        if getattr(source, member):
            found.append(
                Problem(f"{path}.{member}", "has no meaning with aggregate", "name it in by")
            )
    if not source.measures and aggregate.function != "count":
        found.append(Problem(f"{path}.measures", "is needed by every function but count"))
    if isinstance(aggregate.function, dict):
        found += [
            Problem(f"{path}.aggregate.function.{name}", "is not one of the measures")
            for name in aggregate.function
            if name not in source.measures
        ]
    return found


def _join_problems(spec: ReportSpec) -> list[Problem]:
    if spec.join is None:
        if len(spec.inputs) > 1:
            return [Problem("join", "is missing", "several inputs need join: {on: [...]}")]
        return []
    found = []
    keys = [join_key(key, list(spec.inputs)) for key in spec.join.keys]
    names = [key.name for key in keys]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.append(Problem("join.on", f"names the key {name} twice"))
    for index, key in enumerate(keys):
        path = f"join.on[{index}]"
        found += [
            Problem(f"{path}.of.{name}", "is not an input")
            for name in key.of
            if name not in spec.inputs
        ]
        for name, source in spec.inputs.items():
            found += _key_problems(path, key, name, source)
    return found


def _key_problems(path: str, key: JoinKey, name: str, source: Input) -> list[Problem]:
    reference = key.of.get(name)
    if reference is None:
        return [Problem(f"{path}.of.{name}", "is missing", "every input needs the key")]
    if source.aggregate is not None and reference not in source.aggregate.by:
        by = ", ".join(source.aggregate.by)
        return [Problem(path, f"{reference} is not among what {name} is aggregated by ({by})")]
    return []


def _derive_problems(spec: ReportSpec, names: Names) -> list[Problem]:
    found = []

    def resolve(reference: str) -> str:
        column = names.resolve(reference)
        if column in names.derived:
            raise LookupError(f"{reference} is derived itself; write its expression out")
        return "x"

    for name, value in spec.derive.items():
        if len([c for c in names.all() if c.rpartition(".")[2] == name]) > 1:
            found.append(Problem(f"derive.{name}", "is the name of another column"))
            continue
        try:
            compile_expression(derived(value).expression, resolve)
        except Invalid as error:
            found.append(Problem(f"derive.{name}", error.detail, error.hint))
    return found


def _output_problems(spec: ReportSpec, names: Names) -> list[Problem]:
    output = spec.output
    if isinstance(output, TableOutput):
        references = [(f"output.columns[{i}]", c) for i, c in enumerate(output.columns)]
        references += [(f"output.order[{i}]", c.lstrip("-")) for i, c in enumerate(output.order)]
    else:
        references = [("output.x", output.x), ("output.y", output.y)]
    found = []
    for path, reference in references:
        try:
            names.resolve(reference)
        except LookupError as error:
            found.append(Problem(path, str(error.args[0])))
    if isinstance(output, CorrelationOutput) and not found:
        found += _correlation_problems(spec, output, names)
    if not names.all():
        found.append(Problem("inputs", "bring no column", "name measures or dimensions"))
    return found


def _correlation_problems(
    spec: ReportSpec, output: CorrelationOutput, names: Names
) -> list[Problem]:
    found = []
    if names.resolve(output.x) == names.resolve(output.y):
        found.append(Problem("output.y", "is the same column as x"))
    if (output.first_differences or output.lags) and time_key(spec) is None:
        member = "first_differences" if output.first_differences else "lags"
        found.append(
            Problem(f"output.{member}", "needs rows in one order", "join or aggregate by one time")
        )
    if len(set(output.lags)) != len(output.lags):
        found.append(Problem("output.lags", "lists a lag twice"))
    return found


def _chart_problems(spec: ReportSpec, names: Names) -> list[Problem]:
    found = []
    correlation = isinstance(spec.output, CorrelationOutput)
    allowed = ("scatter", "series") if correlation else ("line", "bar")
    if spec.chart.kind not in ("auto", "none", *allowed):
        found.append(
            Problem("chart.kind", "does not fit this output", f"auto, none, {', '.join(allowed)}")
        )
    if spec.chart.kind in ("series", "line") and time_key(spec) is None:
        found.append(Problem("chart.kind", "needs exactly one time as key"))
    return found


def zoned(spec: ReportSpec, zones: Mapping[str, str]) -> ReportSpec:
    """The spec with the zone of each profile in ``zones`` written into the inputs that go by time
    and name none: what a report says must not depend on what its profiles say later."""
    inputs = dict(spec.inputs)
    for name in unzoned(spec):
        zone = zones.get(inputs[name].profile, "UTC")
        if zone != "UTC":
            inputs[name] = msgspec.structs.replace(inputs[name], timezone=zone)
    return msgspec.structs.replace(spec, inputs=inputs)


def unzoned(spec: ReportSpec) -> list[str]:
    """The inputs that go by time and do not say where a day begins."""
    keys, found = spec.join.keys if spec.join else [], []
    for name, source in spec.inputs.items():
        used = [reference for key in keys if (reference := join_key(key, [name]).of.get(name))]
        used += source.aggregate.by if source.aggregate else []
        timed = source.period is not None or any(reference in BUCKETS for reference in used)
        if timed and source.timezone is None:
            found.append(name)
    return found


def row_keys(spec: ReportSpec) -> list[JoinKey]:
    """What names a row of the answer: the join's keys, or what the one input is aggregated by."""
    if spec.join is not None:
        return [join_key(key, list(spec.inputs)) for key in spec.join.keys]
    name, source = next(iter(spec.inputs.items()))
    if source.aggregate is None:
        return []
    return [JoinKey(name=key_name(by), of={name: by}) for by in source.aggregate.by]


def time_key(spec: ReportSpec) -> JoinKey | None:
    """The one time bucket that orders the rows, if that is what names them."""
    keys = row_keys(spec)
    if len(keys) == 1 and all(reference in BUCKETS for reference in keys[0].of.values()):
        return keys[0]
    return None
