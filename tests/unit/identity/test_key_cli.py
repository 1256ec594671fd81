"""The commands of ``holdfast apikey``, on a service in this process."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from holdfast.fleet.cli import worker_app
from holdfast.fleet.http import handlers as fleet_handlers
from holdfast.fleet.service import FleetService
from holdfast.identity.cli import apikey_app
from holdfast.identity.http import handlers
from holdfast.identity.service import IdentityService
from holdfast.kernel.cli import CommandLine, note_noun
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.credentials import Peppers
from holdfast.kernel.database import open_database
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.ids import id_source
from holdfast.kernel.outbox import ClearSealer, Outbox
from holdfast.kernel.principal import Principal, PrincipalKind, operator
from holdfast.kernel.signing import SigningKey
from holdfast.leases import MemoryLeases

BY = "BY_KEY"
"""Whose command it is, where it is not the operator's."""


@pytest.fixture
def invoke(sqlite_url: str, tmp_path: Path) -> Iterator[Any]:
    """Run a command; the keys stay in the database between commands."""

    @asynccontextmanager
    async def open_here(line: CommandLine) -> AsyncIterator[ApiClient]:
        clock = SystemClock()

        async def authenticate(_connection: Any) -> Principal:
            key = os.environ.get(BY)
            return replace(operator(), subject=key, kind=PrincipalKind.KEY) if key else operator()

        async with open_database(sqlite_url, clock=clock) as database:
            service = IdentityService(
                database,
                Outbox(ClearSealer()),
                Peppers({1: b"\x05" * 32}),
                clock,
                id_source(clock),
                os.urandom,
            )
            fleet = FleetService(
                database,
                MemoryLeases(clock),
                Outbox(ClearSealer()),
                SigningKey.from_seed(b"\x07" * 32),
                Peppers({1: b"\x01" * 32}),
                clock=clock,
                new_id=id_source(clock),
                random=os.urandom,
                chance=random.random,
                makers=service,
            )
            spec = AppSpec(
                role="identity",
                version="0",
                handlers=[*handlers(service), *fleet_handlers(fleet)],
                authenticate=authenticate,
            )
            async with ApiClient.for_app(create_app(spec)) as api:
                yield api

    (tmp_path / "state").mkdir()
    line = CommandLine(tmp_path, None, "warning", "console", open_here)

    def run(*arguments: str, env: dict[str, str] | None = None, noun: str = "apikey") -> Result:
        note_noun(noun)
        app = worker_app if noun == "worker" else apikey_app
        return CliRunner().invoke(app, list(arguments), obj=line, env=env)

    with structlog.testing.capture_logs():
        yield run


def keys(invoke: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(invoke("list", "--json").stdout)["items"]
    return found


def test_a_key_is_ended_by_its_name_unless_two_have_it(invoke: Any) -> None:
    first = invoke("create", "bot")
    assert (first.exit_code, "too" in first.stderr) == (0, False), first.stderr
    assert "HOLDFAST_OPERATOR_TOKEN_FILE" in first.stderr
    second = invoke("create", "bot")
    assert "another live key is named bot, too" in second.stderr
    made = [one["id"] for one in keys(invoke)]
    either = invoke("revoke", "bot")
    assert (either.exit_code, "2 live keys are named so" in either.stderr) == (5, True)
    assert all(one in either.stderr for one in made)
    assert invoke("revoke", made[0]).exit_code == 0
    by_name = invoke("revoke", "bot")
    assert (by_name.exit_code, "bot was revoked" in by_name.stderr) == (0, True)
    assert all(one["revoked_at"] for one in keys(invoke))
    for unknown in ("bot", made[0].replace(made[0][:4], "ffff")):
        told = invoke("revoke", unknown)
        assert (told.exit_code, "`holdfast apikey list`" in told.stderr) == (4, True), told.stderr


def test_what_ends_with_a_key_is_shown_before_it_does(invoke: Any) -> None:
    assert invoke("create", "bot", "--role", "admin").exit_code == 0
    (made,) = keys(invoke)
    child = invoke("create", "child", "--json", env={BY: made["id"]})
    shown = invoke("revoke", "bot", "--dry-run")
    assert (shown.exit_code, "would end the key child" in shown.stderr) == (0, True), shown.stderr
    told = json.loads(invoke("revoke", "bot", "--dry-run", "--json").stdout)
    assert [each["name"] for each in told["keys"]] == ["child"], child.stderr
    assert not any(each["revoked_at"] for each in keys(invoke))
    ended = invoke("revoke", "bot")
    assert ended.stderr.index("ends the key child") < ended.stderr.index("bot was revoked")
    assert all(each["revoked_at"] for each in keys(invoke))
    assert "nothing else" in invoke("revoke", made["id"], "--dry-run").stderr


def test_the_join_tokens_that_end_with_a_key_are_shown_and_listed_as_ended(invoke: Any) -> None:
    assert invoke("create", "bot", "--role", "admin").exit_code == 0
    (made,) = keys(invoke)
    for by in ({BY: made["id"]}, {}):
        assert invoke("token", noun="worker", env=by).exit_code == 0
    mine, its = json.loads(invoke("token-list", "--json", noun="worker").stdout)["items"]
    assert (mine["created_by"], its["created_by"]) == ("operator", made["id"])
    shown = invoke("revoke", "bot", "--dry-run")
    assert f"would end the join token {its['id']}" in shown.stderr, shown.stderr
    assert mine["id"] not in shown.stderr
    assert "nothing else" not in shown.stderr
    told = json.loads(invoke("revoke", "bot", "--dry-run", "--json").stdout)
    assert told["join_tokens"] == [{"id": its["id"], "admits": True, "uses": 0}]
    ended = invoke("revoke", "bot")
    assert f"ends the join token {its['id']}" in ended.stderr, ended.stderr
