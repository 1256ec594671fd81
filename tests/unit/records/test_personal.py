"""Records about people: sealed wherever they lie, opened for some, gone when erased."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select, text

from holdfast.kernel import merkle
from holdfast.kernel.database import Database, tables_of_tenants
from holdfast.kernel.errors import Conflict, Corrupt, Denied, Invalid, NotFound
from holdfast.kernel.ids import TenantId
from holdfast.kernel.outbox import BEGINNING, Entry
from holdfast.kernel.principal import Permission, operator
from holdfast.keyring.errors import SubjectUnknown
from holdfast.keyring.model import EraseRequest, Erasure
from holdfast.keyring.subjects import SubjectsService
from holdfast.records import store
from holdfast.records.columns import FREQUENCIES_KEY, SEALED_KEY
from holdfast.records.model import (
    MappedRecord,
    Measure,
    Record,
    RecordFilter,
    Reject,
    RunClose,
)
from holdfast.records.publishing import batch_leaf
from holdfast.records.signed import SignedBatch
from tests.support import searching
from tests.support.searching import ServerFiles
from tests.unit.records.helpers import OPERATOR, Bench, bench_on, profile

SOMEBODY = replace(OPERATOR, permissions=OPERATOR.permissions - {Permission.RECORDS_PERSONAL})
"""May read records and export them, and not see what is people's own."""

CLINIC = profile(
    "clinic",
    key=["dimensions.patient", "dimensions.visit"],
    dimensions={"patient": "$.patient", "visit": "$.visit", "ward": "$.ward"},
    measures={"weight": {"path": "$.weight", "unit": "kg"}, "beds": {"path": "$.beds"}},
    attributes={"note": "$.note"},
    period=None,
    subject="dimensions.patient",
    personal=["measures.weight", "attributes.note"],
    max_rejects=5,
)
JANE, JOE = "jane.doe@example.org", "joe.bloggs@example.org"
NOTE = "allergic-to-{}-and-cats"


def visit(who: str, number: int, weight: str = "61.5", **places: int) -> MappedRecord:
    return MappedRecord(
        response=places.get("response", 0),
        position=places.get("position", number),
        key=[who, str(number)],
        dimensions={"patient": who, "visit": str(number), "ward": "north"},
        measures={"weight": Measure(value=weight, unit="kg"), "beds": Measure(value="4")},
        attributes={
            "note": NOTE.format(who),
            "weight_missing": f"n/a {who}",
            "weight_mark": f"mark {who}",
        },
    )


@pytest.fixture
async def bench(
    request: pytest.FixtureRequest, database_url: str, database: Database, tmp_path: Path
) -> AsyncIterator[Bench]:
    async with bench_on(database, tmp_path, CLINIC) as made:
        if database.dialect == "postgresql":
            name = urlsplit(database_url).path.removeprefix("/")
            made.server = await ServerFiles.of(request.getfixturevalue("postgres"), name)
        yield made


@pytest.fixture
def subjects(bench: Bench, tmp_path: Path) -> SubjectsService:
    handles = bench.service._handles
    made = SubjectsService(
        handles.keyring,
        bench.db,
        handles.outbox,
        bench.clock,
        bench.new_id,
        lists=tmp_path,
        backup_days=7,
    )
    made.add_eraser(bench.service)
    return made


async def collect(bench: Bench, *pages: list[MappedRecord]) -> str:
    """A complete run, each page a raw response and a batch of its own; the run's id."""
    attempt = bench.attempt("clinic")
    await attempt.open()
    for number, page in enumerate(pages):
        body = repr([(one.dimensions, one.attributes) for one in page]).encode()
        await attempt.respond(number, body)
        await attempt.post(page, sequence=number)
    run = await attempt.finish(batches=len(pages))
    assert run.status == "succeeded", run.reason
    return attempt.run


async def read(bench: Bench, who=OPERATOR) -> list[Record]:
    page = await bench.service.records(who, RecordFilter(profile="clinic"))
    return page.items


