"""The commands of ``holdfast record``, ``run`` and ``reject``, on a data directory opened here."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from typer.testing import CliRunner, Result

from holdfast.kernel.cli import CommandLine
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import Database, open_database
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.ids import id_source
from holdfast.kernel.outbox import ClearSealer, Outbox
from holdfast.kernel.principal import Principal, operator
from holdfast.records.cli import _said, record_app
from holdfast.records.http import handlers
from holdfast.records.model import Measure, Record, Reject, Run, RunStatus
from holdfast.records.run_cli import (
    _counted,
    after_failure,
    reject_app,
    remarks,
    run_app,
    show_ended,
)
from holdfast.registry.document import write_document
from holdfast.registry.http import handlers as registry_handlers
from holdfast.registry.service import RegistryService
from tests.support.postgres import run_apart
from tests.unit.records.helpers import OPERATOR, bench_on, profile, record
from tests.unit.registry.profiles import GOOD

ENDED_LATER = Run(
    id="01970000-0000-7000-8000-000000000000", profile="rain", profile_digest="", task="",
    worker="w", fence=2, status=RunStatus.INTERRUPTED, attempts=2, started_at="",
    lease_expires_at="", code="unreachable", reason="nobody answers",
)  # fmt: skip


async def test_a_run_whose_task_is_over_is_shown_as_it_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The coordinator closes a run that no attempt has ended, a moment after its task."""
    answers = [
        ENDED_LATER,
        msgspec.structs.replace(ENDED_LATER, status=RunStatus.FAILED),
    ]

    async def sent(run: Run) -> AsyncIterator[bytes]:
        yield msgspec.json.encode(run)

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=sent(answers.pop(0))))
    async with ApiClient(httpx.AsyncClient(transport=transport, base_url="http://x")) as api:
        why = await show_ended(api, ENDED_LATER.id, quiet=False)
    assert why is not None
    assert (why.kind.value, why.code, why.exit_status) == ("unavailable", "unreachable", 1)
    assert "interrupted" not in capsys.readouterr().out


APPS = {"record": record_app, "run": run_app, "reject": reject_app}
Invoke = Callable[..., Result]


def registry_on(database: Database) -> RegistryService:
    clock = SystemClock()
    return RegistryService(database, Outbox(ClearSealer()), clock, id_source(clock))


@pytest.fixture
def invoke(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Invoke]:
    """Run a command; the database holds two publications and a failed run with a reject."""

    monkeypatch.setenv("COLUMNS", "200")  # whatever the terminal that runs the tests has

    async def filled() -> None:
        async with (
            open_database(sqlite_url, clock=SystemClock()) as database,
            bench_on(database, tmp_path) as bench,
        ):
            await bench.collect([record("CA", "4.1"), record("NV", "-5")])
            bench.clock.advance(60)
            await bench.collect([record("CA", "4.2")], fence=2)
            bad = bench.attempt(fence=3)
            await bad.open()
            await bad.respond()
            rejects = [Reject(response=0, position=7, field="rate", reason="x")]
            await bad.post([record("CA", "9.9")], rejects=rejects)
            await bad.finish()
            await registry_on(database).publish(operator(), write_document(GOOD).encode())

    run_apart(filled)

    @asynccontextmanager
    async def open_here(line: CommandLine) -> AsyncIterator[ApiClient]:
        async def authenticate(_connection: Any) -> Principal:
            return OPERATOR

        async with (
            open_database(sqlite_url, clock=SystemClock()) as database,
            bench_on(database, tmp_path, profile()) as bench,
        ):
            spec = AppSpec(
                role="aggregator",
                version="0",
                handlers=[*handlers(bench.service), *registry_handlers(registry_on(database))],
                authenticate=authenticate,
            )
            # The bench's ids begin anew with each command: events need others.
            bench.service._new_id = id_source(SystemClock())
            async with ApiClient.for_app(create_app(spec)) as api:
                yield api

    (tmp_path / "state").mkdir()
    line = CommandLine(tmp_path, None, "warning", "console", open_here)

    def run(noun: str, *arguments: str) -> Result:
        return CliRunner().invoke(APPS[noun], list(arguments), obj=line)

    with structlog.testing.capture_logs():
        yield run


