"""The commands of ``holdfast apikey``, on a service in this process."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from sqlalchemy import Connection
from typer.testing import CliRunner, Result

from holdfast.fleet.cli import worker_app
from holdfast.fleet.http import handlers as fleet_handlers
from holdfast.fleet.service import FleetService
from holdfast.identity.cli import apikey_app, role_app
from holdfast.identity.granting import Parts
from holdfast.identity.http import handlers
from holdfast.identity.people import store as people_store
from holdfast.identity.people.cli import person_app
from holdfast.identity.people.http import handlers as people_handlers
from holdfast.identity.people.service import PeopleService
from holdfast.identity.service import IdentityService
from holdfast.identity.signin import oauth_store, passkey_store
from holdfast.identity.signin.http import handlers as signin_handlers
from holdfast.identity.signin.http import oauth_handlers
from holdfast.identity.signin.oauth import OAuthService
from holdfast.identity.signin.oauth_model import OAuthSettings
from holdfast.identity.signin.passkey_model import PasskeySettings
from holdfast.identity.signin.passkeys import PasskeysService
from holdfast.identity.signin.providers import Wire
from holdfast.identity.signin.sessions import SessionLimits, SessionsService
from holdfast.kernel.cli import CommandLine, note_noun
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.credentials import Peppers
from holdfast.kernel.database import open_database
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.ids import id_source
from holdfast.kernel.outbox import BEGINNING, ClearSealer, Entry, Outbox
from holdfast.kernel.principal import (
    ALL_PERMISSIONS,
    Permission,
    Principal,
    PrincipalKind,
    operator,
)
from holdfast.kernel.signing import SigningKey
from holdfast.leases import MemoryLeases

BY = "BY_KEY"
"""Whose command it is, where it is not the operator's."""
AS = "AS_KIND"
MAY = "MAY_DO"
NOBODY_ELSE = cast(Wire, None)
"""No provider is configured, so none is asked."""
APPS = {"apikey": apikey_app, "worker": worker_app, "person": person_app, "role": role_app}
FORGED = "\x1b[2J\x1b[1;1Hfake: all is well\x1b[8m\nline\u202e"


@pytest.fixture
def invoke(sqlite_url: str, tmp_path: Path) -> Iterator[Any]:
    """Run a command; the keys stay in the database between commands."""

    @asynccontextmanager
    async def open_here(line: CommandLine) -> AsyncIterator[ApiClient]:
        clock = SystemClock()

        async def authenticate(_connection: Any) -> Principal:
            key = os.environ.get(BY)
            kind = PrincipalKind(os.environ.get(AS, "key"))
            may = frozenset(map(Permission, os.environ.get(MAY, "").split())) or ALL_PERMISSIONS
            found = replace(operator(), subject=key or "", kind=kind, permissions=may)
            return found if key else operator()

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
            parts = Parts(
                database,
                Outbox(ClearSealer()),
                Peppers({1: b"\x05" * 32}),
                clock,
                id_source(clock),
                os.urandom,
            )
            sessions = SessionsService(parts, SessionLimits())
            passkeys = PasskeysService(parts, sessions, PasskeySettings())
            oauth = OAuthService(parts, sessions, passkeys, OAuthSettings({}), NOBODY_ELSE)
            spec = AppSpec(
                role="identity",
                version="0",
                handlers=[
                    *handlers(service),
                    *fleet_handlers(fleet),
                    *people_handlers(PeopleService(parts)),
                    *signin_handlers(sessions, passkeys),
                    *oauth_handlers(oauth),
                ],
                authenticate=authenticate,
            )
            async with ApiClient.for_app(create_app(spec)) as api:
                yield api

    (tmp_path / "state").mkdir()
    line = CommandLine(tmp_path, None, "warning", "console", open_here)

    def run(*arguments: str, env: dict[str, str] | None = None, noun: str = "apikey") -> Result:
        note_noun(noun)
        return CliRunner().invoke(APPS[noun], list(arguments), obj=line, env=env)

    with structlog.testing.capture_logs():
        yield run


PERSON = "01a21cbb-894a-76f7-9f5f-41e756bbe4c4"
PASSKEY = "01a21cbb-894a-76f7-9f5f-41e756bbe4c5"