async def erase(subjects: SubjectsService, who: str, *, even_unknown: bool = False) -> Erasure:
    wanted = EraseRequest(subject=who, reason="asked", even_unknown=even_unknown)
    return await subjects.erase(OPERATOR, wanted)


async def places_of(bench: Bench, folder: Path, needle: str) -> list[str]:
    """Every file, unpacked where it is packed, every row of every table that has it, and every
    file of the server's: pages with rows of before, and its write-ahead log."""
    found, wanted = searching.places_of(folder, needle), needle.encode()
    if bench.server is not None:
        found += await bench.server.places_of(needle)

    def look(conn) -> list[str]:
        hits = []
        for table in tables_of_tenants():
            for row in conn.execute(text(f"SELECT * FROM {table.name} WHERE tenant IS NOT NULL")):
                for value in row:
                    raw = value if isinstance(value, bytes | memoryview) else str(value).encode()
                    if wanted in bytes(raw):
                        hits.append(table.name)
        return hits

    return found + await bench.db.administer(look)


async def events(bench: Bench, kind: str) -> list[Entry]:
    outbox = bench.service._handles.outbox
    entries = await bench.db.read(
        OPERATOR, lambda conn: outbox.ready(conn, OPERATOR, BEGINNING, 1000)
    )
    return [entry for entry in entries if entry.event.type == kind]


async def all_leaves_verify(bench: Bench) -> int:
    """Rebuild every batch's tree from the rows and compare with the roots in the evidence."""
    service = bench.service
    keys = service._keys(OPERATOR, "clinic")

    def unit(conn):
        batches = conn.execute(
            select(store.batches).where(store.batches.c.tenant == OPERATOR.tenant)
        ).all()
        runs = {
            row.run: row
            for row in conn.execute(
                select(store.runs).where(store.runs.c.tenant == OPERATOR.tenant)
            )
        }
        rows = {
            row.sequence: row
            for row in conn.execute(
                select(store.revisions).where(store.revisions.c.tenant == OPERATOR.tenant)
            )
        }
        return batches, runs, rows

    batches, runs, rows = await bench.db.read(OPERATOR, unit)
    leaves: dict[str, list[bytes]] = {}
    for batch in sorted(batches, key=lambda b: (b.run, b.kind, b.sequence)):
        digest = runs[batch.run].profile_digest
        signed = SignedBatch(batch)
        hashes = [
            signed.leaf_hash(keys, batch.run, digest, rows[number])
            for number in range(batch.first_row, batch.first_row + batch.rows)
        ]
        assert merkle.root(hashes).hex() == batch.root
        leaves.setdefault(batch.run, []).append(merkle.leaf_hash(batch_leaf(batch)))
    for entry in await events(bench, "records.ingested"):
        payload = entry.event.payload
        assert merkle.root(leaves[payload["run"]]).hex() == payload["root"]
    return len(leaves)


# --- at rest ------------------------------------------------------------------------------------


async def test_nothing_of_a_person_lies_anywhere_in_clear(bench: Bench, tmp_path: Path) -> None:
    await collect(bench, [visit(JANE, 1), visit(JOE, 2)])
    await bench.service.projection(OPERATOR, "clinic")
    for needle in (JANE, JOE, NOTE.format(JANE), "61.5", "jane"):
        assert await places_of(bench, tmp_path, needle) == [], needle
    clear = await places_of(bench, tmp_path, "north")
    assert any(place.endswith(".parquet") for place in clear), "the search finds what is in clear"
    if bench.server is not None:
        assert "pg_wal" in clear
        assert any(place.startswith("base/") for place in clear)


async def test_they_are_read_back_whole_by_those_who_may(bench: Bench) -> None:
    await collect(bench, [visit(JANE, 1), visit(JOE, 2)])
    first, second = await read(bench)
    given = visit(JANE, 1)
    assert (first.personal, second.personal) == ("opened", "opened")
    assert first.key == given.key
    assert first.dimensions == given.dimensions
    assert first.measures == given.measures
    assert first.attributes == dict(sorted(given.attributes.items()))
    (event,) = await events(bench, "records.opened")
    assert event.event.payload == {"occasion": "list", "profile": "clinic", "records": 2}
    history = await bench.service.record(OPERATOR, first.id)
    assert history.record.dimensions["patient"] == JANE
    assert history.revisions[0].personal == "opened"


