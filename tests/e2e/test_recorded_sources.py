"""The harder recorded sources through the served program: each twice, and mapped again.

What is stored is what mapping the same files offline gives (``tests/conformance/
test_recorded_facts.py`` holds that to the manifest, fact by fact), and the raw responses that are
kept have everything that the manifest says of the files; the second time nothing changes, and where
the source lets itself be asked conditionally nothing is transferred; mapping what is stored again
changes nothing. The ten sources of the sample are held to the same in ``test_sample.py``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.support import recorded
from tests.support.program import Program, started, wait_until
from tests.support.recorded_files import assert_as_recorded
from tests.support.stack import sources

ADDRESSES = {
    "usgs-water-discharge": "https://waterservices.usgs.gov/nwis/iv/",
    "census-county-population": "https://api.census.gov/data/2016/acs/acs5/cprofile",
    "gdacs-disaster-alerts": "https://www.gdacs.org/xml/rss_7d.xml",
    "ecb-dollar-euro-monthly": "https://data-api.ecb.europa.eu/service/data/EXR/M.USD.EUR.SP00.A",
}
"""Where a source answers today, if it was recorded from another address."""

FEWER = {"treasury-debt-to-the-penny": 61}
"""What was recorded is a part: the profile expects the whole of the live source."""

SECRETS = {
    "HOLDFAST_SECRET_FRED_API_KEY": "recorded",
    "HOLDFAST_SECRET_FRED_API_KEY_HOSTS": "api.stlouisfed.org",
}


@dataclass(frozen=True)
class Collected:
    """The program, and the runs of the first and the second time: profile → run."""

    program: Program
    first: dict[str, dict[str, Any]]
    second: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def twice(program: Program) -> Collected:
    """Everything collected, and collected again."""
    return Collected(program, collected(program), collected(program))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program on all of them, nothing collected yet."""
    root = tmp_path_factory.mktemp("recorded")
    profiles = root / "profiles"
    profiles.mkdir()
    shutil.copytree(recorded.PROFILES / "codes", profiles / "codes")
    for source in recorded.SOURCES:
        _place(recorded.PROFILES / f"{source}.yaml", profiles)
    with sources(root, recorded.folder()) as (url, replay):
        known = json.loads(replay.read_text())
        for source, files in recorded.SOURCES.items():
            name = source.rpartition("/")[2]
            if name in ADDRESSES:
                known[ADDRESSES[name]] = f"{url}/{files[0]}"
        replay.write_text(json.dumps(known))
        environment = {
            "HOLDFAST_COLLECT_REPLAY_FILE": str(replay),
            "HOLDFAST_COLLECT_ALLOW": url.removeprefix("http://"),
            "HOLDFAST_REGISTRY_PROFILES_DIR": str(profiles),
            "HOLDFAST_LOG_LEVEL": "warning",
            **SECRETS,
        }
        arguments = ["up", "--drones", "2", "--port", "0"]
        with started(arguments, root / "data", environment=environment) as running:
            wanted = len(recorded.SOURCES)
            wait_until(
                lambda: len(list(running.items("/v1/profiles", limit=100))) == wanted,
                what="every profile to be published",
            )
            yield running


def _place(profile: Path, folder: Path) -> None:
    """The shipped profile, collected by hand; where fewer were recorded, expecting no more."""
    document = yaml.safe_load(profile.read_text("utf-8"))
    document.pop("schedule", None)
    if profile.stem in FEWER:
        document["expect"]["min_records"] = FEWER[profile.stem]
    (folder / profile.name).write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")


def collected(program: Program, **more: Any) -> dict[str, dict[str, Any]]:
    """Run every source; profile → the run it came to."""
    names = sorted(source.rpartition("/")[2] for source in recorded.SOURCES)
    runs: dict[str, str] = {}
    for name in names:
        answer = program.client.post("/v1/tasks/collect", json={"profile": name, **more})
        assert answer.status_code == 201, answer.text
        runs[answer.json()["payload"]["run"]] = name
    found: dict[str, dict[str, Any]] = {}

    def over() -> bool:
        found.clear()
        for run in program.items("/v1/runs", limit=1000):
            if run["id"] in runs and run["finished_at"] is not None:
                found[runs[run["id"]]] = run
        return len(found) == len(names)

    wait_until(over, what="every source to be collected")
    return found


def shown(record: Any) -> str:
    """A record's content, comparable between what was mapped and what is stored."""
    measures = {
        name: (measure.get("value"), measure.get("unit") or "")
        for name, measure in record.get("measures", {}).items()
    }
    return json.dumps([record["key"], record.get("dimensions", {}), measures], sort_keys=True)


pytestmark = pytest.mark.timeout(900)


def test_every_recorded_source_is_stored_as_mapped(twice: Collected) -> None:
    program, first = twice.program, twice.first
    failed = {name: run for name, run in first.items() if run["status"] != "succeeded"}
    assert failed == {}, {name: run["reason"] for name, run in failed.items()}
    assert len(first) == 31
    assert all(run["replayed"] for run in first.values())
    for source in recorded.SOURCES:
        name = source.rpartition("/")[2]
        mapped = recorded.records_of(source)
        assert (name, first[name]["new"]) == (name, len(mapped))
        if len(mapped) > 20_000:
            continue  # counted; what it holds is compared for the others
        wanted = sorted(shown(_plain(record)) for record in mapped)
        assert sorted(map(shown, program.items("/v1/records", profile=name, limit=1000))) == wanted


def test_the_second_time_nothing_changes_and_nothing_is_sent(twice: Collected) -> None:
    for name, run in twice.second.items():
        counts = (run["new"], run["changed"], run["withdrawn"], run["rejects"])
        assert (name, run["status"], counts) == (name, "unchanged", (0,) * 4)
    spoke = {name for name, run in twice.second.items() if run["bytes_fetched"] != 0}
    assert spoke <= POSTED, spoke - POSTED


def test_the_raw_responses_that_are_kept_are_the_files_fact_by_fact(twice: Collected) -> None:
    """Bytes, digests, encoding, newlines, and what stands in them beside the records."""
    seen, facts = set(), 0
    for source, files in recorded.SOURCES.items():
        name = source.rpartition("/")[2]
        at = f"/v1/runs/{twice.first[name]['id']}/responses"
        kept = twice.program.get(at)
        assert len(kept) == len(files), name
        for file, each in zip(files, kept, strict=True):
            answer = twice.program.client.get(f"{at}/{each['response']['sequence']}/content")
            assert answer.status_code == 200
            facts += assert_as_recorded(file, answer.content)
            seen.add(file)
    assert seen == {entry["file"] for entry in recorded.manifest()["files"]}
    print(f"\n{facts} facts of {len(seen)} files hold of what is kept")


def test_mapping_what_is_kept_again_changes_nothing(twice: Collected) -> None:
    """All of them, from the stored bytes, without asking a source for anything."""
    for name, run in collected(twice.program, remap=True).items():
        counts = (run["new"], run["changed"], run["withdrawn"], run["rejects"], run["requests"])
        # Runs that build on each other are mapped again as one: then the kind is merge.
        assert run["kind"] in ("remap", "merge"), name
        assert (name, run["status"]) == (name, "succeeded")
        assert (name, counts) == (name, (0,) * 5)
        assert (name, run["unchanged"]) == (name, twice.first[name]["new"])


POSTED = {"bls-consumer-prices-components", "bls-apache-county-employment"}
"""Asked by POST, which no server answers by 304: their bytes come again, and are the same."""


def _plain(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(record))
    return found
