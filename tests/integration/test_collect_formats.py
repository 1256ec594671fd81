"""Formats other than JSON, through drone and aggregator: collected, then unchanged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.records.model import RunStatus
from tests.integration.collecting import Collecting, collecting
from tests.support.workbooks import workbook

XML = b"<d unit='mm'><s id='A'><o t='2020-01'>1.50</o><o t='2020-02'>2</o></s></d>"
ITEMS = b"<item><guid>A</guid><v>1.50</v></item><item><guid>B</guid><v>2</v></item>"
RSS = b"<rss><channel>" + ITEMS + b"</channel></rss>"
BOOK = workbook(("s", [["k", "v"], ["A", ("<v>1.50</v>", "")], ["B", 2]]))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Collecting]:
    async with collecting(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("file", "data", "parts"),
    [
        (
            "data.xml",
            XML,
            {
                "source": {"format": {"type": "xml", "records": "/d/s/o"}},
                "key": ["dimensions.k", "period"],
                "dimensions": {"k": "../@id"},
                "measures": {"v": {"path": ".", "unit_path": "/d/@unit"}},
                "period": {"path": "@t", "frequency": "M"},
            },
        ),
        (
            "feed.xml",
            RSS,
            {
                "source": {"format": {"type": "feed"}},
                "key": ["dimensions.k"],
                "dimensions": {"k": "guid"},
                "measures": {"v": "v"},
            },
        ),
        (
            "book.xlsx",
            BOOK,
            {
                "source": {"format": {"type": "xlsx"}},
                "key": ["dimensions.k"],
                "dimensions": {"k": "k"},
                "measures": {"v": "v"},
            },
        ),
    ],
)
async def test_collected_and_then_unchanged(
    bench: Collecting, file: str, data: bytes, parts: dict[str, Any]
) -> None:
    bench.write(file, data)
    await bench.publish(path=file, **parts)
    async with bench.drone():
        first = await bench.collect()
        again = await bench.collect()
    assert (first.status, first.records, first.rejects) == (RunStatus.SUCCEEDED, 2, 0)
    assert (again.status, again.bytes_fetched) == (RunStatus.UNCHANGED, 0)
    assert sorted(str(r.measures["v"].value) for r in await bench.records()) == ["1.50", "2"]