async def test_others_see_that_something_is_sealed_and_no_more(bench: Bench) -> None:
    await collect(bench, [visit(JANE, 1)])
    (record,) = await read(bench, SOMEBODY)
    assert record.personal == "sealed"
    assert record.key == [None, None]
    assert record.dimensions == {"visit": "1", "ward": "north"}
    assert record.measures == {"beds": Measure(value="4")}
    assert record.attributes == {}
    assert await events(bench, "records.opened") == []


async def test_sealed_fields_cannot_be_searched_by(bench: Bench) -> None:
    await collect(bench, [visit(JANE, 1)])
    with pytest.raises(Invalid) as raised:
        await bench.service.records(
            OPERATOR, RecordFilter(profile="clinic", dimensions={"patient": JANE})
        )
    assert raised.value.code == "field-sealed"
    page = await bench.service.records(
        OPERATOR, RecordFilter(profile="clinic", dimensions={"ward": "north"})
    )
    assert [one.dimensions["patient"] for one in page.items] == [JANE]


async def test_a_record_is_found_by_a_key_with_a_person_in_it_by_those_who_may_see_it(
    bench: Bench, subjects: SubjectsService
) -> None:
    """Everybody else is told what is told of a key that there is not."""
    await collect(bench, [visit(JANE, 1), visit(JOE, 2)])
    found = await bench.service.record_by_key(OPERATOR, "clinic", [JANE, "1"])
    assert (found.record.key, found.record.personal) == ([JANE, "1"], "opened")
    told = []
    for who, key in ((SOMEBODY, [JANE, "1"]), (SOMEBODY, ["nobody", "1"]), (OPERATOR, [JANE, "2"])):
        with pytest.raises(NotFound) as refused:
            await bench.service.record_by_key(who, "clinic", key)
        told.append((str(refused.value), refused.value.hint))
    assert len(set(told)) == 1
    assert "whom you may not see" in told[0][1]
    with pytest.raises(Invalid, match="1 of its key's 2 parts"):
        await bench.service.record_by_key(OPERATOR, "clinic", [JANE])

    async def wrong(as_of: str) -> set[tuple[str, str, str | None]]:
        """What is told when the moment makes no sense, whoever asks and whomever for."""
        told = set()
        for who, name in ((SOMEBODY, JANE), (SOMEBODY, "nobody"), (OPERATOR, JANE)):
            with pytest.raises(Invalid) as refused:
                await bench.service.record_by_key(who, "clinic", [name, "1"], as_of=as_of)
            told.add((refused.value.code, str(refused.value), refused.value.hint))
        return told

    assert len(await wrong("garbage")) == 1
    ((code, _, _),) = ahead = await wrong("2999-01-01T00:00:00Z")
    assert code == "moment-ahead"
    await erase(subjects, JANE)
    assert await wrong("2999-01-01T00:00:00Z") == ahead
    with pytest.raises(NotFound) as gone:
        await bench.service.record_by_key(OPERATOR, "clinic", [JANE, "1"])
    assert (str(gone.value), gone.value.hint) == told[0]
    # What is withdrawn has no personal part of its own; what it was before, still has.
    await collect(bench, [visit("joan@example.org", 3)])
    found = await bench.service.record_by_key(OPERATOR, "clinic", [JOE, "2"])
    assert [one.withdrawn for one in found.revisions] == [False, True]


async def test_a_sealed_part_opens_in_its_own_row_only(bench: Bench) -> None:
    await collect(bench, [visit(JANE, 1), visit(JANE, 2)])

    def swap(conn) -> None:
        rows = conn.execute(
            text("SELECT sequence, sealed FROM record_revisions WHERE tenant = 'default'")
        ).all()
        for mine, other in ((0, 1), (1, 0)):
            conn.execute(
                text(
                    "UPDATE record_revisions SET sealed = :sealed"
                    " WHERE tenant = 'default' AND sequence = :sequence"
                ),
                {"sealed": rows[other].sealed, "sequence": rows[mine].sequence},
            )

    await bench.db.write(OPERATOR, swap)
    with pytest.raises(Corrupt):
        await read(bench)


