"""A format that another package brings, through the served program: published, previewed,
collected, collected again, mapped again; and what is said where the package is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.plugin import blocks, install
from tests.support.program import Program, run_command, started, wait_until
from tests.support.stack import sources

pytestmark = pytest.mark.timeout(1200)

PAGE = """station day       rain
A00012024-03-01   1.50
A00012024-03-02  -99.9
B00022024-03-01   0.25
"""


def test_a_format_of_another_package_is_collected_with(tmp_path: Path) -> None:
    files, profiles = tmp_path / "files", tmp_path / "profiles"
    files.mkdir()
    profiles.mkdir()
    (files / "rain.txt").write_text(PAGE)
    [profile] = blocks("yaml")
    named = profiles / "rain-stations.yaml"
    named.write_text(profile)
    (profiles / "no-such.yaml").write_text(
        profile.replace("name: rain-stations", "name: no-such").replace("fixed-width", "nowhere")
    )
    site = install(tmp_path / "site")
    with sources(tmp_path, files) as (url, replay):
        replay.write_text(json.dumps({"https://weather.example.org": url}))
        environment = {
            "PYTHONPATH": str(site),
            "HOLDFAST_COLLECT_REPLAY_FILE": str(replay),
            "HOLDFAST_REGISTRY_PROFILES_DIR": str(profiles),
            "HOLDFAST_LOG_LEVEL": "warning",
        }
        data = tmp_path / "data"
        arguments = ["up", "--drones", "1", "--port", "0"]
        with started(arguments, data, environment=environment) as program:
            wait_until(lambda: len(list(program.items("/v1/profiles"))) == 2, what="the profiles")
            shown = run_command(
                *("profile", "preview", str(named), "--json", "--data-dir", str(data)),
                environment=environment,
            )
            assert shown.returncode == 0, shown.stderr
            assert len(json.loads(shown.stdout)["records"]) == 3
            first = ran(program, data, "run", "rain-stations", "--wait")
            assert (first["status"], first["records"], first["rejects"]) == ("succeeded", 3, 0)
            records = list(program.items("/v1/records", profile="rain-stations"))
            found = {
                (each["dimensions"]["station"], each["period"]["start"]): each["measures"]["rain"]
                for each in records
            }
            assert found["A0001", "2024-03-01"]["value"] == "1.50"
            assert found["A0001", "2024-03-01"]["unit"] == "mm"
            assert found["A0001", "2024-03-02"].get("value") is None
            again = ran(program, data, "run", "rain-stations", "--wait")
            assert (again["status"], again["bytes_fetched"]) == ("unchanged", 0)
            mapped = ran(program, data, "remap", "rain-stations")
            counts = (mapped["new"], mapped["changed"], mapped["withdrawn"], mapped["unchanged"])
            assert counts == (0, 0, 0, 3)
            refused = ran(program, data, "run", "no-such", "--wait", fails=True)
            assert refused["status"] == "failed"
            assert "cannot read the format 'nowhere'" in refused["reason"]


def ran(program: Program, data: Path, *words: str, fails: bool = False) -> dict[str, object]:
    """The run that a command of ``holdfast profile`` came to."""
    done = run_command("profile", *words, "--json", "--data-dir", str(data))
    assert (done.returncode != 0) is fails, done.stderr
    said = json.loads(done.stdout)
    if "run" in said:
        return dict(said["run"])
    return dict(program.get(f"/v1/runs/{said['payload']['run']}"))
