"""Receipts where every role is a process of its own: record and cell, verified.

On one PostgreSQL with one keyring, and with a SQLite database per role, where nothing is shared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.postgres import PostgresServer
from tests.support.program import run_command, wait_until
from tests.support.stack import SAMPLE, Stack, running, sources
from tests.support.verifier import second

pytestmark = pytest.mark.timeout(1200)

PROFILE = "nasa-global-temp-annual"
SPEC = {
    "version": 1,
    "name": "decades",
    "inputs": {
        "temperature": {
            "profile": PROFILE,
            "measures": ["temperature_anomaly"],
            "period": {"from": 2001, "until": 2011},
        }
    },
    "output": {"type": "table"},
}


def receipt(client: httpx.Client, path: str, **params: Any) -> bytes:
    """The receipt, once the relay has brought its event from another process."""

    def there() -> bytes:
        answer = client.get(path, params=params)
        assert answer.status_code in (200, 503), answer.text
        return answer.content if answer.status_code == 200 else b""

    found: bytes = wait_until(there, what=f"the receipt {path}")
    return found


def sharing(stack: Stack, server: PostgresServer) -> None:
    """One database for all, so one keyring: the ledger relays what other roles have sealed."""
    server.execute("CREATE DATABASE receipts_split")
    url = server.dsn("receipts_split")
    stack.databases = lambda role: "" if role == "gateway" else url
    stack.start_role("ledger")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_receipt_made_by_five_processes_holds_before_both_verifiers(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    kept = SAMPLE.joinpath("profiles", f"{PROFILE}.yaml").read_text()
    (profiles / f"{PROFILE}.yaml").write_text(kept)
    with sources(tmp_path) as (_, replay):
        stack = Stack(tmp_path / "stack", "split", replay, profiles, drones=1)
        stack.directory.mkdir()
        if database == "postgresql":
            sharing(stack, request.getfixturevalue("postgres"))
        with running(stack):
            stack.collect_all()
            stack.settle()
            door = stack.door
            [row] = door.get("/v1/records", profile=PROFILE, limit=1)["items"]
            record = receipt(door.client, f"/v1/records/{row['id']}/receipt")
            report = door.client.post("/v1/reports", json=SPEC).json()
            assert report["row_count"] == 10, report
            column = report["columns"][-1]["name"]
            cell = receipt(door.client, f"/v1/reports/{report['id']}/receipt", row=3, column=column)
            policy = door.client.get("/v1/ledger/trust").content
            [worker] = list(door.items("/v1/workers"))
    for name, data in (("trust", policy), ("record.json", record), ("cell.json", cell)):
        (tmp_path / name).write_bytes(data)
    for name, more in (("record.json", ()), ("cell.json", ("--recompute",))):
        done = run_command("verify", name, "--trust", "trust", "--json", *more, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout)
        verdicts = {each["verdict"]: each["holds"] for each in told["verdicts"]}
        assert verdicts == {
            "recorded": True, "attributed": True, "reproduced": True if more else None,
        }  # fmt: skip
        if "worker_key" in told:
            assert (told["worker"], told["worker_key"]) == (worker["id"], worker["key"])
        else:
            assert (told["value"], told["carried"]) == (report["rows"][3][-1], 1)
    for answer in second([record, cell], policy):
        assert [each["holds"] for each in answer["found"]["verdicts"]] == [True, True], answer