async def test_a_change_of_a_sealed_field_is_a_change(bench: Bench) -> None:
    await collect(bench, [visit(JANE, 1), visit(JOE, 2)])
    attempt = bench.attempt("clinic")
    await attempt.open()
    await attempt.respond()
    receipt = await attempt.post([visit(JANE, 1, "62.0"), visit(JOE, 2)])
    assert (receipt.changed, receipt.unchanged, receipt.new) == (1, 1, 0)
    again = await attempt.post([visit(JANE, 1, "62.0"), visit(JOE, 2)])
    assert again.repeated
    await attempt.finish()
    assert [one.measures["weight"].value for one in await read(bench)] == ["61.5", "62.0"]
    assert await all_leaves_verify(bench) == 2


async def test_of_what_a_worker_says_of_a_failure_the_value_is_withheld(
    bench: Bench, tmp_path: Path
) -> None:
    attempt = bench.attempt("clinic")
    await attempt.open()
    await attempt.respond()
    reject = Reject(
        response=0,
        position=3,
        field="measures.weight",
        reason=f"{JANE} is no number",
        excerpt=JANE,
    )
    known = msgspec.structs.replace(
        reject, position=4, key=[JANE, "4"], reason=f"{JANE!r} is not a number{JANE}"
    )
    await attempt.post([visit(JOE, 1)], rejects=[reject, known])
    await attempt.finish()
    kept, said = (await bench.service.rejects(OPERATOR)).items
    assert (kept.position, kept.field, kept.excerpt) == (3, "measures.weight", "")
    assert kept.reason.startswith("withheld")
    # A sentence of ours tells what is wrong, without what it is wrong with.
    assert (said.position, said.field, said.excerpt) == (4, "measures.weight", "")
    assert said.reason.startswith("is not a number")
    assert "withheld" in said.reason
    assert (kept.unkeyed, said.unkeyed) == (True, False)
    assert await places_of(bench, tmp_path, JANE) == []


# --- exports ------------------------------------------------------------------------------------


async def exported(bench: Bench, kind: str, who=OPERATOR) -> tuple[str, bytes]:
    found = await bench.service.export(who, "clinic", format=kind)
    return found.personal, b"".join([chunk async for chunk in found.chunks])


async def test_exports_say_what_they_show(bench: Bench, tmp_path: Path) -> None:
    await collect(bench, [visit(JANE, 1)])
    for kind in ("csv", "ndjson"):
        said, data = await exported(bench, kind)
        assert (said, JANE.encode() in data) == ("opened", True)
        said, data = await exported(bench, kind, SOMEBODY)
        assert (said, JANE.encode() in data) == ("sealed", False)
    (row,) = csv.DictReader(io.StringIO((await exported(bench, "csv"))[1].decode()))
    assert (row["dim_patient"], row["weight"], row["dim_ward"]) == (JANE, "61.5", "north")
    said, data = await exported(bench, "parquet")
    (row,) = pq.read_table(io.BytesIO(data)).to_pylist()
    assert (said, row["personal"], row["dim_ward"]) == ("sealed", "sealed", "north")
    assert row["sealed"]
    assert row["subject"] == await subject_token(bench, JANE)
    kinds = {event.event.payload["personal"] for event in await events(bench, "records.exported")}
    assert kinds == {"opened", "sealed"}


async def raw(bench: Bench, run: str, who=OPERATOR) -> bytes:
    found = await bench.service.response_body(who, run, 0)
    return b"".join([chunk async for chunk in found.chunks])


