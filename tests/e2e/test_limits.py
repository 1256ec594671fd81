"""A key that is limited to a profile: all that is of its own, and nothing of another's.

Every route is tried with a key that may do everything there is, to one profile. What is of that
works; what is of another is refused, or not found, exactly as if it did not exist; what is of no
one profile is refused with that reason, and lists have its own alone.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.program import run_command, wait_until
from tests.support.stack import SAMPLE, Layout, Stack, running, sources

pytestmark = pytest.mark.timeout(1200)
OPENAPI = Path(__file__).parents[2] / "api" / "openapi.json"
PAGE = Path(__file__).parents[2] / "docs" / "operating" / "people.md"
MINE, OTHER, NONE = "scripps-co2-monthly", "nasa-global-temp-annual", "no-such-profile"
JSON = "application/json"
NOBODY = "019b0000-0000-7000-8000-000000000000"

OF_A_PROFILE = {
    "GET /v1/profiles/{name}", "GET /v1/profiles/{name}/diff", "GET /v1/profiles/{name}/history",
    "PUT /v1/profiles/{name}/overrides", "POST /v1/profiles/{name}/pause",
    "POST /v1/profiles/{name}/resume", "GET /v1/profiles/{name}/status",
    "GET /v1/profiles/{name}/versions", "GET /v1/profiles/{name}/versions/{digest}",
    "GET /v1/projections/{profile}", "GET /v1/projections/{profile}/info",
    "GET /v1/records", "POST /v1/records/by-key", "GET /v1/records/datapackage",
    "GET /v1/records/export", "POST /v1/records/receipts", "POST /v1/tasks/collect",
}  # fmt: skip
"""They say of which profile they are: of the key's own they work, of any other they are refused."""
BY_ID = {
    "GET /v1/records/{record}": "record", "GET /v1/records/{record}/receipt": "record",
    "GET /v1/runs/{run}": "run", "GET /v1/runs/{run}/diff": "run",
    "GET /v1/runs/{run}/responses": "run",
    "GET /v1/runs/{run}/responses/{sequence}/content": "run",
    "POST /v1/runs/{run}/accept": "run",
    "GET /v1/tasks/{task}": "task", "POST /v1/tasks/{task}/cancel": "task",
    "GET /v1/reports/{report_id}": "report_id", "GET /v1/reports/{report_id}/data": "report_id",
    "GET /v1/reports/{report_id}/chart.svg": "report_id",
    "GET /v1/reports/{report_id}/chart.png": "report_id",
    "GET /v1/reports/{report_id}/receipt": "report_id",
}  # fmt: skip
"""They name something: of another profile it is not found, as what there is not."""
LISTS = {
    "GET /v1/runs", "GET /v1/results", "GET /v1/rejects", "GET /v1/notices", "GET /v1/tasks",
    "GET /v1/schedules", "GET /v1/records/freshness", "GET /v1/profiles", "GET /v1/reports",
}  # fmt: skip
"""They have what is of the key's own profile, and nothing else."""
APART = {"GET /v1/profiles/all/count", "POST /v1/query", "POST /v1/reports"}
"""Tests of their own tell what these do."""


@dataclass
class Known:
    """A stack that has collected two profiles, and what is of each."""

    stack: Stack
    secret: str
    ids: dict[str, dict[str, str]]
    keys: dict[str, list[Any]]

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.secret}", **more.pop("headers", {})}
        url = self.stack.door.url + path
        return httpx.request(method, url, headers=headers, trust_env=False, timeout=120, **more)


@pytest.fixture(scope="module", params=["up", "split"])
def known(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Known]:
    layout: Layout = request.param
    directory = tmp_path_factory.mktemp(f"limits-{layout}")
    profiles = directory / "profiles"
    profiles.mkdir()
    for name in (MINE, OTHER):
        text = SAMPLE.joinpath("profiles", f"{name}.yaml").read_text()
        (profiles / f"{name}.yaml").write_text(text)
    with ExitStack() as opened:
        _, replay = opened.enter_context(sources(directory))
        stack = Stack(directory, layout, replay, profiles, drones=1)
        opened.enter_context(running(stack))
        tasks = stack.collect_all()
        stack.settle()
        yield known_of(stack, tasks)


