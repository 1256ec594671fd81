"""Records that a receipt carries, as the projections a report reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from holdfast.records.columns import Row, Table, columns_of
from holdfast.records.content import FieldNames, content_of, decode_content, encode_sorted
from holdfast.reports.inputs import InputFile
from holdfast.reports.model import Input, ReportSpec

_ARROW = {"string": "string", "integer": "int64", "boolean": "bool_", "double": "float64"}


def write_carried(
    spec: ReportSpec, records: dict[str, list[dict[str, Any]]], folder: Path
) -> dict[str, InputFile]:
    """A Parquet file for each input with its records and no others."""
    return {
        name: _written(spec.inputs[name], records[name], folder / f"{name}.parquet")
        for name in spec.inputs
    }


def _written(source: Input, receipts: list[dict[str, Any]], path: Path) -> InputFile:
    import pyarrow
    import pyarrow.parquet

    parts = [one["record"] for one in receipts if one["record"]["content"] is not None]
    bodies = [content_of(encode_sorted(part["content"])) for part in parts]
    contents = [decode_content(body) for body in bodies]
    rows = [
        Row(
            record=part["leaf"]["record"],
            revision=part["leaf"]["revision"],
            run=part["leaf"]["run"],
            recorded_from="",
            body=body.decode(),
        )
        for part, body in zip(parts, bodies, strict=True)
    ]
    filters = [key for key in source.where if "." not in key]
    fields = FieldNames(
        dimensions=sorted({*source.dimensions, *filters}),
        measures=sorted(source.measures),
        attributes=sorted(source.attributes),
    )
    for content in contents:
        fields = fields.union(
            FieldNames(
                dimensions=list(content.dimensions),
                measures=list(content.measures),
                attributes=list(content.attributes),
            )
        )
    columns = columns_of([], fields)
    vectors = Table(columns).vectors(rows, contents)
    table = pyarrow.table(
        {
            column.name: pyarrow.array(vector, getattr(pyarrow, _ARROW[column.type])())
            for column, vector in zip(columns, vectors, strict=True)
        }
    )
    pyarrow.parquet.write_table(table, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return InputFile(path=str(path), digest=f"sha256:{digest}")