async def test_raw_bytes_are_for_those_who_may_see_what_is_people_s_own(bench: Bench) -> None:
    run = await collect(bench, [visit(JANE, 1)])
    with pytest.raises(Denied, match="records:personal is missing") as refused:
        await raw(bench, run, SOMEBODY)
    assert refused.value.code == "permission-missing"
    assert await events(bench, "response.downloaded") == []
    assert JANE.encode() in await raw(bench, run)
    (event,) = await events(bench, "response.downloaded")
    assert (event.event.stream, event.event.payload["run"]) == ("profile/clinic", run)
    assert (event.event.payload["response"], event.event.payload["personal"]) == (0, "opened")


async def test_raw_bytes_from_before_the_marks_and_from_after_them_are_theirs_too(
    database: Database, tmp_path: Path
) -> None:
    lenient = msgspec.structs.replace(CLINIC.expect, drift="report")
    clinic = msgspec.structs.replace(CLINIC, expect=lenient)
    plain = msgspec.structs.replace(clinic, subject="", personal=[])
    async with bench_on(database, tmp_path, plain) as bench:
        before = await collect(bench, [visit(JANE, 1)])
        assert JANE.encode() in await raw(bench, before, SOMEBODY)
        (event,) = await events(bench, "response.downloaded")
        assert event.event.payload["personal"] == "none"
        bench.profiles.add(clinic)
        with pytest.raises(Denied):
            await raw(bench, before, SOMEBODY)
        marked = await collect(bench, [visit(JANE, 2)])
        bench.profiles.add(plain)
        with pytest.raises(Denied):
            await raw(bench, marked, SOMEBODY)
        assert JANE.encode() in await raw(bench, before, SOMEBODY)


async def test_no_run_is_opened_under_a_version_that_marks_less_than_the_newest(
    bench: Bench,
) -> None:
    plain = bench.profiles.add(msgspec.structs.replace(CLINIC, subject="", personal=[]))
    fewer = bench.profiles.add(msgspec.structs.replace(CLINIC, personal=["measures.weight"]))
    newest = bench.profiles.add(CLINIC)
    for version, lacks in ((plain, "dimensions.patient"), (fewer, "attributes.note")):
        with pytest.raises(Conflict, match=lacks) as refused:
            await bench.attempt("clinic", digest=version.digest).open()
        assert refused.value.code == "marks-lacking"
    await bench.attempt("clinic", digest=newest.digest).open()


async def subject_token(bench: Bench, who: str) -> str:
    return bench.service._handles.keyring.subject_token("default", who)


# --- erasure ------------------------------------------------------------------------------------


SEALED = ["dim_patient", "weight", "weight__double", "weight__unit", "weight__multiplier"]
SEALED += ["attr_note", "attr_weight_mark", "attr_weight_missing"]


async def test_a_sealed_field_has_no_column_that_could_be_taken_for_null(
    bench: Bench, subjects: SubjectsService
) -> None:
    await collect(bench, [visit(JANE, 1), visit(JOE, 1)])
    await erase(subjects, JANE)
    _, data = await exported(bench, "parquet")
    table = pq.read_table(io.BytesIO(data))
    assert not {*SEALED} & {*table.column_names}
    assert json.loads(table.schema.metadata[SEALED_KEY.encode()]) == SEALED
    assert sorted(table["personal"].to_pylist()) == ["erased", "sealed"]

    without_doubles = [name for name in SEALED if name != "weight__double"]
    for who, became, lacking in (
        (OPERATOR, ["erased", "opened"], None),
        (SOMEBODY, ["erased", "sealed"], without_doubles),
    ):
        said = (await exported(bench, "csv", who))[1].decode()
        rows = list(csv.DictReader(io.StringIO(said)))
        assert sorted(row["personal"] for row in rows) == became
        package = await bench.service.data_package(who, "clinic")
        told, packed = package["resources"]
        assert [field["name"] for field in told["schema"]["fields"]] == list(rows[0])
        assert told.get("holdfast:sealed") == lacking
        assert packed["holdfast:sealed"] == SEALED
        names = {field["name"] for field in packed["schema"]["fields"]}
        assert names == {*table.column_names}
        lines = (await exported(bench, "ndjson", who))[1].splitlines()
        assert sorted(json.loads(line)["personal"] for line in lines) == became


