"""Receipts of report cells, before two verifiers that share no code; and computed again."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.app.commands.verify import _found
from holdfast.kernel.errors import Invalid
from holdfast.ledger.trusting import decode_trust
from holdfast.records.receipt import ReceiptRefused, opened_plain
from holdfast.reports.children import ReportChildren
from holdfast.reports.errors import CellReceiptNotYet
from holdfast.reports.model import Report
from holdfast.reports.receipt import verify_cell
from holdfast.reports.spec import convert_spec
from tests.integration.collecting import OPERATOR, Collecting, collecting
from tests.integration.test_receipts import FORGERIES, SEED, Forger, sealed, trust
from tests.support.soaking import scale
from tests.support.verifier import refused_by_both, second
from tests.support.waiting import until

SALES = [
    {"id": f"{city}-{year}-{quarter}", "city": city, "year": year, "v": f"{year - 2000}.{n}{k}"}
    for k, city in enumerate(("Bonn", "Ulm"))
    for n, (year, quarter) in enumerate((y, q) for y in range(2019, 2024) for q in (1, 2))
]
POPULATION = [{"id": str(year), "year": year, "v": year * 7 % 101} for year in range(2017, 2024)]
TABLE = {
    "version": 1,
    "name": "sales-by-year",
    "inputs": {
        "sales": {
            "profile": "sales",
            "measures": ["v"],
            "where": {"city": "Bonn"},
            "aggregate": {"by": ["year"], "function": "sum"},
        },
        "people": {"profile": "people", "measures": ["v"]},
    },
    "join": {"on": ["year"]},
    "derive": {"share": "sales.v / people.v"},
    "output": {"type": "table", "columns": ["year", "sales.v", "people.v", "share"]},
}
CORRELATION = {
    **TABLE,
    "name": "sales-and-people",
    "derive": {},
    "output": {
        "type": "correlation", "x": "people.v", "y": "sales.v", "first_differences": True,
    },
}  # fmt: skip
SHARED = ("size", "position", "report", "name", "inputs", "column", "row", "value", "records")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Collecting]:
    async with collecting(tmp_path) as found:
        found.write("sales.json", SALES)
        found.write("people.json", POPULATION)
        period = {"path": "$.year", "frequency": "A"}
        both = {"id": "$.id", "city": "$.city"}
        await found.publish("sales", "sales.json", period=period, dimensions=both)
        await found.publish("people", "people.json", period=period)
        async with found.drone():
            await found.collect("sales")
            await found.collect("people")
        yield found


async def run(bench: Collecting, spec: dict[str, Any]) -> Report:
    found: Report = await bench.system.reports.run(OPERATOR, convert_spec(spec))
    return found


async def receipt(bench: Collecting, report: Report, column: str, row: int | None = None) -> bytes:
    """The receipt, as soon as the relay has brought its event over."""
    made: list[bytes] = []

    async def there() -> bool:
        try:
            made.append(await bench.system.reports.receipt(OPERATOR, report.id, column, row))
        except CellReceiptNotYet:
            return False
        return True

    await until(there)
    return made[0]


def both(data: bytes, policy: bytes) -> dict[str, Any]:
    """What both verifiers say, held equal."""
    found = msgspec.to_builtins(verify_cell(opened_plain(data), decode_trust(policy)))
    (other,) = second([data], policy)
    assert "found" in other, other
    told = other["found"]
    assert {name: found[name] for name in SHARED} == {name: told[name] for name in SHARED}
    assert found["verdicts"][:2] == told["verdicts"]
    assert dict(found, verdicts=[]) == dict(told, verdicts=[])
    return dict(found)


def again(
    tmp_path: Path, data: bytes, policy: bytes, *inputs: str, recompute: bool = False
) -> dict[str, Any]:
    """What ``holdfast verify`` says of each verdict."""
    (tmp_path / "r.json").write_bytes(data)
    (tmp_path / "trust").write_bytes(policy)
    found = _found(tmp_path / "r.json", tmp_path / "trust", None, None, "", recompute, list(inputs))
    return {each.verdict: each.holds for each in found.verdicts}


ALL = {"recorded": True, "attributed": True, "reproduced": True}


async def test_each_cell_of_a_table_leads_to_its_spec_inputs_and_records(
    bench: Collecting, tmp_path: Path
) -> None:
    report = await run(bench, TABLE)
    assert report.row_count == 5
    policy = await trust(bench)
    names = [column.name for column in report.columns]
    for row, column in ((0, "year"), (2, names[1]), (2, names[2]), (4, "share")):
        data = await receipt(bench, report, column, row)
        found = both(data, policy)
        assert found["value"] == report.rows[row][names.index(column)]
        assert found["records"] == {"people": 1, "sales": 2}
        assert found["carried"] == 3
        assert found["spec_digest"] == report.spec_digest
        assert again(tmp_path, data, policy) == {**ALL, "reproduced": None}
        assert again(tmp_path, data, policy, recompute=True) == ALL
    carried = opened_plain(data)["records"]
    years = {one["record"]["content"]["period"]["start"][:4] for one in carried["sales"]}
    assert years == {report.rows[4][0]}
    for row, column in ((5, "share"), (-1, "share"), (0, "nothing"), (None, "share")):
        with pytest.raises(Invalid):
            await bench.system.reports.receipt(OPERATOR, report.id, column, row)


async def test_a_cell_is_computed_again_from_the_inputs_themselves(
    bench: Collecting, tmp_path: Path
) -> None:
    report = await run(bench, TABLE)
    data, policy = await receipt(bench, report, "share", 1), await trust(bench)
    given = []
    for used in report.inputs:
        found = await bench.system.records.projection(OPERATOR, used.profile)
        given.append(f"{used.name}={found.path}")
    assert again(tmp_path, data, policy, *given) == ALL
    (tmp_path / "other.parquet").write_bytes(b"PAR1")
    with pytest.raises(ReceiptRefused, match="digest"):
        again(tmp_path, data, policy, given[0], f"people={tmp_path / 'other.parquet'}")
    with pytest.raises(ReceiptRefused, match="the inputs are"):
        again(tmp_path, data, policy, given[0])


async def test_a_spec_is_computed_again_in_the_order_in_which_it_was_written(
    bench: Collecting, tmp_path: Path
) -> None:
    z = {"profile": "sales", "measures": ["v"], "aggregate": {"by": ["year"], "function": "sum"}}
    a = {**z, "aggregate": {"by": ["year"], "function": "mean"}}
    derive = {"y": "z.v / 3", "x": "a.v / 7"}
    report = await run(
        bench,
        {**TABLE, "inputs": {"z": z, "a": a}, "derive": derive, "output": {"type": "table"}},
    )
    names = [column.name for column in report.columns]
    assert names == ["year", "z.v", "a.v", "y", "x"]
    policy = await trust(bench)
    found = await bench.system.records.projection(OPERATOR, "sales")
    given = [f"z={found.path}", f"a={found.path}"]
    for column in ("z.v", "a.v", "y", "x"):
        data = await receipt(bench, report, column, 0)
        assert both(data, policy)["value"] == report.rows[0][names.index(column)]
        assert again(tmp_path, data, policy, recompute=True) == ALL
        assert again(tmp_path, data, policy, *given) == ALL


async def test_days_are_those_of_the_profiles_zone_and_the_report_says_which(
    bench: Collecting, tmp_path: Path
) -> None:
    hours = [{"id": f"{n:02d}", "at": f"2024-07-0{1 + n // 24}T{n % 24:02d}:00"} for n in range(48)]
    bench.write("hours.json", [{**each, "v": 1, "year": 2024} for each in hours])
    period = {"path": "$.at", "frequency": "H"}
    await bench.publish("hours", "hours.json", period=period, timezone="Europe/Berlin")
    async with bench.drone():
        await bench.collect("hours")
    source = {"profile": "hours", "measures": ["v"]}
    aggregate = {"aggregate": {"by": ["day"], "function": "sum"}}
    spec = {
        "version": 1, "name": "days", "output": {"type": "table"},
        "inputs": {"hours": {**source, **aggregate}},
    }  # fmt: skip
    report = await run(bench, spec)
    assert report.rows == [["2024-07-01", "24"], ["2024-07-02", "24"]]
    assert report.spec.inputs["hours"].timezone == "Europe/Berlin"
    assert (await run(bench, spec)).id == report.id
    data, policy = await receipt(bench, report, "v", 0), await trust(bench)
    assert both(data, policy)["value"] == "24"
    assert again(tmp_path, data, policy, recompute=True) == ALL
    plain = {**spec, "inputs": {"hours": {**source, **aggregate, "timezone": "UTC"}}}
    assert [value for _, value in (await run(bench, plain)).rows] == ["2", "24", "22"]
    listed = await run(bench, {**spec, "inputs": {"hours": source}})
    assert listed.spec.inputs["hours"].timezone is None


async def test_a_publication_that_came_while_it_was_computed_is_not_taken_for_its_input(
    bench: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = ReportChildren.call

    async def late(children: ReportChildren, *arguments: Any, **bounds: Any) -> bytes:
        bench.write("people.json", [{**POPULATION[0], "v": 1}, *POPULATION[1:]])
        async with bench.drone():
            await bench.collect("people")
        return await compute(children, *arguments, **bounds)

    with monkeypatch.context() as patched:
        patched.setattr(ReportChildren, "call", late)
        report = await run(bench, TABLE)
    assert [used.publication for used in report.inputs] == [1, 1]
    found = both(await receipt(bench, report, "share", 1), await trust(bench))
    assert found["value"] == report.rows[1][3]


async def test_a_later_publication_changes_no_receipt(bench: Collecting, tmp_path: Path) -> None:
    report = await run(bench, TABLE)
    first, policy = await receipt(bench, report, "share", 1), await trust(bench)
    bench.write("people.json", [{**POPULATION[3], "v": 1}, *POPULATION[:3], *POPULATION[4:]])
    async with bench.drone():
        await bench.collect("people")
    for data in (first, await receipt(bench, report, "share", 1)):
        assert both(data, policy)["value"] == report.rows[1][3]
        assert again(tmp_path, data, policy, recompute=True) == ALL
    newer = await run(bench, TABLE)
    assert newer.id != report.id
    assert both(await receipt(bench, newer, "share", 1), policy)["value"] != report.rows[1][3]


async def test_coefficients_have_receipts(bench: Collecting, tmp_path: Path) -> None:
    report = await run(bench, CORRELATION)
    assert report.correlation is not None
    policy = await trust(bench)
    for path in ("levels.pearson_r", "levels.n", "first_differences.spearman_rho"):
        data = await receipt(bench, report, path)
        found = both(data, policy)
        assert found["row"] is None
        assert found["records"] == {"people": 5, "sales": 10}
        assert again(tmp_path, data, policy, recompute=True) == ALL
    assert found["value"] == report.correlation.first_differences.spearman_rho  # type: ignore[union-attr]
    for path, row in (("levels.nothing", None), ("levels", None), ("levels.n", 0)):
        with pytest.raises(Invalid):
            await bench.system.reports.receipt(OPERATOR, report.id, path, row)


async def test_more_records_than_a_receipt_carries_are_counted(
    bench: Collecting, tmp_path: Path
) -> None:
    bench.write("many.json", [{"id": f"n{n}", "year": 2000, "v": n} for n in range(201)])
    await bench.publish("many", "many.json", period={"path": "$.year", "frequency": "A"})
    async with bench.drone():
        await bench.collect("many")
    spec = {
        "version": 1,
        "name": "many",
        "inputs": {"many": {"profile": "many", "measures": ["v"], "aggregate": {"by": ["year"]}}},
        "output": {"type": "table"},
    }
    report = await run(bench, spec)
    column = report.columns[-1].name
    data, policy = await receipt(bench, report, column, 0), await trust(bench)
    found = both(data, policy)
    assert (found["records"], found["carried"]) == ({"many": 201}, None)
    assert [each["holds"] for each in found["verdicts"]] == [True, None, None]
    with pytest.raises(Invalid, match="does not carry"):
        again(tmp_path, data, policy, recompute=True)
    projection = await bench.system.records.projection(OPERATOR, "many")
    told = again(tmp_path, data, policy, f"many={projection.path}")
    assert told == {"recorded": True, "attributed": None, "reproduced": True}


class CellForger(Forger):
    """One change at a time, of the cell's receipt or within a record's that it carries."""

    def _swapped(self, plain: dict[str, Any]) -> dict[str, Any]:
        other = json.loads(self.dice.choice(self.receipts))
        del other["sha256"]
        before = json.dumps(plain)
        holder, name = self._at(plain, path := self.dice.choice(self._places(plain)))
        try:
            giver, _ = self._at(other, path)
            holder[name] = giver[name]
        except (KeyError, IndexError, TypeError):
            holder[name] = None
        return self._changed(plain) if json.dumps(plain) == before else plain


@pytest.mark.soak
@pytest.mark.timeout(1200 * scale())
async def test_no_forged_receipt_of_a_cell_is_accepted_by_either_verifier(
    bench: Collecting,
) -> None:
    table, coefficients = await run(bench, TABLE), await run(bench, CORRELATION)
    genuine = [
        await receipt(bench, table, column, row)
        for row, column in ((0, "year"), (1, "share"), (2, "share"))
    ]
    genuine.append(await receipt(bench, coefficients, "levels.pearson_r"))
    policy = await trust(bench)
    trusted = decode_trust(policy)
    for data in genuine:
        both(data, policy)
    forger = CellForger(random.Random(SEED), genuine)
    reasons: Counter[str] = Counter()
    for _ in range(10 * scale()):  # such a receipt has many kilobytes
        made: list[tuple[str, bytes]] = []
        while len(made) < FORGERIES // 10:
            kind, data = forger.forge()
            if data not in genuine and not _is_another_truth(data, genuine):
                made.append((kind, data))
        reasons += refused_by_both(
            made, lambda data: verify_cell(opened_plain(data), trusted), policy
        )
    print(f"{reasons.total()} forgeries refused by both, seed {SEED}: {reasons.most_common()}")
    assert len(reasons) > 15, reasons


def _is_another_truth(data: bytes, genuine: list[bytes]) -> bool:
    """Whether a record's receipt was replaced by a genuine one of the same record: all of that
    holds, and nothing in it is untrue."""
    try:
        plain = json.loads(data)
        del plain["sha256"]
    except (ValueError, KeyError, TypeError):
        return False
    if not isinstance(plain, dict) or sealed(plain) != data:
        return False
    others = [json.loads(each) for each in genuine]
    parts = [one for other in others for one in _carried(other)]
    for other in others:
        del other["sha256"]
        if {**plain, "records": 0} == {**other, "records": 0}:
            found = _carried(plain)
            same = [_name(one) for one in found] == [_name(one) for one in _carried(other)]
            return same and all(one in parts for one in found)
    return False


def _carried(plain: dict[str, Any]) -> list[Any]:
    records = plain.get("records")
    records = records if isinstance(records, dict) else {}
    return [one for ones in records.values() if isinstance(ones, list) for one in ones]


def _name(one: Any) -> Any:
    try:
        return (one["record"]["leaf"]["record"], one["record"]["leaf"]["revision"])
    except (KeyError, TypeError):
        return None
