"""Rows that a profile leaves out are still the source's: where its pages begin goes by them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from holdfast.collect.batches import BatchMaker
from holdfast.collect.content import SpooledContent
from holdfast.collect.model import Bounds
from holdfast.collect.pages import Ask, PageFacts, Walk
from tests.support.workbooks import open_document, workbook
from tests.unit.collect.helpers import profile

HELD: list[tuple[str, int]] = [
    entry
    for n in range(1, 9)
    for entry in ([(f"r{n}", n), ("Total", 99)] if n % 2 == 0 else [(f"r{n}", n)])
]
"""Eight records, and a total after each second of them: four pages of three."""

Write = Callable[[list[tuple[str, int]]], bytes]

FORMATS: dict[str, tuple[dict[str, Any], Write]] = {
    "csv": (
        {"type": "csv"},
        lambda rows: "".join(f"{i},{v}\n" for i, v in [("id", "v"), *rows]).encode(),
    ),
    "json": (
        {"type": "json", "records": "$.rows[*]"},
        lambda rows: json.dumps({"rows": [{"id": i, "v": v} for i, v in rows], "n": 12}).encode(),
    ),
    "ndjson": (
        {"type": "ndjson"},
        lambda rows: "".join(json.dumps({"id": i, "v": v}) + "\n" for i, v in rows).encode(),
    ),
    "xlsx": ({"type": "xlsx"}, lambda rows: workbook(("s", [["id", "v"], *rows]))),
    "ods": ({"type": "ods"}, lambda rows: open_document(("s", [["id", "v"], *rows]))),
}


def collected(directory: Path, form: str, pagination: dict[str, Any]) -> list[str]:
    """The ids of the records that all pages give, one after the other."""
    spec, write = FORMATS[form]
    dollar = "$." if "json" in form else ""
    told = profile(
        {"format": {**spec, "skip_rows": ["Total"]}, "pagination": pagination},
        dimensions={"id": f"{dollar}id"},
        measures={"v": f"{dollar}v"},
        key=["dimensions.id"],
    )
    maker, walk = BatchMaker(told, Bounds()), Walk(told.source, 20)
    ask: Ask | None = walk.first
    number = 0
    while ask is not None:
        query = {name: int(value[0]) for name, value in parse_qs(urlsplit(ask.url).query).items()}
        at = query["offset"] if "offset" in query else (query["page"] - 1) * 3
        data = write(HELD[at : at + 3])
        path = directory / str(number)
        path.write_bytes(data)
        assert list(maker.page(SpooledContent(path, Bounds()), number)) == []
        assert maker.count(SpooledContent(path, Bounds())) == len(HELD[at : at + 3])
        digest = hashlib.sha256(data).hexdigest()
        facts = PageFacts(
            ask, digest, maker.rows, {"$.n": 12}, mark=maker.mark, skipped=maker.skipped
        )
        ask = walk.after(facts)
        number += 1
    rest = maker.rest()
    assert rest is not None
    return [each["key"][0] for each in json.loads(b"[" + b",".join(rest.pieces) + b"]")]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "pagination",
    [
        {"type": "page", "size_parameter": "size", "size": 3, "end": "short"},
        {"type": "page"},
        {"type": "offset", "limit": 3, "counts": "rows"},
        {"type": "offset", "limit": 3, "end": "empty", "counts": "rows"},
        {"type": "offset", "limit": 3, "total_records": "$.n", "counts": "rows"},
    ],
    ids=lambda each: " ".join(map(str, each.values())),
)
def test_pages_are_as_long_as_the_source_sent_them(
    tmp_path: Path, form: str, pagination: dict[str, Any]
) -> None:
    if "total_records" in pagination and form != "json":
        pagination = {**pagination, "total_records": None, "total_header": "X-Total"}
    assert collected(tmp_path, form, pagination) == [f"r{n}" for n in range(1, 9)]


def test_a_page_of_nothing_but_skipped_rows_is_not_the_empty_one(tmp_path: Path) -> None:
    told = profile({"format": {"type": "csv", "skip_rows": ["Total", ""]}}, dimensions={"id": "id"})
    maker = BatchMaker(told, Bounds())
    # a blank line is no row to anybody, a line of empty cells is one
    for text, rows, skipped in (("id,v\nTotal,9\n\n ,\n", 2, 2), ("id,v\na,1\nTotal,9\n", 2, 1)):
        (tmp_path / "page").write_text(text)
        list(maker.page(SpooledContent(tmp_path / "page", Bounds()), 0))
        assert (maker.rows, maker.skipped, bool(maker.mark)) == (rows, skipped, rows > skipped)


def test_what_may_stand_on_the_page_before_is_not_filled_down(tmp_path: Path) -> None:
    """Nothing above on a page of several is not nothing: the row is a reject, not a null."""
    texts = ["region,kind,d\nN,x,1\n,,2\n", "region,kind,d\n,,3\n,y,4\nS,,5\n,z,6\n,,7\n"]

    def read(**source: Any) -> tuple[list[Any], list[tuple[int, int, str]]]:
        form = {"type": "csv", "fill_down": ["region", "kind"]}
        fields = {"region": "region", "kind": "kind", "d": "d"}
        told = profile({"format": form, **source}, dimensions=fields, key=["dimensions.d"])
        maker = BatchMaker(told, Bounds())
        for number, text in enumerate(texts):
            (tmp_path / str(number)).write_text(text)
            list(maker.page(SpooledContent(tmp_path / str(number), Bounds()), number))
        rest = maker.rest()
        assert rest is not None
        records = json.loads(b"[" + b",".join(rest.pieces) + b"]")
        found = [tuple(each["dimensions"][name] for name in fields) for each in records]
        return found, [(r.response, r.position, r.reason) for r in rest.rejects]

    first = [("N", "x", "1"), ("N", "x", "2")]
    last = [("S", None, "5"), ("S", "z", "6"), ("S", "z", "7")]
    said = "has nothing above it in 'region' on its page"
    assert read(pagination={"type": "page"}) == ([*first, *last], [(1, 0, said), (1, 1, said)])
    alone = [(None, None, "3"), (None, "y", "4")]
    assert read() == ([*first, *alone, *last], [])
