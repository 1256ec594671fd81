"""``holdfast worker`` and ``holdfast task``, against a real coordinator in this process."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from holdfast.fleet.cli import _finished, _trouble, register, register_cancel, task_app, worker_app
from holdfast.fleet.client import FleetClient
from holdfast.fleet.http import handlers
from holdfast.fleet.model import Task, TaskStatus
from holdfast.kernel.cli import CommandLine
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import open_database
from holdfast.kernel.errors import Unavailable
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.principal import Principal
from tests.support.fleet import OPERATOR, Registry, live_rig


class Terminal:
    """Runs commands; each opens the coordinator for itself, as one on a data directory does."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self.registry = Registry()
        self.turn = 0
        (folder / "state").mkdir()
        profiles = typer.Typer()
        register(profiles)
        profiles.command("noop")(lambda: None)
        runs = typer.Typer()
        register_cancel(runs)
        runs.command("noop")(lambda: None)
        self._apps = {"worker": worker_app, "task": task_app, "profile": profiles, "run": runs}

    def __call__(self, *words: str, given: str | None = None) -> Result:
        line = CommandLine(
            data_dir=self._folder,
            control_plane=None,
            log_level="",
            log_format="",
            open_here=self._open,
        )
        return CliRunner().invoke(self._apps[words[0]], list(words[1:]), obj=line, input=given)

    def json(self, *words: str) -> Any:
        result = self(*words, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    @asynccontextmanager
    async def _open(self, _: CommandLine) -> AsyncIterator[ApiClient]:
        self.turn += 1

        async def authenticate(_: Any) -> Principal:
            return OPERATOR

        async with open_database(self._url, clock=SystemClock()) as database:
            fleet = live_rig(database, registry=self.registry, seed=self.turn).fleet
            app = create_app(
                AppSpec(
                    role="coordinator",
                    version="0",
                    handlers=handlers(fleet),
                    authenticate=authenticate,
                )
            )
            async with ApiClient.for_app(app) as api:
                yield api
            await fleet.close()


@pytest.fixture
def terminal(sqlite_url: str, tmp_path: Path) -> Terminal:
    return Terminal(sqlite_url, tmp_path)


def test_a_join_token_is_written_to_a_file_that_only_its_owner_reads(
    terminal: Terminal, tmp_path: Path
) -> None:
    file = tmp_path / "join-token"
    file.write_text("older")
    there = terminal("worker", "token", "--out", str(file))
    assert (there.exit_code, file.read_text()) == (2, "older")
    assert "move that one away" in there.stderr
    assert terminal.json("worker", "token-list")["items"] == [], "no token was made for nothing"
    file.unlink()
    result = terminal("worker", "token", "--out", str(file))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert f"--join-token-file {file}" in result.stderr
    token = file.read_text()
    assert token.endswith("\n")
    assert token.strip() not in result.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    nowhere = terminal("worker", "token", "--out", str(tmp_path / "none" / "join-token"))
    assert nowhere.exit_code == 2
    assert "No such file" in nowhere.stderr
    both = terminal("worker", "token", "--out", str(file), "--json")
    assert (both.exit_code, file.read_text()) == (2, token)
    assert not list(tmp_path.glob(".join-token*"))


def test_a_join_token_goes_to_standard_output_alone(terminal: Terminal) -> None:
    result = terminal("worker", "token", "--region", "eu", "--expires", "7d", "--uses", "3")
    assert result.exit_code == 0
    assert result.stdout.startswith("hfj_")
    assert len(result.stdout.split()) == 1
    assert "--join-token-file FILE" in result.stderr
    told = terminal.json("worker", "token", "--capability", "ocr")
    assert told["capabilities"] == ["ocr"]


def test_join_tokens_are_listed_and_ended(terminal: Terminal) -> None:
    assert "holdfast worker token" in terminal("worker", "token-list").stderr
    made = terminal.json("worker", "token", "--uses", "3")
    [shown] = terminal.json("worker", "token-list")["items"]
    assert (shown["id"], shown["admits"], shown["uses_max"]) == (made["id"], True, 3)
    assert "token" not in shown
    ended = terminal("worker", "token-end", made["id"])
    assert (ended.exit_code, ended.stderr.partition(" ")[0]) == (0, made["id"])
    assert terminal.json("worker", "token-end", made["id"])["admits"] is False
    [shown] = terminal.json("worker", "token-list")["items"]
    assert (shown["admits"], shown["ended"]) == (False, "ended")
    assert "no:" in terminal("worker", "token-list").stdout
    assert "token-list" in terminal("worker", "token-end", "none").stderr


def test_workers_are_listed_and_revoked_by_name(terminal: Terminal) -> None:
    empty = terminal("worker", "list")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "holdfast worker token" in empty.stderr
    missing = terminal("worker", "revoke", "drone-1")
    assert missing.exit_code == 4
    assert "hint:" in missing.stderr


def test_a_task_is_submitted_shown_listed_and_cancelled(terminal: Terminal) -> None:
    task = terminal.json(
        "task", "submit", "review", "--payload", '{"document":"a"}', "--priority", "5"
    )
    assert (task["kind"], task["payload"], task["priority"]) == ("review", {"document": "a"}, 5)
    shown = terminal("task", "show", task["id"])
    assert "queued" in shown.stdout
    assert "payload document" in shown.stdout
    assert [each["id"] for each in terminal.json("task", "list", "--kind", "review")["items"]] == [
        task["id"]
    ]
    table = terminal("task", "list")
    assert task["id"] in table.stdout
    assert terminal.json("task", "cancel", task["id"], "--reason", "no")["status"] == "cancelled"
    assert terminal("task", "list", "--status", "queued").stdout == ""
    assert terminal("task", "submit", "review", "--payload", "-", given='{"a":1}').exit_code == 0
    broken = terminal("task", "submit", "review", "--payload", '{"a":')
    assert (broken.exit_code, "cannot read --payload: " in broken.stderr) == (2, True)
    assert "such as --payload" in broken.stderr


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("task", "show", "01970000-0000-7000-8000-000000000000"), 4),
        (("task", "list", "--status", "banana"), 2),
        (("task", "submit", "review", "--payload", "[1]"), 2),
        (("task", "submit", "review", "--payload", "{"), 2),
        (("worker", "token", "--expires", "soon"), 2),
        (("profile", "run", "rain"), 4),
        (("run", "cancel", "01970000-0000-7000-8000-000000000000"), 4),
    ],
)
def test_a_refusal_says_so_and_has_its_status(
    terminal: Terminal, words: tuple[str, ...], status: int
) -> None:
    result = terminal(*words)
    assert result.exit_code == status
    assert result.stdout == ""
    assert "error: cannot " in result.stderr