@pytest.fixture
def somebody(sqlite_url: str) -> None:
    """A person with a passkey, whose names are of a time when any were taken."""

    def unit(conn: Connection) -> None:
        person = {
            "tenant": "default", "id": PERSON, "name": FORGED, "email": "", "roles": '["admin"]',
            "created_at": "2026-01-01", "created_by": "operator", "event_id": "e-1",
        }  # fmt: skip
        people_store.add_person(conn, person)
        passkey = {
            "tenant": "default", "id": PASSKEY, "person": PERSON, "credential": "c",
            "public_key": b"", "counter": 0, "name": FORGED, "backed_up": False,
            "created_at": "2026-01-01", "used_at": "2026-01-01", "event_id": "e-2",
        }  # fmt: skip
        passkey_store.add_passkey(conn, passkey)

    async def body() -> None:
        async with open_database(sqlite_url, clock=SystemClock()) as database:
            await database.write(operator(), unit)

    asyncio.run(body())


def quiet(told: Result) -> str:
    """What was said, which does nothing to a terminal and is as many lines as were meant."""
    assert all(line.isprintable() for line in told.output.split("\n")), repr(told.output)
    assert not any(line.startswith("line") for line in told.output.split("\n"))
    return told.output


@pytest.mark.usefixtures("somebody")
def test_no_name_does_anything_to_the_terminal_of_who_reads_what_ends(invoke: Any) -> None:
    theirs = {BY: PERSON, AS: "person"}
    assert invoke("create", "bot", env=theirs).exit_code == 0
    for line in (
        ("disable", PERSON, "--dry-run"),
        ("show", PERSON),
        ("recover", PERSON),
        ("recover", PERSON),
        ("passkeys", PERSON),
        ("end-passkey", PASSKEY),
        ("show", FORGED[:-1]),
        ("list", "--json"),
        ("invitations", "--json"),
        ("disable", PERSON),
    ):
        told = invoke(*line, noun="person")
        assert (told.exit_code == 0) is (line[1] != FORGED[:-1]), told.output
        quiet(told)
    for line, noun in (
        (("invite", FORGED), "person"),
        (("create-admin", FORGED), "person"),
        (("create", FORGED), "apikey"),
    ):
        refused = invoke(*line, noun=noun)
        assert refused.exit_code == 2, refused.output
        assert "one line of text" in quiet(refused)


@pytest.mark.usefixtures("somebody")
def test_somebodys_passkeys_are_listed_and_ended(invoke: Any) -> None:
    (listed,) = json.loads(invoke("passkeys", PERSON, "--json", noun="person").stdout)["items"]
    assert (listed["id"], listed["ended_at"]) == (PASSKEY, None)
    assert "signs nobody in" in invoke("end-passkey", PASSKEY, noun="person").stderr
    assert "ended" in invoke("passkeys", PERSON, noun="person").stdout
    assert invoke("passkeys", PASSKEY, noun="person").exit_code == 4
    stolen = invoke("recover", PERSON, "--end-passkeys", "--json", noun="person")
    assert "passkeys_ended" not in json.loads(stolen.stdout)


@pytest.mark.usefixtures("somebody")
def test_what_ends_with_other_roles_is_told_with_the_join_tokens_of_it(invoke: Any) -> None:
    theirs = {BY: PERSON, AS: "person"}
    assert invoke("create", "bot", "--role", "admin", env=theirs).exit_code == 0
    (bot,) = keys(invoke)
    for by in (theirs, {BY: bot["id"]}, {}):
        assert invoke("token", noun="worker", env=by).exit_code == 0
    tokens = json.loads(invoke("token-list", "--json", noun="worker").stdout)["items"]
    of = {each["created_by"]: each["id"] for each in tokens}
    dry = invoke("roles", PERSON, "--role", "viewer", "--dry-run", noun="person")
    assert (dry.exit_code, "would end the key bot" in dry.stderr) == (0, True), dry.output
    for maker in (PERSON, bot["id"]):
        assert f"would end the join token {of[maker]}" in dry.stderr
    assert of["operator"] not in dry.stderr
    asked = ("roles", PERSON, "--role", "viewer", "--dry-run", "--json")
    told = json.loads(invoke(*asked, noun="person").stdout)
    assert {each["id"] for each in told["join_tokens"]} == {of[PERSON], of[bot["id"]]}
    # Who may make them still keeps those of their own; the key, which may more, ends.
    less = invoke("roles", PERSON, "--role", "operator", "--dry-run", noun="person")
    assert of[PERSON] not in less.stderr
    assert of[bot["id"]] in less.stderr
    assert keys(invoke)[0]["revoked_at"] is None
    done = invoke("roles", PERSON, "--role", "viewer", noun="person")
    assert f"ends the join token {of[PERSON]}" in done.stderr, done.output
    assert keys(invoke)[0]["revoked_at"]
    again = invoke("roles", PERSON, "--role", "viewer", "--dry-run", noun="person")
    assert "nothing else would end" in again.stderr


