"""What the source's own rows look like: counts over a sample, and never a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from lxml import etree

from holdfast.collect.batches import BatchMaker
from holdfast.collect.columns import FIRST_ROWS, Columns
from holdfast.collect.content import SpooledContent
from holdfast.collect.formats.xml import XmlRecord
from holdfast.collect.model import Bounds, Number
from holdfast.records.model import COLUMNS_MAX, SourceColumn
from holdfast.records.shape import column_drift
from tests.unit.collect.helpers import profile


def seen(*rows: Any) -> dict[str, SourceColumn]:
    under = Columns()
    for row in rows:
        under.observe(row)
    return {one.name: one for one in under.seen()}


def test_columns_are_counted_by_name_kind_and_how_often_they_were_filled() -> None:
    found = seen(
        {"id": "A1", "v": Number("1.5"), "at": {"day": "2024-01-31", "note": None}},
        {"id": "A2", "v": None, "at": {"day": "2024-02-29"}, "tags": ["x"]},
        "no object",
    )
    assert {name: (one.kind, one.filled, one.looked) for name, one in found.items()} == {
        "id": ("code", 2, 2),
        "v": ("number", 1, 2),
        "at.day": ("date 9999-99-99", 2, 2),
        "at.note": ("", 0, 2),
        "tags": ("array", 1, 2),
    }


GENERIC = "http://www.sdmx.org/resources/sdmxml/schemas/v2_1/data/generic"


def test_elements_have_columns_and_generic_sdmx_has_them_by_concept() -> None:
    plain = '<Obs TIME="2024" VALUE="1.5"><note>x</note><note>y</note><deep><er>z</er></deep></Obs>'
    found = seen(XmlRecord(etree.fromstring(plain)))
    assert {name: one.filled for name, one in found.items()} == {
        "@TIME": 1, "@VALUE": 1, "note": 1, "deep/er": 1,
    }  # fmt: skip
    before, after = (
        seen(XmlRecord(etree.fromstring(
            f'<g:Obs xmlns:g="{GENERIC}"><g:ObsDimension value="2024"/><g:ObsValue value="7"/>'
            f'<g:Attributes><g:Value id="OBS_STATUS" value="A"/>{more}</g:Attributes></g:Obs>'
        )))
        for more in ("", '<!-- new --><g:Value id="OBS_CONF" value="F"/>')
    )  # fmt: skip
    [new] = column_drift(list(after.values()), list(before.values()))
    assert (new.field, new.kind) == ("source.Attributes/Value[OBS_CONF]", "new")


def test_it_is_a_sample_and_bounded() -> None:
    under = Columns()
    for _ in range(20_000):
        under.observe({"a": "x"})
    [one] = under.seen()
    assert FIRST_ROWS < one.looked < 500
    wide = seen({f"c{number}": "x" for number in range(COLUMNS_MAX + 100)})
    assert len(wide) == COLUMNS_MAX
    assert all(len(name) <= 200 for name in seen({"n" * 5000: "x"}))


def test_of_people_s_records_no_names_are_told(tmp_path: Path) -> None:
    page = tmp_path / "page.json"
    page.write_bytes(msgspec.json.encode([{"id": "a", "v": 1}]))

    def columns_of(**parts: Any) -> list[str]:
        source = {"format": {"type": "json"}}
        maker = BatchMaker(profile(source, dimensions={"id": "$.id"}, **parts), Bounds())
        list(maker.page(SpooledContent(page, Bounds()), 0))
        return [one.name for one in maker.columns.seen()]

    assert columns_of() == ["id", "v"]
    assert columns_of(subject="dimensions.id") == []
