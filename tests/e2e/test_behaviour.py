"""What a profile says happens on the wire: schedule, limits, auth, enabled, freshness, and more.

One program with short leases collects from a recorded source that counts what it is asked.
"""

from __future__ import annotations

import base64
import json
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.https import Origin, served
from tests.support.program import Program, run_command, started, wait_until
from tests.support.stack import QUICK, sources

GOOD = [{"id": f"a{n}", "v": n} for n in range(5)]
BAD = [*GOOD, {"id": "a5", "v": "five"}]
SECRET = "open-sesame-4711"
SPOILT = {
    "renamed": b"id,value\na0,0\na1,1\n",
    "excused": b"<!doctype html><html><body>Back at noon</body></html>\n",
    "emptied": b"",
}
"""What sources send in place of a table with the columns id and v."""


@dataclass
class World:
    """The program, the source and the folder of profiles."""

    program: Program
    source: str
    profiles: Path
    replay: Path
    api: Origin
    other: Origin

    def profile(
        self,
        name: str,
        more: str = "",
        source: str = "",
        address: str = "",
        *,
        table: bool = False,
    ) -> str:
        """Publish a profile of its own address by putting it into the folder."""
        address = address or f"http://{name}.source.test/good.json?p={name}"
        text = textwrap.dedent(
            f"""\
            version: 1
            name: {name}
            publisher: A test
            licence: none
            source:
              url: {address}
              format: {{type: {"csv" if table else "json"}}}
              {source}
            key: [dimensions.id]
            dimensions: {{id: {"id" if table else "$.id"}}}
            measures: {{v: {"v" if table else "$.v"}}}
            """
        )
        (self.profiles / f"{name}.yaml").write_text(text + textwrap.dedent(more))
        wait_until(lambda: self._published(name), what=f"{name} to be published")
        return name

    def _published(self, name: str) -> bool:
        return bool(self.program.client.get(f"/v1/profiles/{name}").status_code == 200)

    def map(self, name: str, file: str) -> None:
        """Let the profile's address lead to this recorded file."""
        known = json.loads(self.replay.read_bytes())
        original = f"http://{name}.source.test/good.json?p={name}"
        known[original] = f"{self.source}/{file}?p={name}"
        self.replay.write_text(json.dumps(known))

    def collect(self, name: str) -> Any:
        """Run it now; the run as it ended."""
        answer = self.program.client.post("/v1/tasks/collect", json={"profile": name})
        assert answer.status_code < 300, answer.text
        task = answer.json()["id"]

        def ended() -> Any:
            found = self.program.get(f"/v1/tasks/{task}")
            return found if found["status"] in ("succeeded", "dead", "cancelled") else None

        over = wait_until(ended, what=f"the run of {name}")
        return self.program.get(f"/v1/runs/{over['payload']['run']}")

    def fetches(self, name: str) -> int:
        """How often the source was asked for this profile."""
        seen = httpx.get(f"{self.source}/__requests?all=1", trust_env=False).json()
        return sum(f"p={name}" in json.dumps(request) for request in seen["requests"])

    def kept(self, name: str) -> list[Any]:
        return list(self.program.items("/v1/records", profile=name))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base = tmp_path_factory.mktemp("behaviour")
    files = base / "files"
    files.mkdir()
    (files / "good.json").write_text(json.dumps(GOOD))
    (files / "bad.json").write_text(json.dumps(BAD))
    for name, content in SPOILT.items():
        (files / f"{name}.csv").write_bytes(content)
    profiles = base / "profiles"
    profiles.mkdir()
    replay = base / "map.json"
    api, other = Origin("api.test", GOOD), Origin("other.test", GOOD)
    busy = "status@/busy.csv,status=503,retry_after=600"
    (files / "busy.csv").write_bytes(b"id,v\na0,0\n")
    with sources(base, files, busy) as (url, _), served(api, other, folder=base) as authority:
        api.moved = {"/here": "/data", "/away": f"{other.url}/data", "/away-key": f"{other.url}/k"}
        hosts = [each.url.removeprefix("https://") for each in (api, other)]
        names = [
            *("plain", "limited", "pages", "auth", "rejects", "two", "few", "range"),
            *("once", "never", "stale", "shut", "pause", "change", "gone"),
            *SPOILT,
        ]
        replay.write_text(
            json.dumps(
                {f"http://{n}.source.test/good.json?p={n}": f"{url}/good.json?p={n}" for n in names}
                | {
                    f"http://{n}.source.test/good.json?p={n}": f"{url}/bad.json?p={n}"
                    for n in ("rejects", "two")
                }
                | {
                    f"http://{n}.source.test/good.json?p={n}": f"{url}/{n}.csv"
                    for n in (*SPOILT, "busy")
                }
            )
        )
        resolver = base / "names.json"
        resolver.write_text(json.dumps({each.name: [["127.0.0.1"]] for each in (api, other)}))
        environment = QUICK | {
            "HOLDFAST_REGISTRY_PROFILES_DIR": str(profiles),
            "HOLDFAST_REGISTRY_WATCH_SECONDS": "0.2",
            "HOLDFAST_COLLECT_REPLAY_FILE": str(replay),
            "HOLDFAST_COLLECT_RESOLVER": f"file:{resolver}",
            "HOLDFAST_COLLECT_ALLOW": ",".join(hosts),
            "HOLDFAST_COLLECT_CA_FILE": str(authority),
            "HOLDFAST_SECRET_KEY": SECRET,
            "HOLDFAST_SECRET_BOUND": SECRET,
            "HOLDFAST_SECRET_BOUND_HOSTS": hosts[0],
        }
        with started(
            ["up", "--drones", "2", "--port", "0"], base / "data", environment=environment
        ) as program:
            wait_until(
                lambda: any(w["status"] == "alive" for w in program.items("/v1/workers")),
                what="a drone",
            )
            yield World(program, url, profiles, replay, api, other)


