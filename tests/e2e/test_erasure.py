"""A person's data through the served program: collected by a real drone, sealed, held, erased."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.program import Program, run_command, started, wait_until
from tests.support.searching import places_of

JANE, JOE = "jane.doe@example.org", "joe.bloggs@example.org"
VISITS = {
    "visits": [
        {"patient": who, "ward": "north", "weight": weight, "note": f"a-note-on-{who}"}
        for who, weight in ((JANE, "61.5"), (JOE, "82.1"))
    ]
}
PROFILE = """
version: 1
name: clinic
title: Visits
publisher: A clinic
licence: Public domain
source:
  url: http://127.0.0.1:{port}/visits.json
  format: {{type: json, records: "$.visits[*]"}}
  robots: "our own server"
key: [dimensions.patient]
dimensions: {{patient: $.patient, ward: $.ward}}
measures: {{weight: {{path: $.weight, unit: kg}}}}
attributes: {{note: $.note}}
subject: dimensions.patient
personal: [measures.weight, attributes.note]
"""


@pytest.fixture
def source() -> Iterator[int]:
    """A source about people, on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/visits.json"
            body = json.dumps(VISITS).encode() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def collected(program: Program, runs: int) -> bool:
    done = run_command("profile", "run", "clinic", "--data-dir", str(program.data_dir))
    assert done.returncode == 0, done.stderr
    return wait_until(
        lambda: len(list(program.items("/v1/results", profile="clinic"))) >= runs, what="a run"
    )


def raw_bytes_are_for_those_who_see_people_s_own(program: Program) -> None:
    where = ["--data-dir", str(program.data_dir)]
    made = program.client.post("/v1/api-keys", json={"name": "exporter", "roles": ["operator"]})
    key = {"authorization": f"Bearer {made.json()['secret']}"}
    run = next(program.items("/v1/results", profile="clinic"))["run"]
    path = f"/v1/runs/{run}/responses/0/content"
    refused = program.client.get(path, headers=key)
    assert (refused.status_code, refused.json()["code"]) == (403, "permission-missing")
    assert JANE not in refused.text
    record = program.get("/v1/records", profile="clinic")["items"][0]["id"]
    assert JANE in run_command("record", "raw", record, "--out", "-", *where).stdout
    receipt = program.client.get(f"/v1/records/{record}/receipt")
    assert receipt.status_code == 200, receipt.text

    def told() -> list[Any]:
        shown = run_command("audit", "--since", "1h", "--json", *where)
        events = json.loads(shown.stdout)["items"]
        kinds = ("response.downloaded", "records.receipted", "report.queried")
        found = [event for event in events if event["type"] in kinds]
        return found if {event["type"] for event in found} == set(kinds) else []

    events = wait_until(told, what="the looks to be in the audit")
    (taken,) = [event for event in events if event["type"] == "response.downloaded"]
    assert (taken["who"], taken["payload"]["run"]) == ("operator", run)
    assert {event["who"] for event in events} == {"operator"}


def test_a_person_is_collected_sealed_held_erased_and_not_brought_back(
    tmp_path: Path, source: int
) -> None:
    home = tmp_path / "home"
    data, profiles = home / "data", tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "clinic.yaml").write_text(PROFILE.format(port=source))
    environment = {
        "HOLDFAST_REGISTRY_PROFILES_DIR": str(profiles),
        "HOLDFAST_COLLECT_ALLOW": f"127.0.0.1:{source}",
        "HOLDFAST_LOG_LEVEL": "info",
    }
    where = ["--data-dir", str(data)]
    up = ["up", "--port", "0", "--drones", "1"]
    with started(up, data, environment=environment) as program:
        wait_until(lambda: len(list(program.items("/v1/profiles"))) == 1, what="the profile")
        collected(program, 1)
        shown = run_command("record", "list", "--profile", "clinic", "--json", *where)
        assert JANE in shown.stdout
        by_name = f"select count(*) from clinic where dim_patient = '{JANE}'"
        refused = run_command("query", by_name, *where)
        assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
        assert "record list --profile clinic" in refused.stderr
        wards = run_command("query", "select dim_ward, personal from clinic", *where)
        assert wards.returncode == 0, wards.stderr
        assert "clinic is without dim_patient, weight" in wards.stderr
        exported = run_command("record", "export", "--profile", "clinic", *where)
        assert "opened" in exported.stderr
        for needle in (JANE, JOE, "a-note-on", "61.5"):
            assert places_of(home, needle) == [], needle
        assert any(place.endswith(".parquet") for place in places_of(home, "north"))
        raw_bytes_are_for_those_who_see_people_s_own(program)

        assert run_command("key", "hold", JANE, "--reason", "case 12", *where).returncode == 0
        refused = run_command("ledger", "erase", JANE, "--reason", "asked", *where)
        assert refused.returncode == 5
        assert "case 12" in refused.stderr
        assert run_command("key", "release", JANE, "--reason", "closed", *where).returncode == 0
        typo = run_command("ledger", "erase", JANE.title(), "--reason", "asked", *where)
        assert typo.returncode == 4
        assert "nobody of that name" in typo.stderr
        assert "to the letter" in typo.stderr
        erased = run_command("ledger", "erase", JANE, "--reason", "asked", "--json", *where)
        assert erased.returncode == 0, erased.stderr
        first = json.loads(erased.stdout)
        assert (first["state"], first["keys"]) == ("done", 1)
        again = run_command("ledger", "erase", JANE, "--reason", "asked again", *where)
        assert again.returncode == 0, again.stderr
        assert f"erased before, on {first['requested_at']}" in again.stderr
        program.kill()

    with started(up, data, environment=environment) as program:
        collected(program, 2)
        shown = run_command("record", "list", "--profile", "clinic", "--json", *where)
        assert JOE in shown.stdout
        assert JANE not in shown.stdout
        assert places_of(home, JANE) == []
        verified = run_command("ledger", "verify", *where)
        assert verified.stdout.startswith("sound: "), verified.stderr
        assert "roots that are kept apart from the entries" in verified.stderr