async def test_erasing_one_leaves_the_others_and_every_proof(
    bench: Bench, subjects: SubjectsService, tmp_path: Path
) -> None:
    run = await collect(bench, [visit(JANE, 1)], [visit(JOE, 2, response=1)])
    await collect(
        bench, [visit(JANE, 1, "62.0")], [visit(JOE, 2, response=1), visit(JANE, 3, response=1)]
    )
    await bench.service.projection(OPERATOR, "clinic")
    kept = bench.service._handles.keyring.store.transact(
        lambda rows: rows.all("SELECT wrapped FROM keyring_keys WHERE kind = 'subject'")
    )
    assert len(kept) == 2
    done = await erase(subjects, JANE)
    assert (done.state, done.keys) == ("done", 1)

    records = {one.dimensions["visit"]: one for one in await read(bench)}
    assert {number: one.personal for number, one in records.items()} == {
        "1": "erased",
        "2": "opened",
        "3": "erased",
    }
    assert records["2"].dimensions["patient"] == JOE
    assert "patient" not in records["1"].dimensions
    assert await all_leaves_verify(bench) == 2
    for needle in (JANE, NOTE.format(JANE)):
        assert await places_of(bench, tmp_path, needle) == []

    with pytest.raises(NotFound) as raised:
        await bench.service.response_body(OPERATOR, run, 0)
    assert raised.value.code == "response-erased"
    other = await bench.service.response_body(OPERATOR, run, 1)
    assert JOE.encode() in b"".join([chunk async for chunk in other.chunks])
    _, data = await exported(bench, "parquet")
    rows = pq.read_table(io.BytesIO(data)).to_pylist()
    assert sorted(bool(row["sealed"]) for row in rows) == [False, False, True]


async def test_a_response_of_records_that_had_not_changed_is_destroyed_too(
    bench: Bench, subjects: SubjectsService
) -> None:
    await collect(bench, [visit(JANE, 1)])
    attempt = bench.attempt("clinic")
    await attempt.open()
    await attempt.respond(0, b"another page with jane on it")
    receipt = await attempt.post([visit(JANE, 1)])
    assert receipt.unchanged == 1
    await attempt.finish()
    await erase(subjects, JANE)
    with pytest.raises(NotFound):
        await bench.service.response_body(OPERATOR, attempt.run, 0)


async def test_responses_of_runs_that_failed_are_destroyed_because_nobody_knows_who_is_in_them(
    bench: Bench, subjects: SubjectsService
) -> None:
    good = await collect(bench, [visit(JOE, 1)])
    attempt = bench.attempt("clinic", fence=2)
    await attempt.open()
    await attempt.respond(0, b"who knows who is on this page")
    await attempt.finish("failed", code="x", reason="y")
    with pytest.raises(SubjectUnknown):
        await erase(subjects, JANE)
    assert await bench.service.response_body(OPERATOR, attempt.run, 0)
    await erase(subjects, JANE, even_unknown=True)
    with pytest.raises(NotFound):
        await bench.service.response_body(OPERATOR, attempt.run, 0)
    body = await bench.service.response_body(OPERATOR, good, 0)
    assert [chunk async for chunk in body.chunks]


async def gone(bench: Bench, run: str) -> bool:
    """Whether the first raw response of the run was destroyed."""
    with contextlib.suppress(NotFound):
        await raw(bench, run)
        return False
    return True


