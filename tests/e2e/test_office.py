"""What an office meets in a week, as a person at the command line sees it: doubled rows, passwords,
circles, robots.txt, corrected and withdrawn rows, a column renamed and a unit that jumped.

The publisher is a small server of this test's own, whose pages change as the test goes on.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from holdfast.records.model import MappedRecord
from tests.integration.test_guide_sources import flat, recipes
from tests.support.program import Program, run_command, started, wait_until
from tests.support.workbooks import open_document, workbook

pytestmark = pytest.mark.timeout(1200)

PASSWORD = "correct horse"


class Publisher(ThreadingHTTPServer):
    """Answers with whatever ``pages`` holds; what lies under ``/closed`` wants a password."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, str | bytes] = {}
        self.asked: list[str] = []

    @property
    def host_port(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Publisher
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        pair = base64.b64encode(f"office:{PASSWORD}".encode()).decode()
        if self.path.startswith("/closed") and self.headers["Authorization"] != f"Basic {pair}":
            self._answer(401, b"")
            return
        body = self.server.pages.get(self.path)
        sent = body if isinstance(body, bytes) else (body or "").encode()
        self._answer(404 if body is None else 200, sent)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


class Office:
    """The program, its publisher, and the command line."""

    def __init__(self, root: Path, publisher: Publisher, strict: Publisher) -> None:
        self.root, self.publisher, self.strict = root, publisher, strict
        self.program: Program | None = None

    def says(self, *words: str, status: int = 0) -> str:
        """What a command prints on standard output; its exit status must be ``status``."""
        wide = {"COLUMNS": "160"}  # so that no cell is wrapped
        done = run_command(*words, "--data-dir", str(self.root / "data"), environment=wide)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        self.said = done.stderr
        return done.stdout

    def publish(self, name: str, path: str, form: dict[str, Any], **parts: Any) -> None:
        url = path if "://" in path else f"http://{self.publisher.host_port}{path}"
        source = {"url": url, "format": form}
        source |= parts.pop("source", {})
        document = {
            "version": 1, "name": name, "publisher": "p", "licence": "l", "source": source,
            "key": ["dimensions.place", "period"], "dimensions": {"place": "place"},
            "measures": {"sales": {"path": "sales", "unit": "EUR"}},
            "period": {"path": "month", "frequency": "M"}, **parts,
        }  # fmt: skip
        assert self.program is not None
        answer = self.program.client.post(
            "/v1/profiles",
            content=yaml.safe_dump(document),
            headers={"Content-Type": "application/yaml"},
        )
        assert answer.status_code < 300, answer.text

    def run(self, name: str) -> dict[str, Any]:
        """Collect it now; the run it came to."""
        program = self.program
        assert program is not None
        answer = program.client.post("/v1/tasks/collect", json={"profile": name})
        assert answer.status_code == 201, answer.text
        task, run = answer.json()["id"], answer.json()["payload"]["run"]
        over = lambda: program.get(f"/v1/tasks/{task}")["finished_at"]  # noqa: E731
        wait_until(over, what=f"the run of {name}")
        found: dict[str, Any] = program.get(f"/v1/runs/{run}")
        return found


@contextmanager
def serving(publisher: Publisher) -> Iterator[Publisher]:
    thread = threading.Thread(target=publisher.serve_forever)
    thread.start()
    try:
        yield publisher
    finally:
        publisher.shutdown()
        thread.join(10)
        publisher.server_close()


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    root = tmp_path_factory.mktemp("office")
    (root / "profiles").mkdir()
    with serving(Publisher()) as publisher, serving(Publisher()) as strict:
        made = Office(root, publisher, strict)
        # A password goes to https only, and to what stands in for it here.
        known = {"https://closed.example.org": f"http://{publisher.host_port}"}
        (root / "replay.json").write_text(json.dumps(known))
        environment = {
            "HOLDFAST_COLLECT_ALLOW": f"{publisher.host_port},{strict.host_port}",
            "HOLDFAST_COLLECT_REPLAY_FILE": str(root / "replay.json"),
            "HOLDFAST_REGISTRY_PROFILES_DIR": str(root / "profiles"),
            "HOLDFAST_SECRET_OFFICE": PASSWORD,
            "HOLDFAST_SECRET_OFFICE_HOSTS": "closed.example.org",
            "HOLDFAST_LOG_LEVEL": "warning",
        }
        arguments = ["up", "--drones", "1", "--port", "0"]
        with started(arguments, root / "data", environment=environment) as made.program:
            yield made


CSV = {"type": "csv"}


def table(*rows: str, header: str = "month,place,sales") -> str:
    return "\n".join([header, *rows, ""])


def test_rows_that_come_twice_are_refused_or_the_profile_says_which_counts(office: Office) -> None:
    twice = table("2024-01,A,1.0", "2024-01,B,5.0", "2024-01,A,2.0")
    office.publisher.pages["/twice.csv"] = twice
    for choice, wanted in (("first", "1.0"), ("last", "2.0")):
        office.publish(f"twice-{choice}", "/twice.csv", CSV, duplicates=choice)
        assert office.run(f"twice-{choice}")["records"] == 2
        listed = office.says("record", "list", "--profile", f"twice-{choice}", "--json")
        values = {r["key"][0]: r["measures"]["sales"]["value"] for r in json.loads(listed)["items"]}
        assert values == {"A": wanted, "B": "5.0"}
    office.publish("twice-error", "/twice.csv", CSV)
    said = office.says("profile", "run", "twice-error", "--wait", status=1)
    refused = office.run("twice-error")
    assert "1 record repeats a key; first: A, 2024-01" in said + office.said
    assert refused["status"] == "failed"
    assert refused["code"] == "duplicate-keys"
    assert "1 record repeats a key; first: A, 2024-01" in refused["reason"]
    office.says("profile", "run", "twice-error", "--wait", "--json", status=1)
    problem = json.loads(office.said)  # one document on standard error, and nothing besides
    assert (problem["kind"], problem["status"]) == ("conflict", 409)
    assert (problem["code"], problem["detail"]) == (
        "duplicate-keys",
        f"the run of twice-error failed: {refused['reason']}",
    )


def test_a_password_is_sent_and_never_shown(office: Office) -> None:
    office.publisher.pages["/closed.csv"] = table("2024-01,A,1.0")
    auth = {"type": "basic", "username": "office", "password": "secret://env/OFFICE"}
    office.publish("closed", "https://closed.example.org/closed.csv", CSV, source={"auth": auth})
    run = office.run("closed")
    assert run["records"] == 1
    shown = office.says("run", "show", run["id"]) + office.says("profile", "show", "closed")
    assert PASSWORD not in shown
    assert "secret://env/OFFICE" in shown
    office.publish("locked", "https://closed.example.org/closed.csv", CSV)
    refused = office.run("locked")
    assert (refused["status"], refused["code"]) == ("failed", "http-status")
    assert "401" in refused["reason"]


def test_pages_that_lead_in_a_circle_are_found_out(office: Office) -> None:
    at = f"http://{office.publisher.host_port}/ring"
    for page, following in ((1, 2), (2, 3), (3, 2)):
        rows = [{"month": f"2024-0{page}", "place": "A", "sales": page}]
        office.publisher.pages[f"/ring{page}"] = json.dumps(
            {"rows": rows, "next": f"{at}{following}"}
        )
    paths = {
        "dimensions": {"place": "$.place"},
        "measures": {"sales": "$.sales"},
        "period": {"path": "$.month", "frequency": "M"},
    }
    form = {"type": "json", "records": "$.rows[*]"}
    pagination = {"pagination": {"type": "next-url", "path": "$.next"}}
    office.publish("ring", "/ring1", form, source=pagination, **paths)
    run = office.run("ring")
    assert (run["status"], run["code"]) == ("failed", "pagination")
    assert "it was asked for before" in run["reason"]
    assert office.says("record", "list", "--profile", "ring", status=4) == ""
    assert "nothing of it is published" in office.said


def test_what_robots_txt_forbids_is_not_fetched_unless_the_profile_says_why(
    office: Office,
) -> None:
    pages = office.strict.pages
    pages["/robots.txt"] = "User-agent: *\nDisallow: /private/\n"
    pages["/private/sales.csv"] = table("2024-01,A,1.0")
    url = f"http://{office.strict.host_port}/private/sales.csv"
    office.publish("forbidden", url, CSV)
    run = office.run("forbidden")
    assert (run["status"], run["code"]) == ("failed", "robots")
    assert "source.robots" in run["reason"]
    assert office.strict.asked == ["/robots.txt"]
    why = {"robots": "agreed with the publisher by letter of 3 May"}
    office.publish("agreed", url, CSV, source=why)
    assert office.run("agreed")["records"] == 1


def test_what_was_known_when_and_what_was_first_published(office: Office) -> None:
    pages = office.publisher.pages
    pages["/months.csv"] = table("2024-01,A,1.0", "2024-02,A,2.0")
    office.publish("months", "/months.csv", CSV)
    office.run("months")
    before = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    # January is corrected, February is gone, March is new.
    pages["/months.csv"] = table("2024-01,A,1.5", "2024-03,A,3.0")
    run = office.run("months")
    assert (run["new"], run["changed"], run["withdrawn"]) == (1, 1, 1)
    profile = ("--profile", "months", "--json")

    def listed(*words: str) -> dict[str, str]:
        found = json.loads(office.says("record", "list", *profile, *words))["items"]
        return {each["key"][1]: each["measures"]["sales"]["value"] for each in found}

    assert listed() == {"2024-01": "1.5", "2024-03": "3.0"}
    assert listed("--as-of", before) == {"2024-01": "1.0", "2024-02": "2.0"}
    assert listed("--vintage", "first") == {"2024-01": "1.0", "2024-02": "2.0", "2024-03": "3.0"}
    history = ("record", "history", "months", "A")
    said = json.loads(office.says(*history, "2024-01", "--json"))
    assert [each["measures"]["sales"]["value"] for each in said] == ["1.0", "1.5"]
    said = json.loads(office.says(*history, "2024-01", "--as-of", before, "--json"))
    assert [each["measures"]["sales"]["value"] for each in said] == ["1.0"]
    assert "1.0 EUR -> 1.5 EUR" in office.says(*history, "2024-01")
    assert "withdrawn" in office.says(*history, "2024-02")
    office.says(*history, "2024-03", "--as-of", before, status=4)
    office.says(*history, status=2)
    assert "the key is dimensions.place, period" in office.said
    office.says(*history, "1999-01", status=4)
    assert "cannot find a record of months with this key" in office.said
    changes = office.says("run", "diff", run["id"])
    assert "1.0" in changes
    assert "1.5" in changes


def test_a_unit_that_jumps_and_a_column_that_is_renamed_are_not_published(office: Office) -> None:
    pages = office.publisher.pages
    rows = [f"2024-{month:02d},{place},{month + 100}.5" for month in range(1, 13) for place in "AB"]
    pages["/jumps.csv"] = table(*rows)
    office.publish("jumps", "/jumps.csv", CSV)
    assert office.run("jumps")["records"] == 24
    # The next month comes in thousands… of cents.
    jumped = [row.replace(".5", "500") for row in rows]
    pages["/jumps.csv"] = table(*jumped, "2025-01,A,101500")
    run = office.run("jumps")
    assert (run["status"], run["code"]) == ("failed", "schema-drift")
    shown = office.says("run", "show", run["id"])
    assert "unit-jumped" in shown
    assert "measures.sales" in shown
    said = office.says("status", status=1)
    assert "jumps" in said + office.said
    # Somebody looks, and says that this is how it is from now on.
    office.says("run", "accept", run["id"])
    assert office.run("jumps")["changed"] == 24
    pages["/jumps.csv"] = table(*jumped, header="month,place,turnover")
    run = office.run("jumps")
    assert run["status"] == "failed"
    assert "sales" in run["reason"]
    assert wait_until(lambda: office.says("notice", "list"), what="what there is to tell")
    kept = office.says("record", "list", "--profile", "jumps", "--json", "--limit", "1")
    assert json.loads(kept)["items"]


# --- what a table says beside its numbers ---------------------------------------------------------

GROUPED: list[list[object]] = [
    ["Employed persons, thousands"],
    ["Area", None, 2019, None, None, 2020, None, None],
    [None, "Code", "Male", "Female", "Total", "Male", "Female", "Total"],
    ["North", "N", 10.5, 11, 21.5, 12, "(9)", 21],
    ["South", "S", 1, "..", 1, "2 p", 3, "5 p"],
]
FLAGGED = "geo,2019,2019_F,2020,2020_F\nN,1.5,,2.5,p\nS,,c,3.5,b\nW,,,4.5,\n"
LABELLED = [
    {"NC": "Level (Code)", "V": "Value", "D1C": "State (Code)", "D2C": "Month (Code)"},
    {"NC": "3", "V": "7.25", "D1C": "11", "D2C": "202401"},
    {"NC": "3", "V": "-", "D1C": "35", "D2C": "202401"},
]
QUARTERS = "period,sales\nFY2021 Q1,1.5\nFY2021 Q2,2.5\nFY2021,4\n"
YEARS = {"path": "#year", "frequency": "A"}


def stored(office: Office, name: str, **words: Any) -> list[dict[str, Any]]:
    """The records of one run of a profile, as they are listed: in the order of their keys."""
    office.publish(name, **words)
    run = office.run(name)
    assert (run["status"], run["rejects"]) == ("succeeded", 0), run
    items = json.loads(office.says("record", "list", "--profile", name, "--json"))["items"]
    assert len(items) == run["records"]
    return sorted(items, key=lambda each: [str(part) for part in each["key"]])


def test_what_a_table_says_beside_its_numbers_is_stored_with_them(office: Office) -> None:
    pages = office.publisher.pages
    pages["/grouped.xlsx"] = workbook(("Cover", [["x"]]), ("Table 1", GROUPED))
    pages["/flagged.csv"] = FLAGGED
    pages["/labelled.json"] = json.dumps(LABELLED)
    pages["/quarters.csv"] = QUARTERS

    found = stored(
        office, "grouped", path="/grouped.xlsx",
        form={"type": "xlsx", "sheet": "Table 1", "header_row": 2, "header_rows": 2},
        unpivot={"columns": r"(?P<year>[0-9]{4}) \| (?P<sex>.+)"}, nulls=["", ".."],
        key=["dimensions.code", "dimensions.sex", "period"],
        dimensions={"code": "Area | Code", "sex": "#sex"},
        measures={"n": {"path": "#value", "marks": ["()", "p"]}}, period=YEARS,
    )  # fmt: skip
    pages["/grouped.ods"] = open_document(("Cover", [["x"]]), ("Table 1", GROUPED))
    again = stored(
        office, "grouped-ods", path="/grouped.ods",
        form={"type": "ods", "sheet": "Table 1", "header_row": 2, "header_rows": 2},
        unpivot={"columns": r"(?P<year>[0-9]{4}) \| (?P<sex>.+)"}, nulls=["", ".."],
        key=["dimensions.code", "dimensions.sex", "period"],
        dimensions={"code": "Area | Code", "sex": "#sex"},
        measures={"n": {"path": "#value", "marks": ["()", "p"]}}, period=YEARS,
    )  # fmt: skip
    parts = ("key", "dimensions", "measures", "attributes", "period")
    assert [[e[p] for p in parts] for e in again] == [[e[p] for p in parts] for e in found]
    names = [f"{year} | {sex}" for year in (2019, 2020) for sex in ("Male", "Female", "Total")]
    expected = {}
    for row in GROUPED[3:]:
        for name, cell in zip(names, row[2:], strict=True):
            text = str(cell).strip("() p")
            mark = "p" if "p" in str(cell) else "()" if "(" in str(cell) else None
            year, sex = name.split(" | ")
            if text != "..":
                expected[row[1], sex, year] = (text, mark)
    assert {
        tuple(each["key"]): (each["measures"]["n"]["value"], each["attributes"].get("n_mark"))
        for each in found
    } == expected

    found = stored(
        office, "flagged", path="/flagged.csv", form=CSV,
        unpivot={"columns": "[0-9]{4}", "beside": {"flag": "{column}_F"}},
        key=["dimensions.geo", "period"], dimensions={"geo": "geo"},
        measures={"v": "#value"}, attributes={"flag": "#flag"},
        period={"path": "#column", "frequency": "A"},
    )  # fmt: skip
    assert [
        (*each["key"], each["measures"]["v"].get("value"), each["attributes"]["flag"])
        for each in found
    ] == [
        ("N", "2019", "1.5", None),
        ("N", "2020", "2.5", "p"),
        ("S", "2019", None, "c"),
        ("S", "2020", "3.5", "b"),
        ("W", "2020", "4.5", None),
    ]

    found = stored(
        office, "labelled", path="/labelled.json",
        form={"type": "json", "skip_rows": ["Level (Code)"]}, nulls=["-"],
        key=["dimensions.state", "period"], dimensions={"state": "$.D1C"},
        measures={"v": "$.V"}, period={"path": "$.D2C", "frequency": "M"},
    )  # fmt: skip
    assert [(*each["key"], each["measures"]["v"].get("value")) for each in found] == [
        ("11", "2024-01", "7.25"),
        ("35", "2024-01", None),
    ]

    coding = r"FY(?P<fiscal_end_year>[0-9]{4}) Q(?P<sub>[1-4])"
    found = stored(
        office, "quarters", path="/quarters.csv", form=CSV, key=["period"], dimensions={},
        measures={"sales": "sales"},
        period={
            "path": "period", "frequency": "A", "year_start": 11,
            "codings": {coding: "Q", r"FY(?P<end_year>[0-9]{4})": "A"},
        },
    )  # fmt: skip
    periods = [(each["period"]["start"], each["period"]["end"]) for each in found]
    assert [each["key"] for each in found] == [["2020"], ["2020-11-01 Q"], ["2021-02-01 Q"]]
    assert periods == [
        ("2020-11-01", "2021-11-01"),
        ("2020-11-01", "2021-02-01"),
        ("2021-02-01", "2021-05-01"),
    ]
    said = office.says("record", "history", "quarters", "2020-11-01 Q", "--json")
    assert [each["measures"]["sales"]["value"] for each in json.loads(said)] == ["1.5"]


def test_the_guide_s_recipes_for_odd_tables_are_stored_as_it_says(office: Office) -> None:
    found = {case.id: case.values for case in recipes()}
    for name in (
        "gauges",
        "lakes",
        "employed",
        "schools",
        "crops",
        "economy",
        "tables",
        "industry",
    ):
        text, payload, gives = found[f"{name}.yaml"]
        assert isinstance(text, str)
        assert payload
        assert gives
        office.publisher.pages[f"/{name}"] = str(payload[2])
        document = yaml.safe_load(text)
        document["source"]["url"] = f"http://{office.publisher.host_port}/{name}"
        assert office.program is not None
        answer = office.program.client.post(
            "/v1/profiles",
            content=yaml.safe_dump(document, allow_unicode=True).encode(),
            headers={"Content-Type": "application/yaml"},
        )
        assert answer.status_code < 300, answer.text
        run = office.run(name)
        assert (run["status"], run["rejects"]) == ("succeeded", 0), run
        items = json.loads(office.says("record", "list", "--profile", name, "--json"))["items"]
        stored = [flat(msgspec.convert(_mapped_part(item), MappedRecord)) for item in items]
        expected = [json.loads(line) for line in str(gives[2]).splitlines()]
        assert sorted(map(sorted_items, stored)) == sorted(map(sorted_items, expected))
    items = json.loads(office.says("record", "list", "--profile", "economy", "--json"))["items"]
    counts = {item["key"][1]: item["measures"]["value"]["multiplier"] for item in items}
    assert counts == {"GDP": "1000000", "POP": "1000000", "EMP": "1000"}


def sorted_items(record: dict[str, str]) -> list[tuple[str, str]]:
    return sorted(record.items())


def _mapped_part(item: dict[str, Any]) -> dict[str, Any]:
    """A record as it is listed, with what a mapped one has of it."""
    parts = ("key", "dimensions", "measures", "attributes", "period")
    return {"response": 0, "position": 0, **{part: item[part] for part in parts if part in item}}
