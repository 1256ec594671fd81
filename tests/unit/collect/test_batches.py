"""Batches depend on the bytes and the profile, and on nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.collect.batches import BatchMaker, Filled, Stopped, TooManyRejects
from holdfast.collect.content import SpooledContent
from holdfast.collect.errors import LimitReached, ParseFailed
from holdfast.collect.model import Bounds
from holdfast.records.content import encode_sorted
from holdfast.records.model import Batch, MappedRecord, SignedHeader
from tests.unit.collect.helpers import profile

SOURCE = {"format": {"type": "ndjson"}}


def page(path: Path, rows: list[dict[str, Any]], tail: bytes = b"") -> SpooledContent:
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows) + tail)
    return SpooledContent(path, Bounds())


def maker(records_max: int = 5000, bytes_max: int = 1 << 22, **parts: Any) -> BatchMaker:
    stopped = parts.pop("stopped", lambda: False)
    told = profile(SOURCE, measures={"v": "$.v"}, attributes={"t": "$.t"}, **parts)
    return BatchMaker(told, Bounds(), records_max=records_max, bytes_max=bytes_max, stopped=stopped)


def records(batch: Filled) -> list[MappedRecord]:
    """The records of a batch as the aggregator decodes them.

    Of a body that is what it would write itself it knows that no key is repeated, and saves the
    scan for them (``kernel/http/bodies.py``): so that is what is sent.
    """
    run = "01a1fb93-745a-7ffa-9ec7-1183ced0f7f0"
    signed = SignedHeader(header="{}", signature="0" * 128, seed="0" * 64)
    sent = b"".join(batch.encoded(run, 3, 7, signed))
    found = msgspec.json.decode(sent, type=Batch)
    assert encode_sorted(found) == sent
    assert (found.run, found.fence, found.sequence) == (run, 3, 7)
    assert found.rejects == batch.rejects
    assert len(found.records) == batch.records
    return found.records


def filled(under: BatchMaker, *pages: SpooledContent) -> list[Filled]:
    found = [batch for n, p in enumerate(pages) for batch in under.page(p, n)]
    rest = under.rest()
    return [*found, rest] if rest else found


def test_batches_are_filled_over_the_borders_of_pages(tmp_path: Path) -> None:
    pages = [page(tmp_path / f"{n}", [{"v": n * 100 + i} for i in range(70)]) for n in range(5)]
    batches = filled(maker(records_max=100), *pages)
    assert [b.records for b in batches] == [100, 100, 100, 50]
    assert [(r.response, r.position) for b in batches for r in records(b)] == [
        (n, i) for n in range(5) for i in range(70)
    ]
    again = filled(maker(records_max=100), *pages)
    assert again == batches


def test_large_records_make_small_batches(tmp_path: Path) -> None:
    rows = [{"v": i, "t": "x" * 100_000} for i in range(60)]
    batches = filled(maker(bytes_max=1 << 20), page(tmp_path / "p", rows))
    assert sum(b.records for b in batches) == 60
    assert len(batches) > 3
    assert all(sum(map(len, b.pieces)) < 3 << 20 for b in batches)


def test_one_row_that_becomes_many_records_does_not_burst_a_batch(tmp_path: Path) -> None:
    row = {f"c{i}": i for i in range(950)}
    told = profile(SOURCE, unpivot={"columns": "c.*"}, measures={"v": "#value"})
    under = BatchMaker(told, Bounds(), records_max=100)
    assert max(b.records for b in filled(under, page(tmp_path / "p", [row]))) == 100


def test_the_limit_of_records_is_an_error_and_what_was_kept_is_there(tmp_path: Path) -> None:
    under = maker(limits={"max_records": 10})
    with pytest.raises(LimitReached) as caught:
        list(under.page(page(tmp_path / "p", [{"v": i} for i in range(11)]), 0))
    assert caught.value.code == "limit-records"
    rest = under.rest()
    assert rest is not None
    assert rest.records == 10
    exact = maker(limits={"max_records": 10})
    assert len(filled(exact, page(tmp_path / "q", [{"v": i} for i in range(10)]))) == 1


def test_a_page_that_breaks_keeps_what_came_before(tmp_path: Path) -> None:
    under = maker()
    with pytest.raises(ParseFailed):
        list(under.page(page(tmp_path / "p", [{"v": 1}, {"v": 2}], b"{"), 0))
    rest = under.rest()
    assert rest is not None
    assert [r.position for r in records(rest)] == [0, 1]


def test_rejects_travel_with_the_records_and_have_an_end(tmp_path: Path) -> None:
    batches = filled(maker(), page(tmp_path / "p", [{"v": 1}, {"v": "x"}, {"v": 2}]))
    assert [(b.records, len(b.rejects)) for b in batches] == [(2, 1)]
    under = maker(max_rejects=5)
    with pytest.raises(TooManyRejects):
        list(under.page(page(tmp_path / "q", [{"v": "x"}] * 2000), 0))
    assert under.rejects == 1006


def test_told_to_stop_it_stops_within_a_few_rows(tmp_path: Path) -> None:
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 3

    under = maker(stopped=stopped)
    with pytest.raises(Stopped):
        list(under.page(page(tmp_path / "p", [{"v": i} for i in range(50_000)]), 0))
    assert under.records < 2_000


def test_rows_are_counted_without_being_mapped(tmp_path: Path) -> None:
    under = maker()
    assert under.count(page(tmp_path / "p", [{"v": "x"}] * 7)) == 7
    assert under.count(page(tmp_path / "p", [])) == 0
    assert (under.records, under.rejects) == (0, 0)