def known_of(stack: Stack, tasks: dict[str, str]) -> Known:
    door = stack.door
    ids: dict[str, dict[str, str]] = {}
    keys = {}
    for name, measure in ((MINE, "co2"), (OTHER, "temperature_anomaly")):
        (run,) = [r["id"] for r in door.items("/v1/runs", profile=name) if r["published_at"]]
        record = door.get("/v1/records", profile=name, limit=1)["items"][0]
        spec = {"version": 1, "name": f"of-{name}", "output": {"type": "table"}}
        spec["inputs"] = {"a": {"profile": name, "measures": [measure]}}
        report = door.client.post("/v1/reports", json=spec)
        assert report.status_code == 201, report.text
        ids[name] = {
            "run": run, "record": record["id"], "task": tasks[name],
            "report_id": report.json()["id"],
            "digest": door.get(f"/v1/profiles/{name}")["digest"],
        }  # fmt: skip
        keys[name] = record["key"]
        # The receipts need both events in the ledger.
        for path in (f"/v1/records/{record['id']}/receipt", ""):
            found = path or f"/v1/reports/{report.json()['id']}/receipt?column={measure}&row=0"
            wait_until(lambda at=found: door.client.get(at).status_code == 200, what=found)
    made = door.client.post(
        "/v1/api-keys", json={"name": "limited", "roles": ["admin"], "profiles": [MINE]}
    )
    assert made.status_code == 201, made.text
    return Known(stack, made.json()["secret"], ids, keys)


def told(answer: httpx.Response, *names: str) -> Any:
    """A refusal without what tells one request from another: its id, and what it asked for."""
    said = answer.json()
    assert said.pop("request_id")
    said.pop("instance")
    text = json.dumps(said)
    for name in names:
        text = text.replace(name, "WHAT")
    return json.loads(text)


