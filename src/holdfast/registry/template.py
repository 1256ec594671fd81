"""A profile to start from. It is valid as it is written, and says what to fill in."""

from __future__ import annotations

from holdfast.kernel.errors import Invalid
from holdfast.registry.document import write_document

_FORMATS = {
    "csv": ("{type: csv}", "Name of the column", "date"),
    "tsv": ('{type: csv, delimiter: "\\t"}', "Name of the column", "date"),
    "json": ('{type: json, records: "$.data[*]"}', "$.value", "$.date"),
    "geojson": ("{type: geojson}", "$.properties.value", "$.properties.date"),
}


def template(name: str, url: str, kind: str) -> str:
    """The YAML of a new profile of the source at ``url``."""
    if kind not in _FORMATS:
        raise Invalid(f"cannot write a profile for {kind!r}: known are {', '.join(_FORMATS)}")
    form, value, date = _FORMATS[kind]
    return f"""\
# A profile says what a source is, how to read it, and what a record of it looks like.
# `holdfast profile validate FILE` lists everything that is wrong; `holdfast profile preview FILE`
# fetches the beginning and shows records without keeping them.
version: 1
{_line("name", name)}
title: One line for people
publisher: Who publishes the data
licence: The terms it is given under
source:
  {_line("url", url)}
  format: {form}
mode: snapshot        # a complete run is the whole truth; append: what is gone was not taken back
key: [period]         # the fields that identify a record; position, if whole rows repeat
measures:
  value:
    {_line("path", value)}
    unit: unit of the number
    description: What it means
period:
  {_line("path", date)}
  frequency: D        # A year, S half, Q quarter, M month, W week, D day, H hour, I instant
# schedule: {{every: 6h}}
expect:
  min_records: 1      # a run that gives less is not published
  required: [measures.value]
"""


def _line(member: str, value: str) -> str:
    return write_document({member: value}).rstrip("\n")