def test_what_is_said_of_roles_that_cannot_be(invoke: Any) -> None:
    for line, words in (
        (("drop", "viewer"), "cannot drop viewer: that role is built in"),
        (("drop", ""), "no name of a role"),
        (("drop", ".."), "no name of a role"),
        (("define", "", "--permission", "records:read"), "no name of a role"),
    ):
        told = invoke(*line, noun="role")
        assert told.exit_code != 0
        assert words in told.stderr, told.stderr
    assert invoke("define", "mine", "--permission", "records:read", noun="role").exit_code == 0
    dropped = invoke("drop", "mine", "--json", noun="role")
    assert json.loads(dropped.stdout) == {"name": "mine", "dropped": True}
    never = invoke("token", "--expires", "0s", noun="worker")
    assert (never.exit_code, "over as it begins" in never.stderr) == (2, True), never.stderr
    region = invoke("token", "--region", "Bad Region", noun="worker")
    assert "a letter or digit at both ends" in region.stderr
    assert "regex" not in region.stderr


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
    for unknown in ("nobody", made[0].replace(made[0][:4], "ffff")):
        told = invoke("revoke", unknown)
        assert (told.exit_code, "`holdfast apikey list`" in told.stderr) == (4, True), told.stderr


def test_a_key_that_was_ended_is_ended_again_and_it_is_said_since_when(invoke: Any) -> None:
    assert invoke("create", "bot").exit_code == 0
    first = invoke("revoke", "bot")
    (ended,) = keys(invoke)
    for again in ("bot", ended["id"]):
        told = invoke("revoke", again)
        assert told.exit_code == 0, told.stderr
        assert f"bot was revoked at {ended['revoked_at']}" in told.stderr
    assert ended["revoked_at"] in first.stderr
    assert json.loads(invoke("revoke", "bot", "--json").stdout)["revoked_at"] == ended["revoked_at"]
    assert invoke("create", "bot").exit_code == 0
    assert invoke("revoke", "bot").exit_code == 0, (
        "of several of a name the one that holds is meant"
    )
    assert all(one["revoked_at"] for one in keys(invoke))


def test_what_was_made_and_what_limits_it_is_told(invoke: Any) -> None:
    plain = invoke("create", "plain")
    (key,) = keys(invoke)
    assert f"key {key['id']} has the role viewer and may " in plain.stderr
    until = key["expires_at"][:10]
    assert f"it holds until {until} (90 days), for every profile, from any address" in plain.stderr
    narrow = ("--role", "auditor", "--role", "viewer", "--profile", "rain")
    told = invoke("create", "narrow", *narrow, "--address", "10.0.0.0/8", "--days", "7")
    assert "has the roles auditor, viewer and may" in told.stderr
    assert "(7 days), for rain only, from 10.0.0.0/8 only" in told.stderr
    made = json.loads(invoke("create", "third", "--json").stdout)
    assert made["roles"] == ["viewer"]
    assert made["key"]["expires_at"] > made["key"]["created_at"]
    asked = json.loads(invoke("create", "fourth", "--permission", "records:read", "--json").stdout)
    assert (asked["roles"], asked["key"]["permissions"]) == ([], ["records:read"])


def test_who_may_not_make_a_key_is_told_what_is_missing(invoke: Any) -> None:
    viewer = {BY: "019b0000-0000-7000-8000-00000000000a", MAY: "profiles:read"}
    told = invoke("create", "bot", env=viewer)
    assert told.exit_code == 3
    assert "identity:write is missing" in told.stderr, told.stderr
    # Whoever may make one, and see none, gets its secret all the same.
    assert invoke("create", "maker", "--role", "admin").exit_code == 0
    (maker,) = keys(invoke)
    writes = {BY: maker["id"], MAY: "identity:write records:read"}
    told = invoke("create", "bot", "--permission", "records:read", env=writes)
    assert told.exit_code == 0, told.stderr
    assert told.stdout.startswith("hf_")


