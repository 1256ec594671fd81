"""What a page is: its format and where its records are, told from its beginning. A guess.

Nothing here is used by a run. It helps people to start a profile; what it cannot tell it says. Each
kind of page has a module of its own beside this one: tables, JSON, XML, workbooks, archives.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from holdfast.collect.content import SpooledContent
from holdfast.collect.encodings import is_parquet, marked, refuse_no_text
from holdfast.collect.errors import ParseFailed
from holdfast.collect.formats.xml import declared_encoding
from holdfast.collect.model import MEBIBYTE, Bounds
from holdfast.collect.recognise_archive import lone_in, member_of
from holdfast.collect.recognise_encoding import decoded, said_of, says_wrong
from holdfast.collect.recognise_json import json_of
from holdfast.collect.recognise_table import table_of
from holdfast.collect.recognise_workbook import is_ods, is_workbook, workbook_of
from holdfast.collect.recognise_xml import markup_of
from holdfast.collect.recognised import Recognised, other

HEAD_BYTES = 32 * MEBIBYTE

_NAMED = frozenset({"csv", "json", "ndjson"})
"""Formats whose encoding nothing in the bytes says."""
_JSON_KINDS = frozenset({"json", "ndjson", "geojson", "json-stat"})
_PX = re.compile(r'^(CHARSET|AXIS-VERSION)="[^"]*";', re.M)


def recognise(
    path: Path,
    *,
    charset: str = "",
    kind: str = "",
    records: str = "",
    sheet: str = "",
    header_row: int = 0,
) -> Recognised:
    """The format of the file at ``path``.

    ``kind`` is the format's type, ``records`` where its records are, ``sheet`` and ``header_row``
    where the table of a workbook is, as far as a person knows.

    Raises :class:`ParseFailed` where it is none that a profile can read, and says what it seems to
    be.
    """
    bounds = Bounds()
    member = ""
    with path.open("rb") as raw:
        start = raw.read(16)
    if start.startswith(b"PK"):
        member = member_of(path)
        if is_workbook(path):
            if kind not in {"", "xlsx"}:
                raise other(kind, "a workbook (.xlsx)")
            return workbook_of(path, "xlsx", sheet, header_row)
        if is_ods(path):
            if kind not in {"", "ods"}:
                raise other(kind, "an OpenDocument spreadsheet (.ods)")
            return workbook_of(path, "ods", sheet, header_row)
        inside = (member or lone_in(path)).lower()
        if inside.endswith((".xlsx", ".ods")) and kind in {"", "xlsx", "ods"}:
            return workbook_of(path, inside.rpartition(".")[2], sheet, header_row, member)
    if is_parquet(start):
        raise ParseFailed(
            "cannot write a profile: this is Parquet, which is not read",
            hint="ask the source for CSV or JSON, or bring a format of your own",
        )
    if start.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        raise ParseFailed(
            "cannot write a profile: this is an old workbook (.xls)", hint="save it as .xlsx"
        )
    if kind in {"xlsx", "ods"} or sheet or header_row:
        raise other(kind or "xlsx", "no workbook")
    content = SpooledContent(path, bounds, "auto", member)
    with content.open() as stream:
        data = stream.read(HEAD_BYTES + 1)
    whole = len(data) <= HEAD_BYTES
    refuse_no_text(data)
    said = charset or declared_encoding(data)
    if said and not marked(data) and says_wrong(content, said):
        text, encoding = decoded(data[:HEAD_BYTES], "", whole)[0], "utf-8"
    else:
        text, encoding = decoded(data[:HEAD_BYTES], charset, whole)
    if encoding == "utf-8":
        data = data.removeprefix(codecs.BOM_UTF8)
    found = _of_text(text, data, kind, whole, records)
    tag = found.form["type"]
    if encoding and (tag in _NAMED or (encoding == "utf-8" and tag in {"xml", "feed"})):
        found.form["encoding"] = encoding
        found.notes.append(
            f"The source says {said}, and the bytes are UTF-8 (`encoding`)."
            if encoding == "utf-8"
            else said_of(encoding, text)
        )
    if member:
        found.source["member"] = member
    return found


def _of_text(text: str, data: bytes, kind: str, whole: bool, records: str) -> Recognised:
    begin = text.lstrip("\ufeff \t\r\n\x1e")[:2000]
    lowered = begin.lower()
    if not begin:
        raise ParseFailed("cannot write a profile: there is nothing in it")
    if not kind and _PX.search(begin):
        raise ParseFailed(
            "cannot write a profile: this is PC-Axis (.px), which is not read",
            hint="where it comes from gives JSON-stat, too: ask for json-stat2",
        )
    if kind in {"csv", "tsv"}:
        return table_of(text)
    if kind in {"xml", "feed"} or (begin.startswith("<") and kind not in _JSON_KINDS):
        if lowered.startswith("<!doctype html") or "<html" in lowered[:500]:
            raise ParseFailed(
                "cannot write a profile: this is a web page, not data",
                hint="look for its download link (CSV, JSON, XML, XLSX) or its API",
            )
        return markup_of(data, whole, records, kind)
    if kind in _JSON_KINDS or begin[:1] in {"{", "["}:
        return json_of(text, whole, records, kind)
    return table_of(text)