@pytest.mark.parametrize("outcome", ["failed", "interrupted", "complete"])
async def test_pages_of_a_run_that_is_under_way_do_not_outlive_an_erasure(
    bench: Bench, subjects: SubjectsService, outcome: str
) -> None:
    """No batch has told who is in them, and an erasure that is done waits for nobody."""
    await collect(bench, [visit(JANE, 1), visit(JOE, 2)])
    attempt = bench.attempt("clinic", fence=2)
    await attempt.open()
    await attempt.respond(0, f"fetched before: {JANE}".encode())
    if outcome == "interrupted":
        await attempt.finish("interrupted", code="x", reason="y")
    assert (await erase(subjects, JANE)).state == "done"
    assert await gone(bench, attempt.run)
    # Whoever goes on with the run finds nothing to go on from, and fetches anew.
    plan = await bench.service.plan(OPERATOR, attempt.grant, attempt.run)
    assert plan.kept == 0
    if outcome == "complete":
        await attempt.post([visit(JANE, 1), visit(JOE, 2)])
    ended = await attempt.finish(outcome)
    assert ended.status == ("succeeded" if outcome == "complete" else outcome)
    assert await gone(bench, attempt.run)


@pytest.mark.parametrize("outcome", ["failed", "refused", "closed"])
async def test_what_a_run_that_fails_has_fetched_after_an_erasure_is_not_kept(
    bench: Bench, subjects: SubjectsService, outcome: str
) -> None:
    """A source may go on naming them, and nobody can tell. Before anybody is erased it is kept."""

    async def fails(fence: int) -> str:
        attempt = bench.attempt("clinic", fence=fence)
        await attempt.open()
        await attempt.respond(0, f"a page of attempt {fence}: {JANE}".encode())
        if outcome == "closed":
            request = RunClose(run=attempt.run, fence=fence, outcome="failed", code="x", reason="y",
                               task=attempt.claim.task, profile="clinic",
                               profile_digest=attempt.claim.digest)  # fmt: skip
            await bench.service.close(OPERATOR, request)
        elif outcome == "refused":
            assert (await attempt.finish(batches=3)).status == "failed"
        else:
            await attempt.finish(outcome, code="x", reason="y")
        return attempt.run

    good = await collect(bench, [visit(JANE, 1)], [visit(JOE, 2, response=1)])
    before = await fails(2)
    assert not await gone(bench, before)
    await erase(subjects, JANE)
    assert await gone(bench, before)
    assert await gone(bench, await fails(3))
    # Of what became records it is known who is in it: the same bytes are another run's, too.
    attempt = bench.attempt("clinic", fence=4)
    await attempt.open()
    await attempt.respond(0, repr([(visit(JOE, 2).dimensions, visit(JOE, 2).attributes)]).encode())
    await attempt.finish("failed", code="x", reason="y")
    body = await bench.service.response_body(OPERATOR, good, 1)
    assert [chunk async for chunk in body.chunks]


async def test_what_an_earlier_attempt_has_fetched_after_an_erasure_goes_when_its_run_ends(
    bench: Bench, subjects: SubjectsService
) -> None:
    await collect(bench, [visit(JANE, 1), visit(JOE, 2)])
    await erase(subjects, JANE)
    first = bench.attempt("clinic", fence=2)
    await first.open()
    await first.respond(0, f"who knows: {JANE}".encode())
    second = bench.attempt("clinic", fence=3, run=first.run)
    await second.open()
    await second.respond(0, b"[]")
    await second.post([visit(JOE, 2)])
    assert (await second.finish()).status == "succeeded"
    assert not await gone(bench, first.run)

    def kept(conn) -> list[str]:
        table = store.responses
        mine = store.of_key(table, "default", run=first.run, fence=2)
        return list(conn.execute(select(table.c.object).where(mine)).scalars())

    assert await bench.db.read(OPERATOR, kept) == [""]


async def test_who_was_ever_in_a_record_is_known_and_nobody_else(
    bench: Bench, subjects: SubjectsService
) -> None:
    await collect(bench, [visit(JANE, 1)])
    jane = await subjects.token(OPERATOR, JANE)
    joe = await subjects.token(OPERATOR, JOE)
    assert await bench.service.knows(OPERATOR, jane)
    assert not await bench.service.knows(OPERATOR, joe)
    assert not await bench.service.knows(operator(TenantId("other")), jane)
    with pytest.raises(SubjectUnknown):
        await erase(subjects, JOE)
    await erase(subjects, JANE)
    assert (await erase(subjects, JANE)).repeated