def test_a_schedule_is_kept_and_nothing_else_fetches(world: World) -> None:
    world.profile("plain", "schedule: {every: 2s}\n")
    wait_until(lambda: world.fetches("plain") >= 3, what="three fetches by schedule")
    runs = [r["started_at"] for r in world.program.items("/v1/runs", profile="plain")]
    assert len(runs) <= world.fetches("plain") + 1
    world.profile("never", "schedule: {every: 6h}\nenabled: false\n")
    world.profile("once")
    before = world.fetches("plain")
    wait_until(lambda: world.fetches("plain") > before, what="another fetch by schedule")
    assert world.fetches("never") == 0
    assert world.fetches("once") == 0
    refused = world.program.client.post("/v1/tasks/collect", json={"profile": "never"})
    assert refused.status_code == 404
    assert refused.json()["code"] == "profile-not-runnable"


def test_a_paused_profile_is_not_fetched_until_it_is_resumed(world: World) -> None:
    world.profile("pause", "schedule: {every: 1s}\n")
    wait_until(lambda: world.fetches("pause") >= 1, what="a fetch")
    assert world.program.client.post("/v1/profiles/pause/pause", json={}).status_code == 200
    wait_until(
        lambda: (
            not [
                t
                for t in world.program.items("/v1/tasks")
                if t["payload"].get("profile") == "pause" and t["status"] in ("queued", "leased")
            ]
        ),
        90,
    )
    before = world.fetches("pause")
    other = world.fetches("plain") if (world.profiles / "plain.yaml").exists() else 0
    deadline = time.monotonic() + 3
    wait_until(lambda: time.monotonic() > deadline, 5)
    assert world.fetches("pause") == before, other
    assert world.program.client.post("/v1/profiles/pause/resume", json={}).status_code == 200
    wait_until(lambda: world.fetches("pause") > before, what="a fetch after resuming")


def test_the_second_look_at_an_unchanged_source_changes_nothing(world: World) -> None:
    world.profile("change")
    first, second = world.collect("change"), world.collect("change")
    assert (first["status"], first["new"]) == ("succeeded", 5)
    assert (second["status"], second["new"], second["bytes_fetched"]) == ("unchanged", 0, 0)
    assert second["replayed"] is True


def test_a_limit_ends_the_run_partial_and_publishes_nothing(world: World) -> None:
    world.profile("limited", "limits: {max_records: 3}\n")
    run = world.collect("limited")
    assert run["status"] == "partial"
    assert "more than 3 records" in run["reason"]
    assert world.kept("limited") == []


def test_a_secret_without_a_binding_is_not_sent(world: World) -> None:
    """An unbound secret never leaves the drone, and the message says what to do."""
    world.profile(
        "auth",
        source='auth: {type: bearer, token: "secret://env/KEY"}',
        address="https://auth.source.test/good.json?p=auth",
    )
    run = world.collect("auth")
    assert run["status"] == "failed"
    assert "secret" in run["code"] + run["reason"]
    assert SECRET not in json.dumps(run) + world.program.tail(2000)
    assert world.fetches("auth") == 0