@pytest.mark.usefixtures("somebody")
def test_somebodys_accounts_elsewhere_are_listed_and_unlinked(invoke: Any, sqlite_url: str) -> None:
    assert "no linked accounts" in invoke("accounts", PERSON, noun="person").stderr
    account = {
        "tenant": "default", "id": PASSKEY, "person": PERSON, "provider": "oidc",
        "issuer": "https://id.example.org", "subject": "s", "linked_at": "2026-01-01",
        "event_id": "e-3",
    }  # fmt: skip

    async def body() -> None:
        async with open_database(sqlite_url, clock=SystemClock()) as database:
            await database.write(operator(), lambda conn: oauth_store.add_account(conn, account))

    asyncio.run(body())
    (listed,) = json.loads(invoke("accounts", PERSON, "--json", noun="person").stdout)["items"]
    assert (listed["id"], listed["issuer"]) == (PASSKEY, "https://id.example.org")
    assert "https://id.example.org" in invoke("accounts", PERSON, noun="person").stdout
    assert invoke("accounts", PASSKEY, noun="person").exit_code == 4
    assert "signs nobody in any more" in invoke("unlink", PASSKEY, noun="person").stderr
    assert invoke("unlink", PASSKEY, noun="person").exit_code == 4
    assert "no linked accounts" in invoke("accounts", PERSON, noun="person").stderr


@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_address_and_no_moment_is_broken_in_a_narrow_terminal(
    invoke: Any, sqlite_url: str, width: int
) -> None:
    address, moment = "grace.brewster.murray@research.example.org", "2026-01-01T11:44"
    person = {
        "tenant": "default", "id": PERSON, "name": "Grace", "email": address, "roles": '["admin"]',
        "created_at": f"{moment}:05Z", "created_by": "operator", "event_id": "e-1",
    }  # fmt: skip
    passkey = {
        "tenant": "default", "id": PASSKEY, "person": PERSON, "credential": "c", "public_key": b"",
        "counter": 0, "name": "the key of the laptop", "backed_up": False,
        "created_at": f"{moment}:05Z", "used_at": f"{moment}:06Z", "event_id": "e-2",
    }  # fmt: skip

    async def body() -> None:
        async with open_database(sqlite_url, clock=SystemClock()) as database:
            await database.write(operator(), lambda conn: people_store.add_person(conn, person))
            await database.write(operator(), lambda conn: passkey_store.add_passkey(conn, passkey))

    asyncio.run(body())
    for line in (("list",), ("passkeys", PERSON)):
        told = invoke(*line, noun="person", env={"COLUMNS": str(width)})
        lines = told.stdout.splitlines()
        assert len(lines) == 2, told.stdout  # a heading and one line, wrapped nowhere
        assert PERSON in lines[1] or PASSKEY in lines[1]
        if width == 200:
            assert address in lines[1] or moment in lines[1]


def test_what_is_made_over_http_is_on_the_record_with_its_request(
    invoke: Any, sqlite_url: str
) -> None:
    assert invoke("token", noun="worker").exit_code == 0
    assert invoke("create", "bot").exit_code == 0

    async def body() -> list[Entry]:
        async with open_database(sqlite_url, clock=SystemClock()) as database:
            outbox = Outbox(ClearSealer())
            return await database.read(
                operator(), lambda conn: outbox.ready(conn, operator(), BEGINNING, 1000)
            )

    told = {each.event.type: each.event.request_id for each in asyncio.run(body())}
    assert told.keys() == {"join-token.created", "api-key.created"}
    assert all(told.values())


def test_what_a_key_may_and_until_when_is_in_a_list_of_many(invoke: Any) -> None:
    assert invoke("create", "chief", "--role", "admin").exit_code == 0
    some = ("identity:read", "ledger:read", "records:read", "runs:read", "system:read")
    many = [part for each in some for part in ("--permission", each)]
    assert invoke("create", "clerk", *many).exit_code == 0
    told = invoke("list", env={"COLUMNS": "120"})
    assert "as admin" in told.stdout
    assert all(each in told.stdout for each in (*some, "until")), told.stdout


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
