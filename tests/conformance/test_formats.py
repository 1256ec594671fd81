"""What every format promises, on each of them.

The promises: the same bytes give the same rows with the same positions, however they arrive; a page
that is cut is an error, never fewer rows; every bound is an error that names it; memory does not
grow with the page.
"""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import pytest

from holdfast.collect.content import Content, SpooledContent
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.formats import format_type, reader_of
from holdfast.collect.model import Bounds, RawRow, ReadContext
from holdfast.registry.source import Format
from tests.support.workbooks import open_document, workbook


@dataclass(frozen=True)
class Case:
    """A format and how to write ``count`` records in it."""

    spec: Format
    write: Callable[[int], bytes]
    cut_is_seen: bool = True
    """Whether the format itself can tell a cut at any byte (delimited text cannot)."""
    text: bool = True
    """Whether the page is text: an archive has no encoding of its own."""
    held: bool = False
    """Whether something is held for the whole page: categories of a cube, texts of a workbook."""


def _format(**parts: Any) -> Format:
    return cast("Format", msgspec.convert(parts, Format))


def _members(i: int) -> dict[str, Any]:
    return {"id": i, "name": f"station ünï {i}", "value": i / 4, "flag": None}


def _json(count: int) -> bytes:
    document = {"meta": {"n": count}, "data": [_members(i) for i in range(count)], "after": [1, 2]}
    return msgspec.json.encode(document)


def _rows_with_header(count: int) -> bytes:
    return msgspec.json.encode([["id", "name"], *([i, f"n{i}"] for i in range(count))])


def _columns(count: int) -> bytes:
    names = [f"n{i}" for i in range(count)]
    return msgspec.json.encode({"data": {"id": list(range(count)), "name": names}})


def _ndjson(count: int) -> bytes:
    return b"".join(msgspec.json.encode(_members(i)) + b"\n" for i in range(count))


def _features(count: int) -> list[dict[str, Any]]:
    point = {"type": "Point", "coordinates": [1.25, 2.5]}
    return [
        {"type": "Feature", "id": f"f{i}", "properties": _members(i), "geometry": point}
        for i in range(count)
    ]


def _geojson(count: int) -> bytes:
    return msgspec.json.encode({"type": "FeatureCollection", "features": _features(count)})


def _sequence(count: int) -> bytes:
    return b"".join(b"\x1e" + msgspec.json.encode(f) + b"\n" for f in _features(count))


def _csv(count: int) -> bytes:
    lines = ["id,name,value"]
    lines += [f'{i},"a ""quoted"", ünï\nline {i}",{i}.50' for i in range(count)]
    return ("\r\n".join(lines) + "\r\n").encode()


def _tsv(count: int) -> bytes:
    return ("id\tname\n" + "".join(f"{i}\tn{i}\n" for i in range(count))).encode()


def _rows_xml(count: int) -> bytes:
    rows = "".join(
        f'<row id="f{i}"><name>station ünï {i}</name><value>{i / 4}</value>\n<!-- {i} --></row>\n'
        for i in range(count)
    )
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<doc xmlns="urn:x"><meta>m</meta>'
    return f"{head}<rows n='{count}'>\n{rows}</rows><after/></doc>".encode()


def _rss(count: int) -> bytes:
    items = "".join(
        f"<item><guid>g{i}</guid><title>ünï n{i}</title></item>\n" for i in range(count)
    )
    return f'<rss version="2.0"><channel><title>t</title>{items}</channel></rss>'.encode()


def _cube(count: int) -> bytes:
    codes = [f"c{i}" for i in range(count)]
    return msgspec.json.encode(
        {
            "version": "2.0",
            "class": "dataset",
            "id": ["sex", "place"],
            "size": [1, count],
            "dimension": {
                "sex": {"category": {"label": {"T": "tötal"}}},
                "place": {"category": {"index": codes}},
            },
            "value": [i / 4 + 1 for i in range(count)],
        }
    )


def _sheet(count: int) -> bytes:
    rows = [["id", "name", "value"], *([i, f"n{i} ünï", i / 4] for i in range(count))]
    return workbook(("Data", rows))


def _open_sheet(count: int) -> bytes:
    rows = [["id", "name", "value"], *([i, f"n{i} ünï", i / 4] for i in range(count))]
    return open_document(("Data", rows))


CASES = {
    "xml": Case(
        _format(type="xml", records="/x:doc/x:rows/x:row", namespaces={"x": "urn:x"}), _rows_xml
    ),
    "xml-anywhere": Case(
        _format(type="xml", records="//x:row", namespaces={"x": "urn:x"}), _rows_xml
    ),
    "feed": Case(_format(type="feed"), _rss),
    "json-stat": Case(_format(type="json-stat"), _cube, held=True),
    "xlsx": Case(_format(type="xlsx"), _sheet, text=False, held=True),
    "ods": Case(_format(type="ods"), _open_sheet, text=False),
    "json": Case(_format(type="json", records="$.data[*]"), _json),
    "json-header": Case(_format(type="json", records="$[*]", header=True), _rows_with_header),
    "json-columns": Case(_format(type="json", records="$.data", columns=True), _columns, held=True),
    "ndjson": Case(_format(type="ndjson"), _ndjson, cut_is_seen=False),
    "geojson": Case(_format(type="geojson"), _geojson),
    "geojson-sequence": Case(_format(type="geojson", sequence=True), _sequence, cut_is_seen=False),
    "csv": Case(_format(type="csv"), _csv, cut_is_seen=False),
    "tsv": Case(_format(type="csv", delimiter="\t"), _tsv, cut_is_seen=False),
}


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