def told(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_records_are_listed_as_a_table_and_as_json(invoke: Invoke) -> None:
    shown = invoke("record", "list", "--profile", "rates")
    assert shown.exit_code == 0
    assert "4.2 %" in shown.stdout
    assert "NV" not in shown.stdout
    page = told(invoke("record", "list", "--profile", "rates", "--json"))
    assert page["publication"] == 2
    assert page["items"][0]["provenance"]["url"].startswith("https://example.org")
    then = ("--as-of", "2026-01-01T00:00:30Z", "--dimension", "state=NV", "--json")
    past = told(invoke("record", "list", "--profile", "rates", *then))
    assert [item["key"][0] for item in past["items"]] == ["NV"]
    gone = invoke("record", "list", "--profile", "rates", "--withdrawn")
    assert "withdrawn" in gone.stdout
    none = invoke("record", "list", "--profile", "rates", "--dimension", "state=TX")
    assert (none.exit_code, "no records" in none.stderr) == (0, True)
    for words, said in (
        (("--dimension", "region=TX"), "rates has no such dimension\nhint: it has state"),
        (("--dimension", "state"), "it has no value\nhint: write --dimension NAME=VALUE"),
        (("--from", "2025-13-01"), "neither a date nor a UTC time"),
        (("--from", "2026", "--to", "2025-06"), "exchange the two: period_from=2025-06 period_to"),
        (("--from", "2026", "--to", "2026-01-01"), "period_to is the first moment after the range"),
        (("--from", "2026-01-01T01:00:00Z", "--to", "2026"), "not after period_from=2026-01-01T01"),
    ):
        wrong = invoke("record", "list", "--profile", "rates", *words)
        assert (wrong.exit_code, said in wrong.stderr) == (2, True), wrong.stderr
    for bound in ("2025", "2025-01", "2025-01-01"):
        words = ("--from", bound, "--to", "2026", "--json")
        assert told(invoke("record", "list", "--profile", "rates", *words))["items"]


def test_an_unknown_profile_is_told_from_one_of_which_nothing_is_there(invoke: Invoke) -> None:
    kinds = ("csv", "datapackage")
    for words in (
        *(("record", "list"), ("run", "list"), ("reject", "list"), ("run", "list", "--json")),
        *(("record", "export", "--format", kind) for kind in kinds),
    ):
        unknown = invoke(*words, "--profile", "unknown")
        assert unknown.exit_code == 4, words
        assert "cannot find the profile 'unknown'" in unknown.stderr
        assert "holdfast profile list" in unknown.stderr
    assert invoke("reject", "list", "--run", "0" * 8).exit_code == 4
    for words, status, said in (
        (("record", "list"), 4, "published yet\nhint: `holdfast profile run rain` collects it"),
        (("record", "export"), 4, "nothing is published\nhint: `holdfast profile list`"),
        (("run", "list"), 0, "no runs yet: `holdfast profile run rain` starts one"),
        (("run", "list", "--status", "failed"), 0, "no such runs"),
        (("reject", "list"), 0, "no rejects"),
    ):
        known = invoke(*words, "--profile", "rain")
        assert (known.exit_code, said in known.stderr) == (status, True), known.stderr


def test_a_list_shows_the_columns_that_are_asked_for(invoke: Invoke) -> None:
    words = ("record", "list", "--profile", "rates", "--withdrawn")
    shown = invoke(*words, "--columns", "period,rate,state")
    assert shown.stdout.splitlines()[0].split() == ["period", "rate", "state"]
    assert "2025-01" in shown.stdout
    wrong = invoke(*words, "--columns", "period,rain,snow")
    assert wrong.exit_code == 2
    assert "no column rain" in wrong.stderr
    assert "no column snow" in wrong.stderr
    assert "there are record, period" in wrong.stderr
    assert "holdfast profile list" in invoke("record", "list", "--profile", "unknown").stderr


def test_pages_are_followed_by_their_cursor(invoke: Invoke) -> None:
    first = invoke("record", "list", "--profile", "rates", "--withdrawn", "--limit", "1")
    cursor = first.stderr.split("--cursor ")[1].strip()
    words = ("--profile", "rates", "--withdrawn", "--limit", "1", "--cursor", cursor)
    second = invoke("record", "list", *words)
    assert second.exit_code == 0
    assert "--cursor" not in second.stderr


def test_one_record_is_shown_with_its_revisions(invoke: Invoke) -> None:
    listed = told(invoke("record", "list", "--profile", "rates", "--json"))["items"][0]
    shown = invoke("record", "show", listed["id"])
    assert "raw bytes" in shown.stdout, shown.stderr
    history = told(invoke("record", "show", listed["id"], "--json"))
    assert [one["revision"] for one in history["revisions"]] == [1, 2]
    assert invoke("record", "show", "0" * 32).exit_code == 4


@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet", "datapackage"])
def test_exports_go_to_a_file_or_to_standard_output(
    invoke: Invoke, tmp_path: Path, kind: str
) -> None:
    words = ("--profile", "rates", "--format", kind)
    printed = invoke("record", "export", *words)
    assert printed.exit_code == 0, printed.stderr
    assert printed.stdout_bytes
    out = tmp_path / f"rates.{kind}"
    written = invoke("record", "export", *words, "--out", str(out))
    assert out.read_bytes() == printed.stdout_bytes
    if kind == "datapackage":
        assert json.loads(printed.stdout)["name"] == "rates"
    else:
        assert "publication 2" in written.stderr
    assert invoke("record", "export", *words, "--out", "/nowhere/x").exit_code == 2
    assert not list(tmp_path.glob(".*.part"))


def test_an_export_that_cannot_be_written_says_so_and_no_more(
    invoke: Invoke, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in ("nowhere", "file"):
        out = tmp_path / folder / "rates.csv"
        failed = invoke("record", "export", "--profile", "rates", "--out", str(out))
        assert failed.exit_code == 2
        assert f"error: cannot write {out}: " in failed.stderr
        assert "\nhint: name a file in a folder" in failed.stderr
        assert "Traceback" not in failed.stderr
    assert "asynchronous generator" not in caplog.text, "none was left open"


def ended(status: RunStatus, **came: Any) -> Run:
    """A run as it ended, and what came of it."""
    return Run(
        id="019b",
        profile="rates",
        profile_digest="",
        task="",
        worker="",
        fence=1,
        status=status,
        attempts=1,
        started_at="",
        lease_expires_at="",
        **came,
    )


@pytest.mark.parametrize(
    ("code", "rejects", "hint"),
    [
        ("too-many-rejects", 3, "holdfast reject list --profile rates"),
        ("schema-drift", 0, "holdfast run accept 019b"),
        ("shrunk", 2, "holdfast run accept 019b"),
        ("truncated", 0, "holdfast run show 019b"),
        ("guard-refused", 0, "HOLDFAST_COLLECT_ALLOW=HOST:PORT"),
        ("spool-failed", 0, "see that the disk has room"),
        ("of-no-hint", 0, "holdfast profile preview FILE"),
        ("duplicate-keys", 0, "add the field that tells them apart to `key`"),
        ("duplicate-keys", 2, "`duplicates: last`"),
    ],
)
def test_a_failed_run_says_what_to_do_next(code: str, rejects: int, hint: str) -> None:
    assert hint in after_failure(ended(RunStatus.FAILED, code=code, rejects=rejects))


def test_a_published_run_that_withdraws_more_than_came_is_remarked_upon() -> None:
    [line] = remarks(ended(RunStatus.SUCCEEDED, records=2, withdrawn=99_998))
    assert line.startswith("99,998 records are withdrawn, more than came")
    assert remarks(ended(RunStatus.SUCCEEDED, records=100, withdrawn=30)) == []


def test_a_negative_measure_is_exported_as_a_number(invoke: Invoke) -> None:
    words = ("--profile", "rates", "--format", "csv", "--as-of", "2026-01-01T00:00:30Z")
    assert ",-5," in invoke("record", "export", *words).stdout
    assert ",-5," in invoke("record", "export", *words, "--exact").stdout


def test_runs_and_rejects_are_listed(invoke: Invoke) -> None:
    runs = told(invoke("run", "list", "--json"))["items"]
    assert [run["status"] for run in runs] == ["failed", "succeeded", "succeeded"]
    table = invoke("run", "list", "--status", "failed")
    assert "too-many-rejects" in table.stdout
    assert runs[0]["changed"] == 1, "what it had found until it failed"
    [failed] = table.stdout.splitlines()[1:]
    assert failed.split()[4:6] == ["1", "1"], "records and rejects, no changes: it made none"
    assert "changed" not in invoke("run", "show", runs[0]["id"]).stdout
    shown = told(invoke("run", "show", runs[0]["id"], "--json"))
    assert shown["run"]["rejects"] == 1
    assert len(shown["responses"]) == 1
    assert "raw responses" in invoke("run", "show", runs[0]["id"]).stdout
    rejects = told(invoke("reject", "list", "--json"))["items"]
    assert [(one["position"], one["field"]) for one in rejects] == [(7, "rate")]
    assert "rate" in invoke("reject", "list", "--run", runs[0]["id"]).stdout
    assert invoke("run", "list", "--status", "banana").exit_code == 2
    assert invoke("run", "show", runs[0]["id"][::-1]).exit_code == 4


def test_runs_are_compared(invoke: Invoke) -> None:
    runs = json.loads(invoke("run", "list", "--json").stdout)["items"]
    newer, older = runs[1]["id"], runs[2]["id"]
    found = json.loads(invoke("run", "diff", older, newer, "--json").stdout)
    assert (found["new"], found["changed"], found["withdrawn"]) == (0, 1, 1)
    shown = invoke("run", "diff", newer)
    assert "measures.rate" in shown.stdout
    assert "4.1" in shown.stdout
    assert "4.2" in shown.stdout
    assert "0 new, 1 changed, 1 withdrawn" in shown.stderr
    failed = invoke("run", "diff", runs[0]["id"])
    assert failed.exit_code != 0
    assert "nothing of it was published" in failed.stderr


def test_a_record_tells_its_history(invoke: Invoke) -> None:
    listed = json.loads(invoke("record", "list", "--profile", "rates", "--json").stdout)
    shown = invoke("record", "history", listed["items"][0]["id"])
    assert "rate=4.1 % -> 4.2 %" in shown.stdout
    revisions = json.loads(invoke("record", "history", listed["items"][0]["id"], "--json").stdout)
    assert [one["revision"] for one in revisions] == [1, 2]
    named = ("record", "history", "rates", "CA", "2025-01-01")
    assert told(invoke(*named, "--json")) == revisions
    then = told(invoke(*named, "--as-of", revisions[0]["recorded_from"], "--json"))
    assert [(one["revision"], one.get("recorded_to")) for one in then] == [(1, None)]
    then = told(invoke(*named, "--as-of", revisions[1]["recorded_from"], "--json"))
    assert then == revisions, "its end was known as the next one came"
    for words, status, said in (
        (("rates", "CA"), 2, "2 parts\nhint: the key is dimensions.state, period"),
        (("nothing", "TX"), 4, "cannot find the profile 'nothing'"),
        (("rates", *"1" * 65), 2, "key"),
    ):
        wrong = invoke("record", "history", *words)
        assert (wrong.exit_code, said in wrong.stderr) == (status, True), wrong.stderr


@pytest.mark.parametrize(("width", "left_out"), [(80, "run, until"), (100, "run")])
def test_a_history_breaks_no_time_at_the_width_of_a_terminal(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, width: int, left_out: str
) -> None:
    listed = json.loads(invoke("record", "list", "--profile", "rates", "--json").stdout)
    identity = listed["items"][0]["id"]
    monkeypatch.setenv("COLUMNS", str(width))
    shown = invoke("record", "history", identity)
    assert max(map(len, shown.stdout.splitlines())) <= width
    assert f"left out to fit {width} characters: {left_out};" in shown.stderr
    for revision in told(invoke("record", "history", identity, "--json")):
        assert revision["recorded_from"] in shown.stdout


def test_runs_at_100_columns_tell_what_became_of_them(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    runs = invoke("run", "list").stdout
    assert {"new", "rejects", "reason"} <= set(runs.split("\n")[0].split())


def test_a_history_says_nothing_where_there_is_no_value() -> None:
    def revision(number: int, note: str | None, value: str | None) -> Record:
        return Record(
            id="a", profile="p", key=["x"], revision=number, withdrawn=False, recorded_from="",
            recorded_to=None, dimensions={"id": "x"}, measures={"v": Measure(value=value)},
            attributes={"note": note}, period=None, run="r",
        )  # fmt: skip

    first, second = revision(1, None, "5"), revision(2, "late", None)
    assert _said(first, None) == ["id=x", "v=5"]
    assert _said(second, first) == ["v=5 -> (none)", "note=(none) -> late"]
    assert sorted(_said(first, second)) == ["note=late -> (none)", "v=(none) -> 5"]


def test_a_run_that_is_unchanged_has_its_records_as_before() -> None:
    unchanged = msgspec.structs.replace(ENDED_LATER, status=RunStatus.UNCHANGED)
    assert _counted(unchanged, ("records", "new")) == {"records": "as before", "new": "0"}
    assert _counted(ENDED_LATER, ("records", "new")) == {"records": "0", "new": "0"}


def test_what_a_run_left_alone_is_told_with_where_to_look() -> None:
    done = msgspec.structs.replace(ENDED_LATER, status=RunStatus.SUCCEEDED, kept=1, withheld=3)
    kept, withheld = remarks(done)
    assert kept.startswith("1 record stays what it was: its row was rejected")
    assert withheld.startswith("nothing is withdrawn, though known records did not come (3)")
    assert f"`holdfast reject list --run {done.id}`" in kept
    assert f"`holdfast reject list --profile {done.profile}` marks them" in withheld
    # Of a run that brought the same bytes the rows were rejected in an earlier one.
    same = msgspec.structs.replace(done, status=RunStatus.UNCHANGED)
    assert remarks(same) == [withheld]
    assert "2 records stay what they were" in remarks(msgspec.structs.replace(done, kept=2))[0]
