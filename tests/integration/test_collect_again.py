"""Going back: rehearsals, backfills, and stored bytes mapped again. Real drones, a real source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.app.once import collect_once
from holdfast.kernel.errors import Conflict, Invalid
from holdfast.records import store
from holdfast.records.model import Record, RecordFilter, Run, RunFilter, RunStatus
from holdfast.registry.model import Expect, Limits
from tests.integration.collecting import IMPATIENT, OPERATOR, Collecting, Line, collecting
from tests.support import recorded
from tests.support.soaking import scale
from tests.support.waiting import until

PERIOD = {"path": "$.day", "frequency": "D"}
KEY = ["dimensions.id", "period"]


@pytest.fixture
async def bench(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Collecting]:
    async with collecting(tmp_path, **getattr(request, "param", {})) as found:
        yield found


def day(number: int, value: Any = None, id_: str = "a") -> dict[str, Any]:
    return {"id": id_, "day": f"2024-01-{number:02d}", "v": number if value is None else value}


def values(records: list[Record]) -> dict[str, str | None]:
    return {
        f"{one.key[0]} {one.period.start if one.period else ''}": one.measures["v"].value
        for one in records
    }


def counts(run: Run) -> tuple[str, int, int, int]:
    return run.status.value, run.new, run.changed, run.withdrawn


# --- rehearsals ---------------------------------------------------------------------------------


async def test_a_rehearsal_shows_what_it_would_change_and_publishes_nothing(
    bench: Collecting,
) -> None:
    bench.write("data.json", [day(1), day(2), day(3)])
    await bench.publish(key=KEY, period=PERIOD)
    async with bench.drone():
        await bench.collect()
        before = await bench.records()
        bench.write("data.json", [day(1), day(2, 20), day(4)])
        task = await bench.submit(rehearsal=True)
        rehearsed = await bench.ended(task)
        assert (await bench.task(task)).status.value == "succeeded"
        assert counts(rehearsed) == ("partial", 1, 1, 1)
        assert rehearsed.code == "rehearsal"
        assert await bench.records() == before
        diff = await bench.system.records.run_diff(OPERATOR, rehearsed.id)
        assert (diff.hidden, diff.new, diff.changed, diff.withdrawn) == (True, 1, 1, 1)
        changed = next(one for one in diff.items if one.kind == "changed")
        assert [(one.field, one.old, one.new) for one in changed.fields] == [
            ("measures.v", "2", "20")
        ]
        done = await bench.collect()
    assert counts(done) == ("succeeded", 1, 1, 1), "the rehearsal left everything as it was"


# --- backfills ----------------------------------------------------------------------------------


async def test_a_backfill_of_a_snapshot_touches_nothing_outside_of_its_range(
    bench: Collecting,
) -> None:
    bench.write("data.json", [day(number) for number in range(1, 11)])
    await bench.publish(key=KEY, period=PERIOD)
    async with bench.drone():
        await bench.collect()
        # The source has lost the 1st and the 5th, and changed the 2nd and the 6th.
        bench.write(
            "data.json",
            [day(n, n * 10 if n in (2, 6) else n) for n in range(1, 11) if n not in (1, 5)],
        )
        run = await bench.collect(range_start="2024-01-05", range_end="2024-01-08")
        found = values(await bench.records())
        assert (run.kind, counts(run), run.records) == (
            "backfill", ("succeeded", 0, 1, 1), 2,
        )  # fmt: skip
        assert found == {
            f"a 2024-01-{n:02d}": "60" if n == 6 else str(n) for n in range(1, 11) if n != 5
        }
        whole = await bench.collect()
    assert counts(whole) == ("succeeded", 0, 1, 1), "the rest is the next ordinary run's"


async def test_the_days_of_a_backfill_are_those_of_the_source(bench: Collecting) -> None:
    hours = ["2024-01-04T23:00", "2024-01-05T00:00", "2024-01-05T23:00", "2024-01-06T00:00"]
    period = {"path": "$.at", "frequency": "H"}
    bench.write("data.json", [{"id": "a", "at": at, "v": 1} for at in hours])
    await bench.publish(key=KEY, period=period, timezone="Europe/Paris")
    async with bench.drone():
        await bench.collect()
        # An answer to a question about the 5th: the hour after it is not there, nor asked for.
        bench.write("data.json", [{"id": "a", "at": at, "v": 2} for at in hours[:3]])
        run = await bench.collect(range_start="2024-01-05", range_end="2024-01-06")
    assert (counts(run), run.records) == (("succeeded", 0, 2, 0), 2)
    assert values(await bench.records()) == {
        "a 2024-01-04T22:00:00.000000Z": "1",
        "a 2024-01-04T23:00:00.000000Z": "2",
        "a 2024-01-05T22:00:00.000000Z": "2",
        "a 2024-01-05T23:00:00.000000Z": "1",
    }


async def test_a_backfill_of_an_incremental_source_leaves_the_cursor(bench: Collecting) -> None:
    cursor = {"path": "$.day", "parameter": "since", "start": "2024-01-10", "format": "%Y-%m-%d"}
    bench.write("data.json", [day(10), day(11)])
    await bench.publish(mode="incremental", cursor=cursor, key=KEY, period=PERIOD)
    async with bench.drone():
        first = await bench.collect()
        # This source answers everything since; what lies beyond the range is not the backfill's.
        bench.write("data.json", [day(2), day(3), day(9), day(11, 99), day(20)])
        back = await bench.collect(range_start="2024-01-02", range_end="2024-01-09")
        assert back.cursor is None or back.cursor >= (first.cursor or "")
        bench.write("data.json", [day(12)])
        last = await bench.collect()
    asked = [seen.target.partition("since=")[2] for seen in bench.source.requests]
    assert asked == ["2024-01-10", "2024-01-02", "2024-01-11"]
    assert (counts(back), back.records) == (("succeeded", 2, 0, 0), 2)
    assert counts(last) == ("succeeded", 1, 0, 0)
    assert sorted(values(await bench.records())) == [
        f"a 2024-01-{n:02d}" for n in (2, 3, 10, 11, 12)
    ]


async def test_what_cannot_be_backfilled_is_refused(bench: Collecting) -> None:
    bench.write("data.json", [{"id": "a", "v": 1}])
    await bench.publish()
    for start, end in [("2024-01-05", ""), ("2024-01-05", "2024-01-05"), ("", "2024-01-05")]:
        with pytest.raises(Invalid, match="a range begins and ends"):
            await bench.submit(range_start=start, range_end=end)
    with pytest.raises(Invalid, match="2024-02-30 is no day"):
        await bench.submit(range_start="2024-02-30", range_end="2024-03-01")
    with pytest.raises(Invalid, match="its records have no period"):
        await bench.submit(range_start="2024-01-05", range_end="2024-01-06")
    runs = await bench.system.records.runs(OPERATOR, RunFilter(profile="test"))
    assert runs.items == []  # a source is not ill because somebody asked for what it has not


WINDOWS = {
    "start_parameter": "from", "end_parameter": "to", "span": "100y", "start": "2024-01-05",
}  # fmt: skip


async def test_what_a_backfill_brought_stays_when_the_windows_begin_later(
    bench: Collecting,
) -> None:
    windows = {"windows": WINDOWS}
    await bench.publish(key=KEY, period=PERIOD, source=windows)
    async with bench.drone():

        async def collected(*days: int, **parts: Any) -> Run:
            bench.write("data.json", [day(number) for number in days])
            return await bench.collect(**parts)

        await collected(5, 6)
        await collected(1, 2, 3, range_start="2024-01-01", range_end="2024-01-04")
        # The source has lost the 2nd since, and then the 6th: each told by who asked for it.
        again = await collected(3, range_start="2024-01-02", range_end="2024-01-05")
        assert counts(again) == ("succeeded", 0, 0, 1)
        ordinary = await collected(5)
        assert (counts(ordinary), ordinary.unasked) == (("succeeded", 0, 0, 1), 2)
        before = await bench.records()
        assert sorted(values(before)) == [f"a 2024-01-{n:02d}" for n in (1, 3, 5)]
        # All of it is mapped again, what earlier backfills brought and later ones took back is not.
        same = await bench.collect(remap=True)
        assert (same.kind, counts(same)) == ("merge", ("succeeded", 0, 0, 0))
        assert await bench.records() == before
        unit = {"v": {"path": "$.v", "unit": "kg"}}
        await bench.publish(key=KEY, period=PERIOD, source=windows, measures=unit)
        mapped = await bench.collect(remap=True)
        assert (counts(mapped), mapped.unasked) == (("succeeded", 0, 3, 0), 0)
        # Under another key nothing of the old one stays, whoever brought it.
        await bench.publish(key=["period"], period=PERIOD, source=windows, measures=unit)
        renamed = await bench.collect(remap=True)
        assert (counts(renamed), renamed.unasked) == (("succeeded", 3, 0, 3), 0)


# --- mapping again ------------------------------------------------------------------------------


async def test_a_new_version_is_applied_to_what_is_stored(bench: Collecting) -> None:
    bench.write("data.json", [day(1), day(2)])
    await bench.publish(key=KEY, period=PERIOD)
    async with bench.drone():
        first = await bench.collect()
        old = await bench.records()
        requests = bench.source.count()
        nothing = await bench.collect(remap=True)
        assert (nothing.kind, counts(nothing), nothing.unchanged) == (
            "remap", ("succeeded", 0, 0, 0), 2,
        )  # fmt: skip
        assert await bench.records() == old
        in_thousands = {"v": {"path": "$.v", "multiplier": "1000", "unit": "USD"}}
        digest = await bench.publish(key=KEY, period=PERIOD, measures=in_thousands)
        dry = await bench.collect(remap=True, rehearsal=True)
        assert (counts(dry), dry.code) == (("partial", 0, 2, 0), "rehearsal")
        assert await bench.records() == old
        done = await bench.collect(remap=True)
        again = await bench.collect(remap=True)
        back = await bench.collect(remap=True, digest=first.profile_digest)
    assert bench.source.count() == requests, "nothing is fetched"
    assert (counts(done), done.profile_digest) == (("succeeded", 0, 2, 0), digest)
    assert counts(again) == ("succeeded", 0, 0, 0)
    assert counts(back) == ("succeeded", 0, 2, 0)
    now = await bench.records()
    assert values(now) == values(old)
    assert [one.revision for one in now] == [3, 3]
    # Where the bytes came from, and when, is what it was.
    for one, before in zip(now, old, strict=True):
        assert one.provenance is not None
        assert before.provenance is not None
        assert one.provenance.fetched_at == before.provenance.fetched_at
        assert one.provenance.url == before.provenance.url
        assert one.provenance.response_digest == before.provenance.response_digest


@pytest.mark.parametrize("duplicates", ["error", "last"])
@pytest.mark.parametrize("mode", ["append", "incremental"])
async def test_of_many_runs_the_latest_word_on_each_key_counts(
    bench: Collecting, mode: str, duplicates: str
) -> None:
    more: dict[str, Any] = {}
    if mode == "incremental":
        more["cursor"] = {
            "path": "$.day", "parameter": "since", "start": "2024-01-01", "format": "%Y-%m-%d",
        }  # fmt: skip
    await bench.publish(mode=mode, duplicates=duplicates, key=KEY, period=PERIOD, **more)
    async with bench.drone():
        for rows in ([day(1), day(2)], [day(2, 22), day(3)], [day(3, 33), day(4)], [day(1, 11)]):
            bench.write("data.json", rows)
            await bench.collect()
        before = await bench.records()
        assert values(before) == {
            "a 2024-01-01": "11", "a 2024-01-02": "22", "a 2024-01-03": "33", "a 2024-01-04": "4",
        }  # fmt: skip
        run = await bench.collect(remap=True)
        assert (run.kind, counts(run)) == ("merge", ("succeeded", 0, 0, 0))
        assert await bench.records() == before
        renamed = {"v": {"path": "$.v", "unit": "kg"}}
        await bench.publish(
            mode=mode, duplicates=duplicates, key=KEY, period=PERIOD, measures=renamed, **more
        )
        done = await bench.collect(remap=True)
    assert counts(done) == ("succeeded", 0, 4, 0)
    assert values(await bench.records()) == values(before)
    head = await bench.system.records.freshness(OPERATOR)
    assert head[0].records == 4


async def test_a_snapshot_and_the_backfills_since_are_mapped_together(bench: Collecting) -> None:
    bench.write("data.json", [day(5), day(6)])
    await bench.publish(key=KEY, period=PERIOD)
    async with bench.drone():
        await bench.collect()
        bench.write("data.json", [day(1), day(2), day(6, 66)])
        await bench.collect(range_start="2024-01-01", range_end="2024-01-03")
        before = await bench.records()
        run = await bench.collect(remap=True)
    assert counts(run) == ("succeeded", 0, 0, 0)
    assert await bench.records() == before
    assert len(before) == 4


async def test_a_remapping_that_cannot_be_leaves_everything(bench: Collecting) -> None:
    await bench.publish(key=KEY, period=PERIOD)
    async with bench.drone():
        task = await bench.submit(remap=True)
        while (ended := await bench.task(task)).status.value in ("queued", "leased"):
            await bench.system.clock.sleep(0.02)
        assert ended.code == "nothing-stored"
        bench.write("data.json", [day(1), day(2)])
        await bench.collect()
        old = await bench.records()
        wrong = {"v": {"path": "$.day", "type": "integer"}}
        await bench.publish(key=KEY, period=PERIOD, measures=wrong)
        run = await bench.collect(remap=True)
        assert run.status is RunStatus.FAILED
        assert run.code in ("too-many-rejects", "rejects")
        assert await bench.records() == old
        await bench.publish(key=KEY, period=PERIOD, limits={"max_records": 1})
        run = await bench.collect(remap=True)
        assert (run.status, run.code, run.attempts) == (RunStatus.FAILED, "limit-records", 1)
        assert "more than 1 records" in run.reason
        assert await bench.records() == old
    await bench.submit()
    with pytest.raises(Conflict, match="has not finished"):
        await bench.submit(remap=True)


async def test_vintages_tell_first_and_latest_after_a_remap(bench: Collecting) -> None:
    bench.write("data.json", [day(1)])
    await bench.publish(key=KEY, period=PERIOD)
    async with bench.drone():
        await bench.collect()
        await bench.publish(key=KEY, period=PERIOD, measures={"v": {"path": "$.v", "unit": "kg"}})
        await bench.collect(remap=True)
    for vintage, unit in (("first", ""), ("latest", "kg")):
        which: Any = RecordFilter(profile="test", vintage=vintage)  # type: ignore[arg-type]
        page = await bench.system.records.records(OPERATOR, which)
        assert [one.measures["v"].unit for one in page.items] == [unit]


@pytest.mark.soak
async def test_every_recorded_source_is_mapped_again_to_the_same(bench: Collecting) -> None:
    """Collected from a server of recorded bytes, then from what was stored: nothing changes.

    The large ones in the long form only.
    """
    folder = recorded.folder()
    size_max, count = (2**40, 31) if scale() > 1 else (50_000, 10)
    different: dict[str, Any] = {}
    chosen = {
        name: files
        for name, files in recorded.SOURCES.items()
        if (folder / files[0]).stat().st_size <= size_max
    }
    assert len(chosen) == count
    async with bench.drone(capacity=2):
        for name, files in chosen.items():
            (bench.files / files[0]).write_bytes((folder / files[0]).read_bytes())
            shipped = recorded.profile(name)
            # The first page alone: how pages are walked is not what this is about.
            source = msgspec.structs.replace(
                shipped.source, url=f"{bench.source.url}/{files[0]}", method="GET", body="",
                auth=None, pagination=None, windows=None, headers={}, parameters={},
            )  # fmt: skip
            one = msgspec.structs.replace(
                shipped, source=source, schedule=None, limits=Limits(), expect=Expect(),
                mode="snapshot", cursor=None,
            )  # fmt: skip
            await bench.system.registry.publish(OPERATOR, one)
            first = await bench.ended(await bench.submit(one.name), seconds=120)
            assert first.status is RunStatus.SUCCEEDED, (name, first.code, first.reason)
            run = await bench.ended(await bench.submit(one.name, remap=True), seconds=120)
            if (*counts(run), run.unchanged) != ("succeeded", 0, 0, 0, first.records):
                different[name] = (run.status, run.code, run.reason, counts(run))
    assert different == {}


@pytest.mark.parametrize("bench", [IMPATIENT], indirect=True)
async def test_a_remapping_survives_lost_answers_and_a_drone_that_dies(bench: Collecting) -> None:
    rows = [day(1 + number % 28, number, id_=f"r{number}") for number in range(60)]
    bench.write("data.json", rows)
    await bench.publish(key=KEY, period=PERIOD)
    line = Line(bench.system.app)
    async with bench.drone("first", line=line):
        await bench.collect()
        await bench.publish(key=KEY, period=PERIOD, measures={"v": {"path": "$.v", "unit": "kg"}})
        line.lose = {"/remap": 3, "/responses/": 1, "/v1/batches": 1, "/finish": 1}
        lost = await bench.collect(remap=True)
        assert (counts(lost), line.lost) == (("succeeded", 0, 60, 0), 6)
        await bench.publish(key=KEY, period=PERIOD, measures={"v": {"path": "$.v", "unit": "t"}})
        # Everything it posted is there when it goes: the next attempt begins anew all the same.
        line.lose = {"/finish": 1_000}
        task = await bench.submit(remap=True)
        await until(lambda: line.lost > 6)
        line.cut = True
    async with bench.drone("second"):
        run = await bench.ended(task, seconds=60)
    assert run.status is RunStatus.SUCCEEDED
    assert run.changed == 60
    assert {one.measures["v"].unit for one in await bench.records()} == {"t"}


async def test_bytes_that_were_erased_are_not_mapped_again(bench: Collecting) -> None:
    """A snapshot that rests on them is refused; what else is stored is mapped without them."""

    def destroy(run: Run) -> Any:
        table = store.responses
        key = store.of_key(table, OPERATOR.tenant, run=run.id)
        return lambda conn: store.change(conn, table, key, {"erased_at": "2026-01-01T00:00:00Z"})

    database = bench.system.records._handles.db
    for mode in ("snapshot", "append"):
        await bench.publish(mode, mode=mode, key=KEY, period=PERIOD)
    async with bench.drone():
        bench.write("data.json", [day(1)])
        first = {mode: await bench.collect(mode) for mode in ("snapshot", "append")}
        bench.write("data.json", [day(2)])
        await bench.collect("append")
        for run in first.values():
            await database.write(OPERATOR, destroy(run))
        refused = await bench.submit("snapshot", remap=True)
        while (ended := await bench.task(refused)).status.value in ("queued", "leased"):
            await bench.system.clock.sleep(0.02)
        assert (ended.status.value, ended.code) == ("dead", "response-erased")
        unit = {"v": {"path": "$.v", "unit": "kg"}}
        await bench.publish("append", mode="append", key=KEY, period=PERIOD, measures=unit)
        run = await bench.collect("append", remap=True)
    assert counts(run) == ("succeeded", 0, 1, 0)
    assert {one.key[1]: one.measures["v"].unit for one in await bench.records("append")} == {
        "2024-01-01": "", "2024-01-02": "kg",
    }  # fmt: skip


# --- collecting a folder once -------------------------------------------------------------------


async def test_files_that_give_no_run_are_named_at_once_and_the_others_collected(
    bench: Collecting, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write("data.json", [{"id": "a", "v": 1}])
    folder = bench.system.settings.profiles_dir
    folder.mkdir(parents=True, exist_ok=True)
    for name, more in (("good", ""), ("off", "enabled: false\n"), ("bad", "nonsense: 1\n")):
        text = (
            f"version: 1\nname: {name}\npublisher: p\nlicence: l\nkey: [dimensions.id]\n"
            f"source: {{url: {bench.source.url}/data.json, format: {{type: json}}}}\n"
            f"dimensions: {{id: $.id}}\nmeasures: {{v: $.v}}\n{more}"
        )
        (folder / f"{name}.yaml").write_text(text, "utf-8")
    async with bench.drone():
        status = await collect_once(bench.system, sample=False)
    said = capsys.readouterr().err
    assert status == 1
    assert "bad.yaml is not collected: " in said
    assert "nonsense" in said
    assert "off.yaml is not collected: it is disabled" in said
    assert len(await bench.records("good")) == 1
    for name in ("off", "bad"):
        (folder / f"{name}.yaml").unlink()
    async with bench.drone():
        assert await collect_once(bench.system, sample=False) == 0


# --- rows that are rejected ---------------------------------------------------------------------


async def test_a_footnote_mark_on_a_number_withdraws_nothing(bench: Collecting) -> None:
    await bench.publish(key=KEY, period=PERIOD, max_rejects=2)
    async with bench.drone():
        bench.write("data.json", [day(1), day(2), day(3)])
        await bench.collect()
        bench.write("data.json", [day(1), day(2, "2*")])
        marked = await bench.collect()
        assert (counts(marked), marked.kept, marked.rejects) == (("succeeded", 0, 0, 1), 1, 1)
        assert values(await bench.records()) == {"a 2024-01-01": "1", "a 2024-01-02": "2"}
        # A row whose day cannot be read may be the one of any day.
        bench.write("data.json", [day(1), {"id": "a", "day": "2024-01-02*", "v": 2}])
        unclear = await bench.collect()
        assert (counts(unclear), unclear.withheld) == (("succeeded", 0, 0, 0), 1)
        assert len(await bench.records()) == 2