BOUND = '"secret://env/BOUND"'
WAYS = {
    "bearer": (f"{{type: bearer, token: {BOUND}}}", "authorization", f"Bearer {SECRET}"),
    "basic": (
        f"{{type: basic, username: me, password: {BOUND}}}",
        "authorization",
        "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode(),
    ),
    "header": (f"{{type: api-key, key: {BOUND}, header: X-Key}}", "x-key", SECRET),
    "parameter": (f"{{type: api-key, key: {BOUND}, parameter: key}}", "", ""),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_bound_secret_arrives_at_its_host_and_nowhere_else(world: World, way: str) -> None:
    """Over TLS, at the origin it is bound to; also after a redirect there, never after one away."""
    auth, header, value = WAYS[way]
    for path in ("data", "here", "away"):
        name = f"{way}-{path}"
        world.profile(name, source=f"auth: {auth}", address=f"{world.api.url}/{path}?p={name}")
        run = world.collect(name)
        assert (run["status"], run["new"]) == ("succeeded", 5), run
        asked = [(t, h) for t, h in world.api.seen if f"p={name}" in t]
        (target, headers), *_ = asked
        assert headers.get(header, "") == value
        assert (f"key={SECRET}" in target) == (way == "parameter")
        told = json.dumps(
            [run, list(world.program.items("/v1/records", profile=name, provenance="true"))]
        )
        assert SECRET not in told
        assert (value or SECRET) not in told
    assert SECRET not in world.program.tail(5000)
    # Redirects carry no query of ours, so these were led there.
    assert any(headers.get(header, "") == value for headers in world.api.headers("/data"))
    assert world.other.headers("/data")
    assert SECRET not in json.dumps(world.other.seen)
    if header:
        assert not any(header in headers for headers in world.other.headers("/data"))


def test_a_secret_bound_to_one_host_is_not_sent_to_another(world: World) -> None:
    """Whoever writes the profile, the operator's word decides where a secret may go."""
    name = world.profile(
        "elsewhere",
        source=f"auth: {{type: bearer, token: {BOUND}}}",
        address=f"{world.other.url}/data?p=elsewhere",
    )
    run = world.collect(name)
    assert (run["status"], run["code"]) == ("failed", "secret-refused")
    assert not any("p=elsewhere" in target for target, _ in world.other.seen)


def test_rejects_beyond_the_allowed_number_fail_the_run(world: World) -> None:
    world.profile("rejects")
    run = world.collect("rejects")
    assert (run["status"], run["rejects"]) == ("failed", 1)
    assert world.kept("rejects") == []
    (reject,) = world.program.items("/v1/rejects", run=run["id"])
    assert (reject["position"], reject["field"]) == (5, "v")
    assert "five" in reject["excerpt"]


def test_rejects_within_the_allowed_number_are_named_and_the_rest_is_kept(world: World) -> None:
    world.profile("two", "max_rejects: 1\n")
    run = world.collect("two")
    assert (run["status"], run["rejects"], run["new"]) == ("succeeded", 1, 5)
    assert len(world.kept("two")) == 5


@pytest.mark.parametrize("name", SPOILT)
def test_what_a_source_sent_is_kept_when_nothing_can_be_made_of_it(world: World, name: str) -> None:
    world.profile(name, table=True)
    run = world.collect(name)
    assert (run["status"], run["code"], run["pages"]) == ("failed", "parse", 1)
    [one] = world.program.get(f"/v1/runs/{run['id']}/responses")
    raw = world.program.client.get(f"/v1/runs/{run['id']}/responses/0/content")
    assert (raw.status_code, raw.content) == (200, SPOILT[name])
    assert one["response"]["size_bytes"] == len(SPOILT[name])
    where = ["--data-dir", str(world.program.data_dir)]
    taken = run_command("run", "raw", run["id"], "--out", "-", *where)
    assert (taken.returncode, taken.stdout.encode()) == (0, SPOILT[name])
    assert one["response"]["digest"] in taken.stderr
    if name == "renamed":  # the profile is mended against what came, and the source not asked
        page, mended = world.profiles.parent / "page.csv", world.profiles.parent / "mended.yaml"
        run_command("run", "raw", run["id"], "--out", str(page), *where)
        text = (world.profiles / "renamed.yaml").read_text().replace("v: v", "v: value")
        mended.write_text(text)
        asked = world.fetches(name)
        shown = run_command("profile", "preview", str(mended), "--file", str(page), "--json")
        assert [one["key"] for one in json.loads(shown.stdout)["records"]] == [["a0"], ["a1"]]
        assert world.fetches(name) == asked
    assert world.kept(name) == []


@pytest.mark.parametrize(
    ("name", "expect"),
    [("few", "{min_records: 6}"), ("range", "{ranges: {measures.v: {max: 3}}}")],
)
def test_what_is_not_as_expected_is_not_published(world: World, name: str, expect: str) -> None:
    world.profile(name, f"expect: {expect}\n")
    run = world.collect(name)
    assert run["status"] == "failed"
    assert run["reason"]
    assert world.kept(name) == []


def test_silence_beyond_the_freshness_shows(world: World) -> None:
    world.profile("stale", "freshness: 1s\n")
    assert world.collect("stale")["status"] == "succeeded"

    def shown(status: str) -> bool:
        found = world.program.get("/v1/overview")
        said = any(problem.startswith("stale: ") for problem in found["problems"])
        [line] = [each for each in found["profiles"] if each["name"] == "stale"]
        return bool(line["status"] == status and line["stale"] == said == (status == "stale"))

    wait_until(lambda: shown("stale"), what="the profile to be stale")
    (world.profiles / "stale.yaml").unlink()
    wait_until(lambda: shown("removed"), what="the profile that was removed to be no problem")


def test_an_unreachable_source_is_said_to_be_and_nothing_worse(world: World) -> None:
    """No map leads anywhere for this one, and there is no internet: a clear end, later again."""
    world.profile(
        "gone", "limits: {timeout: 2s, retries: 0}\n", address="http://gone.invalid/good.json"
    )
    task = world.program.client.post("/v1/tasks/collect", json={"profile": "gone"}).json()["id"]

    def tried() -> Any:
        found = world.program.get(f"/v1/tasks/{task}")
        return found if found["code"] else None

    found = wait_until(tried, what="the first attempt to end")
    assert "unreachable" in found["code"] + found["reason"]
    assert world.program.process.poll() is None
    world.program.client.post(f"/v1/tasks/{task}/cancel", json={"reason": "enough"})


def test_a_run_that_is_tried_again_says_when_and_after_what(world: World) -> None:
    world.profile("busy", "limits: {retries: 0}\n", table=True)
    task = world.program.client.post("/v1/tasks/collect", json={"profile": "busy"}).json()
    run = task["payload"]["run"]

    def waits() -> bool:
        found = world.program.client.get(f"/v1/runs/{run}")
        return bool(found.status_code == 200 and found.json()["status"] == "interrupted")

    wait_until(waits, what="the first attempt to end")
    when = world.program.get(f"/v1/tasks/{task['id']}")["available_at"][:19].replace("T", " ")
    said = f"attempt 2 of 4 from {when}, after http-status: "
    where = ["--data-dir", str(world.program.data_dir)]
    shown = run_command("run", "show", run, *where)
    assert said in " ".join(shown.stdout.split()), shown.stdout
    listed = run_command("run", "list", "--profile", "busy", *where)
    assert said[:20] in " ".join(listed.stdout.split()), listed.stdout
    found = world.program.get("/v1/overview")
    [line] = [each for each in found["profiles"] if each["name"] == "busy"]
    assert line["problem"].startswith(said)
    [line] = [each for each in found["runs"] if each["id"] == run]
    assert line["reason"].startswith(said)
    world.program.client.post(f"/v1/tasks/{task['id']}/cancel", json={"reason": "enough"})


def test_a_file_that_turns_bad_keeps_the_last_good_version(world: World) -> None:
    world.profile("shut")
    digest = world.program.get("/v1/profiles/shut")["digest"]
    (world.profiles / "shut.yaml").write_text("version: 1\nname: shut\nsuorce: {}\n")

    def problem() -> str:
        for line in world.program.items("/v1/profiles"):
            if line["name"] == "shut":
                return str(line["problem"])
        return ""

    assert "suorce" in wait_until(problem, what="the problem to show")
    assert world.program.get("/v1/profiles/shut")["digest"] == digest
    assert world.collect("shut")["status"] == "succeeded"