class Bytes:
    """Content that arrives ``piece`` bytes at a time."""

    def __init__(self, data: bytes, piece: int = 1 << 20) -> None:
        self._data, self._piece = data, piece

    def open(self) -> BinaryIO:
        data, piece = self._data, self._piece

        class Slow(io.RawIOBase):
            at = 0

            def readable(self) -> bool:
                return True

            def readinto(self, into: Any) -> int:
                found = data[self.at : self.at + min(piece, len(into))]
                into[: len(found)] = found
                self.at += len(found)
                return len(found)

        return cast("BinaryIO", io.BufferedReader(Slow(), buffer_size=max(1, min(piece, 65536))))


def read(
    case: Case, content: Content, bounds: Bounds | None = None, enclosing: tuple[str, ...] = ()
) -> list[RawRow]:
    context = ReadContext(bounds=bounds or Bounds(), enclosing=enclosing)
    return list(reader_of(case.spec)(content, case.spec, context))


def test_every_record_is_a_row_in_its_place(case: Case) -> None:
    rows = read(case, Bytes(case.write(1000)))
    assert len(rows) == 1000
    positions = [row.position for row in rows]
    assert positions == list(range(positions[0], positions[0] + 1000))
    assert all(row.size > 0 for row in rows)


def test_no_record_is_no_row(case: Case) -> None:
    assert read(case, Bytes(case.write(0))) == []


def test_the_same_bytes_give_the_same_rows_however_they_arrive(case: Case) -> None:
    data = case.write(40)
    whole = read(case, Bytes(data))
    for piece in (1, 2, 3, 7, 64, 1000):
        assert read(case, Bytes(data, piece)) == whole


def test_rows_do_not_depend_on_where_the_window_ends(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = case.write(30)
    whole = read(case, Bytes(data))
    for size in range(1, 70):
        monkeypatch.setattr("holdfast.collect.formats.json._CHUNK", size)
        assert read(case, Bytes(data, size)) == whole


def test_a_cut_at_any_byte_is_an_error(case: Case) -> None:
    data = case.write(3)
    whole = read(case, Bytes(data))
    for end in range(len(data.rstrip())):
        try:
            rows = read(case, Bytes(data[:end]))
        except ParseFailed:
            continue
        # What the format cannot tell, it must not invent: what is there is a beginning.
        assert not case.cut_is_seen, end
        sure = max(0, len(rows) - 1)
        assert [r.value for r in rows[:sure]] == [r.value for r in whole[:sure]]


@pytest.mark.parametrize("bad", [b"\xff\xfe\xfa", b"\x80", b"\xc3"])
def test_bytes_that_are_no_text_are_an_error(case: Case, bad: bytes) -> None:
    if not case.text:
        return
    data = case.write(50)
    with pytest.raises(ParseFailed, match="cannot read"):
        read(case, Bytes(data[: len(data) // 2] + bad + data[len(data) // 2 :]))
    with pytest.raises(ParseFailed):
        read(case, Bytes(data.rstrip() + bad))


def test_a_byte_order_mark_is_no_text(case: Case) -> None:
    data = case.write(3)
    if not case.text:
        return
    assert read(case, Bytes(b"\xef\xbb\xbf" + data)) == read(case, Bytes(data))


def test_a_record_beyond_its_bound_is_an_error_that_names_it(case: Case) -> None:
    data = case.write(3).replace(b"n1", b"n" * 300_000).replace(b"1.25", b"1." + b"2" * 300_000)
    data = data.replace(b"line 1", b"x" * 300_000).replace(b' 1"', b"x" * 300_000 + b'"')
    data = data.replace("tötal".encode(), b"x" * 300_000).replace(
        b" 1</name>", b"x" * 300_000 + b"</name>"
    )
    if not case.text:
        write = open_document if format_type(case.spec) == "ods" else workbook
        data = write(("Data", [["id", "name"], [1, "n" * 300_000]]))
    bounds = replace(Bounds(), record_bytes_max=100_000)
    with pytest.raises(BoundReached) as caught:
        read(case, Bytes(data), bounds)
    assert caught.value.bound == "record"


def test_content_beyond_its_bound_is_an_error_that_names_it(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_bytes(case.write(2000))
    bounds = replace(Bounds(), content_bytes_max=1000)
    with pytest.raises(BoundReached) as caught:
        read(case, SpooledContent(path, bounds), bounds)
    assert caught.value.bound == "bytes"


def test_memory_does_not_grow_with_the_page(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.collect.formats.json._CHUNK", 16_384)

    def peak(count: int) -> int:
        content = Bytes(case.write(count))
        reader = reader_of(case.spec)
        tracemalloc.start()
        try:
            for _ in reader(content, case.spec, ReadContext()):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    if case.held:
        return
    few, many = peak(6_000), peak(30_000)
    assert many < few * 1.3 + 300_000


def test_a_path_into_the_enclosing_document_works_or_is_refused(case: Case) -> None:
    content = Bytes(case.write(2))
    if format_type(case.spec) == "json" and case is CASES["json"]:
        rows = read(case, content, enclosing=("$$.meta.n", "$$.after[1]"))
        assert [row.enclosing for row in rows] == [(2, 2), (2, 2)]
    elif not case.cut_is_seen or not case.text:
        with pytest.raises(MappingRefused):
            read(case, content, enclosing=("$$.meta.n",))