def routes() -> dict[str, str]:
    """Every route and the permission it needs; a door in front of others has few of its own."""
    document = json.loads(OPENAPI.read_bytes())
    return {
        f"{method.upper()} {path}": operation["x-permission"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def asked(known: Known, route: str, of: str, ids: dict[str, str]) -> httpx.Response:
    """``route`` about the profile ``of``, and about what ``ids`` name."""
    method, path = route.split(" ")
    values = {"name": of, "profile": of, "sequence": "0", **ids}
    path = re.sub(r"\{(\w+)\}", lambda found: values[found[1]], path)
    params: dict[str, Any] = {}
    if route in ("GET /v1/records", "GET /v1/records/datapackage", "GET /v1/records/export"):
        params["profile"] = of
    if route.endswith("/diff") and "profiles" in route:
        params["before"] = ids["digest"]
    if route == "GET /v1/reports/{report_id}/receipt":
        params |= {"column": "co2", "row": 0}
    bodies = {
        "POST /v1/records/by-key": {"profile": of, "key": [str(k) for k in known.keys[MINE]]},
        "POST /v1/records/receipts": {"profile": of, "records": [f"{ids['record']}@1"]},
        "POST /v1/tasks/collect": {"profile": of},
        "PUT /v1/profiles/{name}/overrides": {"limits": None},
    }
    body = bodies.get(route, {})
    return known.ask(method, path, params=params, **({} if method == "GET" else {"json": body}))


def test_of_its_own_profile_a_limited_key_sees_all(known: Known) -> None:
    mine = known.ids[MINE]
    for route in sorted(OF_A_PROFILE) + sorted(BY_ID):
        answer = asked(known, route, MINE, mine)
        refused = {
            # The source looks as it did, and the task has ended: both are of its own, and said so.
            "POST /v1/runs/{run}/accept": "run-not-drifted",
            "POST /v1/tasks/{task}/cancel": "task-finished",
        }.get(route)
        if refused:
            assert (answer.status_code, answer.json()["code"]) == (409, refused), route
        else:
            assert answer.status_code in (200, 201), (route, answer.text)
    known.stack.settle()


def test_of_another_profile_it_sees_as_much_as_of_one_that_there_is_not(known: Known) -> None:
    theirs = known.ids[OTHER]
    nothing = dict.fromkeys(theirs, NOBODY) | {"record": "0" * len(theirs["record"])}
    for route in sorted(OF_A_PROFILE):
        there, gone = (asked(known, route, name, theirs) for name in (OTHER, NONE))
        assert there.status_code == gone.status_code == 403, (route, there.text)
        assert there.json()["code"] == "out-of-scope"
        assert MINE in there.json()["hint"]
        assert told(there, OTHER) == told(gone, NONE), route
    for route, name in sorted(BY_ID.items()):
        there, gone = (asked(known, route, OTHER, each) for each in (theirs, nothing))
        assert there.status_code == gone.status_code == 404, (route, there.text)
        assert told(there, theirs[name]) == told(gone, nothing[name]), route
        assert f"sees what is of {MINE} only" in there.json()["hint"], route


def test_something_of_another_profile_cannot_be_reached_through_its_own(known: Known) -> None:
    mine, theirs = known.ids[MINE], known.ids[OTHER]
    for run in (theirs["run"], NOBODY):
        through = known.ask("GET", "/v1/records", params={"profile": MINE, "run": run})
        assert (through.status_code, through.json()["code"]) == (404, "run-not-found")
        diff = known.ask("GET", f"/v1/runs/{mine['run']}/diff", params={"base": run})
        assert (diff.status_code, diff.json()["code"]) == (404, "run-not-found"), diff.text
        for listed in ("runs", "rejects", "results"):
            assert known.ask("GET", f"/v1/{listed}", params={"run": run}).json()["items"] == []
    for record in (theirs["record"], "0" * len(theirs["record"])):
        wanted = {"profile": MINE, "records": [f"{record}@1"]}
        answer = known.ask("POST", "/v1/records/receipts", json=wanted)
        assert answer.status_code == 404
        assert answer.json()["detail"] == f"cannot find the record {record}"
    for profile in (OTHER, NONE):
        spec = {"version": 1, "name": "joined", "output": {"type": "table"}}
        spec["inputs"] = {
            "a": {"profile": MINE, "measures": ["co2"]},
            "b": {"profile": profile, "measures": ["temperature_anomaly"]},
        }
        spec["join"] = {"on": ["year"]}
        answer = known.ask("POST", "/v1/reports", json=spec)
        assert (answer.status_code, answer.json()["code"]) == (403, "out-of-scope"), answer.text


def test_lists_have_what_is_of_its_own(known: Known) -> None:
    for route in sorted(LISTS):
        path = route.partition(" ")[2]
        answer = known.ask("GET", path)
        assert answer.status_code == 200, (route, answer.text)
        everything = known.stack.door.client.get(path)
        if OTHER in everything.text:
            assert MINE in answer.text or not re.search(MINE, everything.text), route
        assert OTHER not in answer.text, route
        assert known.ids[OTHER]["run"] not in answer.text, route
        if path in ("/v1/runs", "/v1/results", "/v1/rejects", "/v1/notices"):
            for profile in (OTHER, NONE):
                refused = known.ask("GET", path, params={"profile": profile})
                assert refused.json()["code"] == "out-of-scope", route
    # Not because there was nothing to be seen.
    seen = known.stack.door
    for path in ("/v1/runs", "/v1/results", "/v1/tasks", "/v1/profiles", "/v1/reports"):
        assert OTHER in seen.client.get(path).text
    assert known.ask("GET", "/v1/profiles/all/count").json() == {"profiles": 1}


def test_what_is_of_no_one_profile_is_refused_with_that_reason(known: Known) -> None:
    apart = OF_A_PROFILE | set(BY_ID) | LISTS | APART
    found = routes()
    assert apart <= set(found)
    may = known.ask("GET", "/v1/whoami").json()["permissions"]
    closed = {r for r, needs in found.items() if needs not in ("self", "public")} - apart
    for route in sorted(closed):
        method, path = route.split(" ")
        path = re.sub(r"\{(\w+)\}", lambda found: known.ids[MINE].get(found[1], "1"), path)
        takes = {"content-type": "application/x-ndjson" if "pipeline" in path else JSON}
        more: dict[str, Any] = {} if method == "GET" else {"content": b"{}", "headers": takes}
        answer = known.ask(method, path, **more)
        said = answer.json()
        if found[route] not in may:  # not even an administrator, limited or not
            assert said["code"] == "permission-missing", (route, answer.text)
            continue
        assert (answer.status_code, said["code"]) == (403, "out-of-scope"), (route, answer.text)
        assert "limited to some profiles" in said["detail"], route


def test_a_query_has_the_tables_of_its_own_profile(known: Known) -> None:
    def query(sql: str) -> httpx.Response:
        return known.ask("POST", "/v1/query", json={"sql": sql})

    own, other = (name.replace("-", "_") for name in (MINE, OTHER))
    for sql in (f"select count(*) > 0 from {own}", "select count(*) > 0 from records"):
        assert query(sql).json()["rows"] == [[True]], query(sql).text
    for table in ("records", "runs"):
        answer = query(f"select distinct profile from {table}")
        assert answer.json()["rows"] == [[MINE]], answer.text
    answer = query("select distinct exclusive from tasks")
    assert answer.json()["rows"] == [[f"profile:{MINE}"]], answer.text
    for table in (other, f'"{OTHER}"', NONE.replace("-", "_")):
        for sql in (
            f"select * from {table}",
            f"select * from {own} a join {table} b on a.period_start = b.period_start",
            f"with x as (select * from {table}) select * from x",
            f"select (select count(*) from {table}) from {own}",
            f"describe {table}",
        ):
            answer = query(sql)
            assert (answer.status_code, answer.json()["code"]) == (400, "query-table-unknown"), sql
            assert table.strip('"') not in answer.json()["hint"], answer.text
    for sql in ("show tables", "select table_name from information_schema.tables"):
        assert OTHER not in query(sql).text
        assert other not in query(sql).text
    answer = query("select * from events")
    assert (answer.status_code, answer.json()["code"]) == (403, "permission-missing")
    assert "the credential is limited to some profiles, for events" in answer.json()["detail"]
    operator = known.stack.door.client
    whole = operator.post("/v1/query", json={"sql": "select count(distinct profile) from runs"})
    assert whole.json()["rows"] == [[2]]


def test_the_commands_work_with_such_a_key_and_it_says_what_it_is(
    known: Known, tmp_path: Path
) -> None:
    file = tmp_path / "nightly.key"
    file.write_text(known.secret)
    mine = known.ids[MINE]

    def command(*arguments: str) -> Any:
        where = ("--control-plane", known.stack.door.url, "--data-dir", str(tmp_path / "none"))
        environment = {"HOLDFAST_OPERATOR_TOKEN_FILE": str(file)}
        return run_command(*arguments, *where, environment=environment, cwd=tmp_path)

    for line in (
        ["run", "list"], ["run", "show", mine["run"]], ["run", "diff", mine["run"]],
        ["run", "raw", mine["run"]], ["record", "list", "--profile", MINE],
        ["record", "show", mine["record"]], ["record", "history", mine["record"]],
        ["record", "receipt", mine["record"], "--out", "of.json"],
        ["record", "raw", mine["record"]],
        ["query", "select count(*) from records"], ["profile", "list"], ["task", "list"],
        ["report", "show", mine["report_id"]],
    ):  # fmt: skip
        done = command(*line)
        assert done.returncode == 0, (line, done.stderr)
    done = command("run", "show", known.ids[OTHER]["run"])
    assert done.returncode == 4
    assert f"sees what is of {MINE} only" in done.stderr
    looked = command("doctor", "--json")
    outcomes = {line["check"]: line["outcome"] for line in json.loads(looked.stdout)}
    assert outcomes["results"] == "pass"
    assert outcomes["drones"] == outcomes["ledger"] == "skip"
    # Nothing is wrong as far as it may see, which is not the whole.
    assert (looked.returncode, "were not made" in looked.stderr) == (3, True), looked.stderr
    said = command("whoami")
    assert f"profiles  {MINE}\n" in said.stdout, said.stdout + said.stderr
    asked = json.loads(command("whoami", "--json").stdout)
    assert asked == known.ask("GET", "/v1/whoami").json()
    assert (asked["kind"], asked["profiles"]) == ("key", [MINE])
    assert asked["expires_at"]


def test_what_the_page_shows_of_a_limited_key_works(known: Known, tmp_path: Path) -> None:
    text = PAGE.read_text()
    begin = text.index("holdfast apikey create nightly")
    making = text[begin : text.index("```", begin)]
    begin = text.index("export HOLDFAST_OPERATOR_TOKEN_FILE=nightly.key")
    using = text[begin : text.index("```", begin)]
    here = {"rain": MINE, "RUN": known.ids[MINE]["run"], "RECORD": known.ids[MINE]["record"]}
    here["10.0.0.0/8"] = "127.0.0.0/8"  # where the test asks from
    tried = []

    def do(line: str, *more: str, environment: dict[str, str]) -> Any:
        words = [
            re.sub("|".join(map(re.escape, here)), lambda found: here[found[0]], word)
            for word in shlex.split(line, comments=True)
        ]
        assert words[0] == "holdfast", line
        tried.append(words[1])
        url = ("--control-plane", known.stack.door.url)
        done = run_command(*words[1:], *url, *more, environment=environment, cwd=tmp_path)
        assert done.returncode == 0, (line, done.stderr)
        return done

    operator = {"HOLDFAST_DATA_DIR": str(known.stack.door.data_dir)}
    lines = making.splitlines()
    create, _, file = lines[0].partition(" > ")
    assert file.strip() == "nightly.key"
    key = tmp_path / "nightly.key"
    key.write_text(do(create, environment=operator).stdout)
    limited = {"HOLDFAST_OPERATOR_TOKEN_FILE": str(key), "HOLDFAST_DATA_DIR": "none"}
    for line in using.splitlines()[1:]:
        done = do(line, environment=limited)
        assert OTHER not in done.stdout, line
    for line in lines[1:]:
        do(line, environment=operator)
    assert tried == ["apikey", "whoami", *["run"] * 3, *["record"] * 3, "query", *["apikey"] * 3]
