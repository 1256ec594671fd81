"""The commands of ``holdfast profile``, on a data directory opened in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from holdfast.kernel.cli import CommandLine
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import open_database
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.ids import id_source
from holdfast.kernel.outbox import ClearSealer, Outbox
from holdfast.kernel.principal import Principal, operator
from holdfast.registry.cli import app
from holdfast.registry.document import write_document
from holdfast.registry.http import handlers
from holdfast.registry.service import RegistryService
from holdfast.registry.validate import load_profile
from tests.unit.registry.profiles import GOOD

Invoke = Any


@pytest.fixture
def invoke(sqlite_url: str, tmp_path: Path) -> Iterator[Invoke]:
    """Run a command against a registry on a fresh SQLite database."""

    @asynccontextmanager
    async def open_here(line: CommandLine) -> AsyncIterator[ApiClient]:
        clock = SystemClock()

        async def authenticate(_connection: Any) -> Principal:
            return operator()

        async with open_database(sqlite_url, clock=clock) as database:
            service = RegistryService(database, Outbox(ClearSealer()), clock, id_source(clock))
            spec = AppSpec(
                role="registry",
                version="0",
                handlers=handlers(service),
                authenticate=authenticate,
            )
            async with ApiClient.for_app(create_app(spec)) as api:
                yield api

    (tmp_path / "state").mkdir()
    line = CommandLine(tmp_path, None, "warning", "console", open_here)

    def run(*arguments: str | Path, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(each) for each in arguments], obj=line, input=stdin)

    # Where no logging is configured it goes to standard output, among the data.
    with structlog.testing.capture_logs():
        yield run


@pytest.fixture
def rain(tmp_path: Path) -> Path:
    path = tmp_path / "rain.yaml"
    path.write_text(write_document(GOOD), encoding="utf-8")
    return path


def edit(path: Path, **members: Any) -> Path:
    path.write_text(write_document(GOOD | members), encoding="utf-8")
    return path


def test_validate_lists_everything_by_file_and_line(
    invoke: Invoke, rain: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(write_document(GOOD | {"titel": "x", "timezone": "Mars"}))
    result = invoke("validate", rain, bad)
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{rain}: good, rain sha256:")
    assert len(lines) == 3
    assert all(line.startswith(f"{bad}: line ") for line in lines[1:])
    assert "did you mean title?" in result.stdout
    assert "cannot use 1 of 2 profiles" in result.stderr
    found = json.loads(invoke("validate", bad, "--json").stdout)
    assert [problem["path"] for problem in found[0]["problems"]] == ["titel", "timezone"]


def test_a_folder_stands_for_the_profiles_in_it(invoke: Invoke, rain: Path, tmp_path: Path) -> None:
    good = invoke("validate", rain.parent)
    assert (good.exit_code, good.stdout.startswith(f"{rain}: good")) == (0, True)
    rain.with_suffix(".json").write_text(json.dumps(GOOD))
    assert invoke("validate", rain.parent).stdout.count(": good, rain") == 2
    rain.with_suffix(".json").unlink()
    (tmp_path / "empty").mkdir()
    bare = invoke("validate", tmp_path / "empty")
    assert bare.exit_code == 2
    assert "no file below it ends in .yaml" in bare.stderr
    (tmp_path / "bad.yaml").write_text("version: [")
    assert "correct what each line names" in invoke("validate", tmp_path / "bad.yaml").stderr


def test_a_missing_file_is_told(invoke: Invoke, tmp_path: Path) -> None:
    for command in ("validate", "publish"):
        result = invoke(command, tmp_path / "nowhere.yaml")
        assert result.exit_code == 2
        assert "cannot read" in result.stderr


def test_one_file_that_cannot_be_read_does_not_hide_the_others(
    invoke: Invoke, rain: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * 400_000)
    nowhere = tmp_path / "nowhere.yaml"
    result = invoke("validate", nowhere, large, rain)
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert lines[0] == f"{nowhere}: No such file or directory"
    assert lines[1] == f"{large}: a profile has at most 262,144 bytes, this file 400,000"
    assert lines[2].startswith(f"{rain}: good")
    alone = invoke("publish", large)
    assert (alone.exit_code, str(large) in alone.stderr) == (2, True)
    assert "one profile describes one source" in alone.stderr


def test_what_several_files_would_change_stands_below_their_names(
    invoke: Invoke, rain: Path, tmp_path: Path
) -> None:
    snow = tmp_path / "snow.yaml"
    snow.write_text(write_document(GOOD | {"name": "snow"}), encoding="utf-8")
    lines = invoke("publish", rain, snow, "--dry-run").stdout.splitlines()
    assert lines[0] == f"{rain}:"
    assert '+ name: "snow"' in lines[lines.index(f"{snow}:") :]


def test_publish_then_diff_then_show(invoke: Invoke, rain: Path) -> None:
    planned = invoke("publish", rain, "--dry-run")
    assert "would be published" in planned.stderr
    assert "+ source.url:" in planned.stdout
    assert invoke("list").exit_code == 0
    assert json.loads(invoke("list", "--json").stdout)["items"] == []
    assert "rain published, sha256:" in invoke("publish", rain).stderr
    assert "rain unchanged" in invoke("publish", rain).stderr
    edit(rain, title="Rain", nulls=["", "-"])
    assert invoke("diff", rain).stdout.splitlines() == ['+ nulls: ["","-"]', '+ title: "Rain"']
    published = json.loads(invoke("publish", rain, "--json").stdout)[0]
    assert "- title" not in invoke("diff", "rain").stdout
    assert '+ title: "Rain"' in invoke("diff", "rain").stdout
    assert (
        "+ title" not in invoke("diff", "rain", "--before", published["version"]["digest"]).stdout
    )
    shown = invoke("show", "rain").stdout
    assert load_profile(shown.encode()).title == "Rain"
    old = invoke("show", "rain", "--digest", published["previous"]).stdout
    assert load_profile(old.encode()).title == ""
    versions = json.loads(invoke("show", "rain", "--versions", "--json").stdout)["items"]
    assert [each["current"] for each in versions] == [True, False]


def test_publish_reads_standard_input_and_json(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("publish", "-", stdin=write_document(GOOD)).exit_code == 0
    path = tmp_path / "snow.json"
    path.write_text(json.dumps(GOOD | {"name": "snow"}))
    assert invoke("publish", path).exit_code == 0
    items = json.loads(invoke("list", "--json").stdout)["items"]
    assert [item["name"] for item in items] == ["rain", "snow"]


def test_publish_only_if_the_expected_version_runs(invoke: Invoke, rain: Path) -> None:
    assert invoke("publish", rain, "--expect", "").exit_code == 0
    edit(rain, title="x")
    late = invoke("publish", rain, "--expect", "")
    assert late.exit_code == 5
    assert "runs now" in late.stderr


def test_publish_tells_all_problems_at_once(invoke: Invoke, rain: Path) -> None:
    edit(rain, titel="x", mode="never")
    refused = invoke("publish", rain)
    assert refused.exit_code == 2
    assert "titel" in refused.stderr
    assert "mode" in refused.stderr


def test_pause_override_resume_and_history(invoke: Invoke, rain: Path) -> None:
    invoke("publish", rain)
    assert "paused" in invoke("pause", "rain").stdout
    assert "active" in invoke("resume", "rain").stdout
    changed = invoke("override", "rain", "--every", "30m", "--limit", "max_pages=7")
    assert "every 30m" in changed.stdout
    assert "max_pages=7" in changed.stdout
    cron = json.loads(
        invoke(
            "override", "rain", "--cron", "0 6 * * *", "--timezone", "Europe/Paris", "--json"
        ).stdout
    )
    assert cron["schedule"]["timezone"] == "Europe/Paris"
    assert "by hand" in invoke("override", "rain", "--clear").stdout
    history = json.loads(invoke("show", "rain", "--history", "--json").stdout)["items"]
    assert [each["action"] for each in history] == [
        "overridden",
        "overridden",
        "overridden",
        "resumed",
        "paused",
        "published",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--limit", "max_pages=many"),
        ("--limit", "max_pagse=7"),
        ("--every", "soon"),
        ("--every", "1h", "--cron", "0 0 * * *"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused(
    invoke: Invoke, rain: Path, arguments: tuple[str, ...]
) -> None:
    invoke("publish", rain)
    assert invoke("override", "rain", *arguments).exit_code == 2


def test_what_is_not_there_is_told_with_a_hint(invoke: Invoke) -> None:
    result = invoke("show", "snow")
    assert result.exit_code == 4
    assert "cannot find the profile 'snow'" in result.stderr
    assert "hint: `holdfast profile list`" in result.stderr