def test_a_profile_is_run_and_its_run_cancelled(terminal: Terminal) -> None:
    terminal.registry.publish("rain")
    task = terminal.json("profile", "run", "rain", "--force", "--pages", "2")
    assert (task["exclusive"], task["payload"]["pages"]) == ("profile:rain", 2)
    cancelled = terminal.json("run", "cancel", task["payload"]["run"])
    assert (cancelled["id"], cancelled["status"]) == (task["id"], "cancelled")


def test_nobody_waits_where_nothing_runs(terminal: Terminal) -> None:
    terminal.registry.publish("rain")
    refused = terminal("profile", "run", "rain", "--wait")
    assert refused.exit_code == 6
    assert "nothing runs here" in refused.stderr
    assert "holdfast up" in refused.stderr
    assert terminal.json("task", "list") == {"items": [], "next": None}, "nothing was submitted"
    kept = terminal("profile", "run", "rain")
    assert kept.exit_code == 0
    assert "once `holdfast up` runs" in kept.stderr
    run, profile, state = (line.split() for line in kept.stdout.splitlines())
    assert (profile, state) == (["profile", "rain"], ["state", "queued"])
    [task] = terminal.json("task", "list")["items"]
    assert run == ["run", task["payload"]["run"]]
    assert f"holdfast task show {task['id']}" in kept.stderr


def test_schedules_are_listed(terminal: Terminal) -> None:
    terminal.registry.publish("rain")
    terminal("profile", "run", "rain")
    assert [each["profile"] for each in terminal.json("task", "schedule")["items"]] == ["rain"]
    assert "rain" in terminal("task", "schedule").stdout


async def test_whoever_waits_is_told_why_the_system_cannot_work() -> None:
    services = [
        {"name": "gateway", "status": "ok", "detail": ""},
        {"name": "ledger", "status": "unhealthy", "detail": "disk: 0 bytes are left"},
    ]

    async def sent(found: Any) -> AsyncIterator[bytes]:
        yield json.dumps({"services": found}).encode()

    answers = [
        httpx.Response(200, content=sent(services)),
        httpx.Response(200, content=sent(services[:1])),
        httpx.Response(503, content=sent([])),
    ]
    transport = httpx.MockTransport(lambda request: answers.pop(0))
    async with ApiClient(httpx.AsyncClient(transport=transport, base_url="http://x")) as api:
        assert await _trouble(api) == "ledger is unhealthy: disk: 0 bytes are left"
        assert await _trouble(api) == ""
        assert await _trouble(api) == "", "a door that does not say"


async def test_whoever_waits_and_loses_the_system_is_told_that_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdfast.fleet.cli.WAIT_POLL_SECONDS", 0)
    task = Task(
        id="019f0000-0000-7000-8000-000000000001", kind="collect", payload={},
        status=TaskStatus.LEASED, capabilities=[], priority=0, residency="", fence=1, attempts=1,
        attempts_max=5, worker="drone", created_at="", available_at="", deadline=None,
        lease_seconds=60, lease_expires_at=None, finished_at=None, result=None,
    )  # fmt: skip
    with socket.socket() as taken:  # bound and not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        async with ApiClient.connect(f"http://127.0.0.1:{taken.getsockname()[1]}") as api:
            with pytest.raises(Unavailable, match="cannot see what becomes of the task") as gone:
                await _finished(FleetClient(api), task, 60, quiet=True)
    assert f"holdfast task show {task.id}" in gone.value.hint