def test_a_hold_outlives_the_restore_of_a_backup_from_before_it(tmp_path: Path) -> None:
    data, serve = tmp_path / "data", ["serve", "ledger"]
    environment = {"VDB_DATA_DIR": str(data), "VDB_BIND_ADDR": "127.0.0.1:0"}
    where = ["--data-dir", str(data)]
    until = ["--until", "2036-01-01T00:00:00Z"]
    with started(serve, data, environment=environment):
        reason = ["--reason", "Prüfung läuft"]
        assert run_command("ledger", "hold", JOE, *reason, *where).returncode == 0
        made = run_command("backup", "create", "--json", *where)
        assert made.returncode == 0, made.stderr
        backup = json.loads(made.stdout)
        for command in (["hold", JANE], ["retain", JANE, *until], ["release", JOE]):
            done = run_command("ledger", *command, "--reason", "case 12", *where)
            assert done.returncode == 0, done.stderr
        safe = str(tmp_path / "safe.json")
        assert run_command("key", "export", "--out", safe, *where).returncode == 0
    # On another machine, which has of the lists what `key export` took along.
    there = ["--data-dir", str(tmp_path / "elsewhere"), "--recovery", safe, "--json"]
    restored = run_command(
        "backup", "restore", backup["data_file"], "--keys", backup["keys_file"], *there
    )
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["verified"]["restrictions"] == 2
    assert "[error" not in restored.stderr
    for name in ("state", "objects"):
        shutil.rmtree(data / name)
    files = [backup["data_file"], "--keys", backup["keys_file"]]
    restored = run_command("backup", "restore", *files, "--json", *where)
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["verified"]["restrictions"] == 2
    with started(serve, data, environment=environment):
        refused = run_command("ledger", "erase", JANE, "--reason", "asked", *where)
        assert refused.returncode == 5
        assert "case 12" in refused.stderr
        found = json.loads(run_command("key", "subjects", "--json", *where).stdout)
        assert [each["kind"] for each in found["restrictions"]] == ["hold", "retention"]


def test_what_was_appended_about_somebody_is_unreadable_once_they_are_erased(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    environment = {
        "VDB_DATA_DIR": str(data),
        "VDB_BIND_ADDR": "127.0.0.1:0",
        "VDB_LOG_LEVEL": "debug",
    }
    where = ["--data-dir", str(data)]

    def told(number: int, who: str) -> dict[str, object]:
        payload = {"mail": who, "n": number}
        about = {"about": who} if who else {}
        return {"stream": f"people/{number}", "type": "person.added", "payload": payload, **about}

    with started(["serve", "ledger"], data, environment=environment) as program:
        text = json.dumps(told(0, JANE)["payload"])
        typed = ["ledger", "append", "people/0", "person.added", text, "--about", JANE]
        assert run_command(*typed, *where).returncode == 0
        body = {"events": [told(1, JANE), told(2, JOE), told(3, "")]}
        assert program.client.post("/v1/ledger/events", json=body).status_code == 200
        lines = [{"events": [told(number, (JANE, "")[number % 2])]} for number in range(4, 12)]
        piped = program.client.post(
            "/v1/ledger/pipeline",
            content="\n".join(json.dumps(line) for line in lines),
            headers={"Content-Type": "application/x-ndjson"},
        )
        answered = [json.loads(line) for line in piped.text.splitlines()]
        placed = [each["appended"]["events"][0]["stream"] for each in answered]
        assert placed == [f"people/{number}" for number in range(4, 12)]

        before = list(program.items("/v1/ledger/entries"))
        mine = [each for each in before if each["stream"].startswith("people/")]
        assert [each["payload"]["n"] for each in mine] == list(range(12))
        assert places_of(data, JANE) == []
        proof = program.get("/v1/ledger/proofs/inclusion", position=mine[0]["position"])
        assert JANE in proof["payload"]
        out = tmp_path / "before.ndjson"
        assert run_command("ledger", "export", "--out", str(out), *where).returncode == 0
        trust = tmp_path / "holdfast.trust"
        trust.write_text(run_command("ledger", "trust", *where).stdout)

        erased = run_command("ledger", "erase", JANE, "--reason", "asked", "--json", *where)
        assert erased.returncode == 0, erased.stderr
        assert json.loads(erased.stdout)["keys"] == 1
        token = json.loads(erased.stdout)["subject"]
        named = [each["position"] for each in mine if each.get("about") == token]
        assert named == [mine[number]["position"] for number in (0, 1, 4, 6, 8, 10)]

        after = {each["position"]: each for each in program.items("/v1/ledger/entries")}
        for each in mine:
            now = after[each["position"]]
            if each["position"] in named:
                assert (now.get("payload"), now["erased"]) == (None, True)
            else:
                assert now == each
        assert JANE not in run_command("ledger", "read", "--json", *where).stdout
        again = program.client.post("/v1/ledger/events", json={"events": [told(12, JANE)]})
        assert (again.status_code, again.json()["code"]) == (409, "subject-erased")
        size = {"position": mine[0]["position"], "size": proof["size"]}
        assert program.get("/v1/ledger/proofs/inclusion", **size)["root"] == proof["root"]
        assert json.loads(run_command("ledger", "verify", "--json", *where).stdout)["sound"]
        # What was taken along before holds, and can be read: it is out of our hands.
        kept = ["--export", str(out), "--trust", str(trust)]
        assert run_command("ledger", "verify", *kept).returncode == 0
        assert places_of(data, JANE) == []