async def test_a_source_that_goes_on_naming_somebody_brings_nobody_back(
    bench: Bench, subjects: SubjectsService, tmp_path: Path
) -> None:
    await collect(bench, [visit(JANE, 1), visit(JOE, 2)])
    await erase(subjects, JANE)
    attempt = bench.attempt("clinic")
    await attempt.open()
    await attempt.respond(0, f"still naming {JANE}".encode())
    receipt = await attempt.post([visit(JANE, 1, "70.0"), visit(JOE, 2)])
    assert (receipt.unchanged, receipt.changed) == (2, 0)
    assert (await attempt.finish()).status == "succeeded"
    with pytest.raises(NotFound):
        await bench.service.response_body(OPERATOR, attempt.run, 0)
    attempt = bench.attempt("clinic")
    await attempt.open()
    await attempt.respond(0, b"[]")
    await attempt.post([visit(JANE, 1), visit(JANE, 9), visit(JOE, 2)])
    await attempt.finish()
    assert await places_of(bench, tmp_path, JANE) == []
    assert await all_leaves_verify(bench) == 3


async def test_a_withdrawal_repeats_nothing_that_is_somebodys_own(bench: Bench) -> None:
    await collect(bench, [visit(JANE, 1), visit(JOE, 2)])
    await collect(bench, [visit(JOE, 2)])
    page = await bench.service.records(OPERATOR, RecordFilter(profile="clinic", withdrawn=True))
    gone = next(one for one in page.items if one.withdrawn)
    assert (gone.personal, "patient" in gone.dimensions) == ("omitted", False)
    assert await all_leaves_verify(bench) == 2


async def test_an_erasure_that_was_cut_short_is_finished_by_the_next_process(
    bench: Bench, subjects: SubjectsService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await collect(bench, [visit(JANE, 1)])

    async def dies(*_: object) -> int:
        raise KeyboardInterrupt

    for step in ("_forget_rows", "_destroy_responses", "_drop_projections"):
        with monkeypatch.context() as patched:
            patched.setattr(bench.service, step, dies)
            with pytest.raises(KeyboardInterrupt):
                await erase(subjects, JANE)
        assert (await read(bench))[0].personal == "erased"
    assert await subjects.resume(["default"]) == 1
    with pytest.raises(NotFound):
        await bench.service.response_body(OPERATOR, run, 0)
    assert [event.event.type for event in await events(bench, "subject.erased")]


async def test_the_digest_of_a_batch_tells_nothing_about_it(bench: Bench) -> None:
    attempt = bench.attempt("clinic")
    await attempt.open()
    await attempt.respond()
    receipt = await attempt.post([visit(JANE, 1)])
    assert receipt.digest.startswith("hmac-sha256:")


SPELT = {"the year 76": "1976", "winter": "1976-S2", "TQ": "1976-Q3", "wk": "1976-W31"}
SPELT |= {"jul": "1976-07", "4th": "1976-07-04"}


@pytest.mark.parametrize(
    ("told", "period"),
    [
        (["M"], {}),
        (["A", "M"], {"codings": {r"(?P<year>\d{4})-M13": "A"}}),
        (["A", "D", "H", "M", "Q", "S", "W"], {"frequency": "H", "spellings": SPELT}),
    ],
)
async def test_of_personal_periods_a_table_tells_how_long_they_can_be_and_nothing_else(
    sqlite_database: Database, tmp_path: Path, told: list[str], period: dict[str, object]
) -> None:
    marked = profile(
        "clinic",
        key=CLINIC.key,
        dimensions=CLINIC.dimensions,
        measures=CLINIC.measures,
        period={"path": "$.month", "frequency": "M", **period},
        subject="dimensions.patient",
        personal=["period"],
    )
    async with bench_on(sqlite_database, tmp_path, marked) as bench:
        await collect(bench, [visit(JANE, 1)])
        table = pq.read_table((await bench.service.projection(OPERATOR, "clinic")).path)
    assert not {name for name in table.column_names if name.startswith("period_")}
    assert json.loads(table.schema.metadata[FREQUENCIES_KEY.encode()]) == told
