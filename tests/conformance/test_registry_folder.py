"""What lies in the profiles' folder is what is published; a bad file never stops a good version."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.kernel import telemetry
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import NotFound, Unavailable
from holdfast.kernel.ids import id_source
from holdfast.kernel.outbox import ClearSealer, Outbox
from holdfast.kernel.principal import operator
from holdfast.kernel.telemetry import Metrics
from holdfast.registry.document import write_document
from holdfast.registry.folder import ProfilesFolder, Reconciled
from holdfast.registry.service import RegistryService
from holdfast.registry.supported import SUPPORTED
from tests.support.waiting import until
from tests.unit.registry.profiles import GOOD

ME = operator()


class World:
    """A folder, a registry and the reconciler between them."""

    def __init__(self, database: Database, root: Path) -> None:
        self.root = root
        self.root.mkdir()
        self.clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.metrics = Metrics()
        self.database = database
        self.service = RegistryService(
            database,
            Outbox(ClearSealer()),
            self.clock,
            id_source(self.clock),
            metrics=self.metrics,
        )
        self.restart()

    def restart(self) -> None:
        """Another process looks at the same folder and database."""
        self.folder = ProfilesFolder(self.service, ME, self.root, self.clock)

    def write(self, file: str, **members: Any) -> Path:
        return self.put(file, write_document(GOOD | members))

    def put(self, file: str, text: str) -> Path:
        """Replace a file as editors and git do: whole, with a new inode."""
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.rename(path)
        return path

    async def actions(self, name: str) -> list[str]:
        return [str(each.action) for each in (await self.service.history(ME, name)).items][::-1]

    async def names(self) -> list[str]:
        found = await self.service.runnable(ME)
        assert found is not None
        return [each.name for each in found.profiles]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, tmp_path / "profiles")


async def test_files_are_published_once_and_again_when_they_change(world: World) -> None:
    world.write("rain.yaml")
    world.write("more/snow.yml", name="snow")
    first = await world.folder.reconcile()
    assert sorted(first.published) == ["rain", "snow"]
    assert await world.names() == ["rain", "snow"]
    assert (await world.service.status(ME, "snow")).file == "more/snow.yml"
    assert not (await world.folder.reconcile()).changed
    world.restart()
    assert not (await world.folder.reconcile()).changed
    world.write("rain.yaml", title="Rain")
    assert (await world.folder.reconcile()).published == ("rain",)
    assert await world.actions("rain") == ["published", "published"]


async def test_a_folder_that_is_missing_is_told_once_and_only_if_somebody_asked_for_it(
    world: World,
) -> None:
    world.root.rmdir()
    asked = world.folder
    unasked = ProfilesFolder(world.service, ME, world.root, world.clock, asked=False)
    stream = io.StringIO()
    telemetry.configure_logging("info", "json", stream)
    try:
        for _ in range(3):
            assert not (await unasked.reconcile()).changed
        assert stream.getvalue() == ""
        for _ in range(3):
            await asked.reconcile()
        world.root.mkdir()
        world.write("rain.yaml")
        assert (await unasked.reconcile()).published == ("rain",)
        await asked.reconcile()
        (world.root / "rain.yaml").unlink()
        world.root.rmdir()
        for folder in (asked, unasked, asked, unasked):
            assert not (await folder.reconcile()).changed
    finally:
        telemetry.configure_logging("info", "json")
    told = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert [each for each in told if "folder" in each] == [
        "profiles.folder_unreadable",
        "profiles.folder_readable",
        "profiles.folder_unreadable",
        "profiles.folder_unreadable",
    ]


async def test_a_comment_changes_the_file_and_not_the_version(world: World) -> None:
    path = world.write("rain.yaml")
    await world.folder.reconcile()
    world.put("rain.yaml", "# a remark\n" + path.read_text())
    assert (await world.folder.reconcile()).published == ("rain",)
    assert await world.actions("rain") == ["published"]


async def test_a_file_that_turns_bad_leaves_the_last_good_version_running(world: World) -> None:
    world.write("rain.yaml")
    await world.folder.reconcile()
    good = await world.service.show(ME, "rain")
    world.put("rain.yaml", write_document(GOOD | {"titel": "x", "mode": "sometimes"}))
    assert (await world.folder.reconcile()).refused == ("rain.yaml",)
    status = await world.service.status(ME, "rain")
    assert status.runnable
    told = [line.partition(", ")[2] for line in status.problem.splitlines()]
    assert sorted(told) == [
        "mode: 'sometimes' is not known here (one of append, incremental, snapshot)",
        "titel: titel is not a member of a profile (did you mean title?)",
    ]
    assert status.problem.startswith("rain.yaml: line ")
    assert await world.service.show(ME, "rain") == good
    assert world.metric("holdfast_registry_profile_problems") == 1
    assert world.metric("holdfast_registry_profiles", state="active") == 1
    assert not (await world.folder.reconcile()).changed
    world.write("rain.yaml", title="mended")
    await world.folder.reconcile()
    assert (await world.service.status(ME, "rain")).problem == ""
    assert (await world.service.show(ME, "rain")).profile.title == "mended"
    assert world.metric("holdfast_registry_profile_problems") == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[", "broken"),
        ("\xff", "broken"),
        ("name: told\n", "told"),
        ("name: {a: b}\n", "broken"),
        ("#" * 300_000, "broken"),
        ("", "broken"),
    ],
)
async def test_a_file_that_was_never_good_is_listed_with_its_problem(
    world: World, text: str, name: str
) -> None:
    (world.root / "broken.yaml").write_text(text, encoding="latin-1")
    world.write("rain.yaml")
    await world.folder.reconcile()
    listed = {item.name: item for item in (await world.service.list(ME)).items}
    assert set(listed) == {name, "rain"}
    assert listed[name].problem.startswith("broken.yaml: ")
    assert (listed[name].digest, listed[name].runnable) == ("", False)
    assert await world.names() == ["rain"]
    with pytest.raises(NotFound):
        await world.service.show(ME, name)
    (world.root / "broken.yaml").unlink()
    await world.folder.reconcile()
    assert [item.name for item in (await world.service.list(ME)).items] == ["rain"]


async def test_a_part_that_is_not_built_is_a_problem_of_the_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SUPPORTED, "mode append", False)
    world.write("rain.yaml", mode="append")
    await world.folder.reconcile()
    assert "append" in (await world.service.status(ME, "rain")).problem


async def test_a_code_list_beside_a_profile_is_part_of_it(world: World) -> None:
    lists = world.root / "codes"
    lists.mkdir()
    dimensions = {"station": {"path": "Station", "codes": "stations"}}
    world.write("rain.yaml", dimensions=dimensions)
    await world.folder.reconcile()
    assert "no code list stations" in (await world.service.status(ME, "rain")).problem
    (lists / "stations.csv").write_text("code,name\nA,Alm\n", "utf-8")
    assert (await world.folder.reconcile()).published == ("rain",)
    first = await world.service.show(ME, "rain")
    assert first.profile.code_lists == {"stations": {"A": "Alm"}}
    (lists / "stations.csv").write_text("code,name\nA,Alm\nB,Berg\n", "utf-8")
    assert (await world.folder.reconcile()).published == ("rain",)
    assert (await world.service.show(ME, "rain")).digest != first.digest
    assert not (await world.folder.reconcile()).changed


async def test_a_refused_file_is_tried_again_by_the_next_process(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SUPPORTED, "format csv", False)
    world.write("rain.yaml")
    assert (await world.folder.reconcile()).refused == ("rain.yaml",)
    monkeypatch.setitem(SUPPORTED, "format csv", True)
    assert not (await world.folder.reconcile()).changed
    world.restart()
    assert (await world.folder.reconcile()).published == ("rain",)


async def test_a_data_directory_in_the_folder_is_not_looked_into(world: World) -> None:
    world.write("rain.yaml")
    world.put("data/holdfast.json", '{"pid": 1}')
    world.folder = ProfilesFolder(
        world.service, ME, world.root, world.clock, apart=world.root / "data"
    )
    assert (await world.folder.reconcile()).refused == ()


async def test_a_deleted_file_stops_its_profile_and_its_return_resumes_it(world: World) -> None:
    path = world.write("rain.yaml")
    await world.folder.reconcile()
    version = await world.service.show(ME, "rain")
    text = path.read_text()
    path.unlink()
    assert (await world.folder.reconcile()).gone == ("rain.yaml",)
    status = await world.service.status(ME, "rain")
    assert (status.removed, status.runnable) == (True, False)
    assert await world.service.show(ME, "rain") == version
    assert world.metric("holdfast_registry_profiles", state="removed") == 1
    assert not (await world.folder.reconcile()).changed
    world.put("rain.yaml", text)
    await world.folder.reconcile()
    assert (await world.service.status(ME, "rain")).runnable
    assert await world.actions("rain") == ["published", "removed", "restored"]


async def test_a_renamed_file_changes_nothing_but_the_files_name(world: World) -> None:
    path = world.write("rain.yaml")
    await world.folder.reconcile()
    path.rename(world.root / "renamed.yaml")
    await world.folder.reconcile()
    status = await world.service.status(ME, "rain")
    assert (status.runnable, status.file, status.problem) == (True, "renamed.yaml", "")
    assert await world.actions("rain") == ["published"]
    (world.root / "renamed.yaml").unlink()
    await world.folder.reconcile()
    assert (await world.service.status(ME, "rain")).removed


async def test_two_files_cannot_give_the_same_profile(world: World) -> None:
    first = world.write("a.yaml")
    await world.folder.reconcile()
    world.write("b.yaml", title="other")
    assert (await world.folder.reconcile()).refused == ("b.yaml",)
    status = await world.service.status(ME, "rain")
    assert "rain is already given by a.yaml" in status.problem
    assert (await world.service.show(ME, "rain")).profile.title == ""
    first.unlink()
    await world.folder.reconcile()
    await world.folder.reconcile()
    status = await world.service.status(ME, "rain")
    assert (status.runnable, status.problem, status.file) == (True, "", "b.yaml")


async def test_what_was_published_by_hand_stays_until_its_file_changes(world: World) -> None:
    world.write("rain.yaml")
    await world.folder.reconcile()
    await world.service.publish(ME, write_document(GOOD | {"title": "by hand"}).encode())
    world.restart()
    assert not (await world.folder.reconcile()).changed
    assert (await world.service.show(ME, "rain")).profile.title == "by hand"
    world.write("rain.yaml", title="by file")
    await world.folder.reconcile()
    assert (await world.service.show(ME, "rain")).profile.title == "by file"


async def test_an_operators_pause_outlives_new_files(world: World) -> None:
    world.write("rain.yaml")
    await world.folder.reconcile()
    await world.service.pause(ME, "rain")
    world.write("rain.yaml", title="newer")
    await world.folder.reconcile()
    status = await world.service.status(ME, "rain")
    assert (status.title, status.overrides.paused, status.runnable) == ("newer", True, False)


async def test_a_folder_that_cannot_be_read_is_not_an_empty_one(world: World) -> None:
    world.write("rain.yaml")
    await world.folder.reconcile()
    world.root.rename(world.root.with_name("elsewhere"))
    assert await world.folder.reconcile() == Reconciled()
    assert await world.names() == ["rain"]


async def test_a_file_of_json_is_read_as_json(world: World) -> None:
    codes = {"v": {"path": "v", "codes": "flags"}}
    world.put("codes/flags.csv", "code,meaning\na,A\n")
    world.put("rain.json", json.dumps(GOOD | {"attributes": codes}))
    assert (await world.folder.reconcile()).published == ("rain",)
    assert (await world.service.status(ME, "rain")).problem == ""
    world.put("rain.json", "version: 1")
    assert (await world.folder.reconcile()).refused == ("rain.json",)
    assert "this is not JSON" in (await world.service.status(ME, "rain")).problem


async def test_links_and_hidden_names_of_a_mounted_configmap(world: World, tmp_path: Path) -> None:
    """Kubernetes mounts ``rain.yaml -> ..data/rain.yaml`` and ``..data -> ..2026_01_01``."""
    version = world.root / "..2026_01_01"
    version.mkdir()
    (version / "rain.yaml").write_text(write_document(GOOD))
    (world.root / "..data").symlink_to(version.name)
    (world.root / "rain.yaml").symlink_to("..data/rain.yaml")
    outside = tmp_path / "outside.yaml"
    outside.write_text(write_document(GOOD | {"name": "outside"}))
    (world.root / "outside.yaml").symlink_to(outside)
    (world.root / "dangling.yaml").symlink_to("nowhere.yaml")
    (world.root / ".editor.yaml").write_text(write_document(GOOD | {"name": "hidden"}))
    (world.root / "README.md").write_text("no profile")
    await world.folder.reconcile()
    assert [item.name for item in (await world.service.list(ME)).items] == ["rain"]


async def test_a_failure_of_the_registry_is_no_verdict_on_the_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write("rain.yaml")
    real = world.service.publish

    async def unavailable(*_args: Any, **_more: Any) -> Any:
        raise Unavailable("cannot write: the database restarts")

    monkeypatch.setattr(world.service, "publish", unavailable)
    with pytest.raises(Unavailable):
        await world.folder.reconcile()
    assert await world.service.files(ME) == []
    monkeypatch.setattr(world.service, "publish", real)
    assert (await world.folder.reconcile()).published == ("rain",)


# --- watching -----------------------------------------------------------------------------------


@asynccontextmanager
async def watching(world: World) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.folder.watch(every_seconds=2))
        yield
        task.cancel()


async def turn(world: World) -> None:
    """Let the watcher take one turn of its clock."""
    await until(lambda: bool(world.clock._sleepers))
    world.clock.advance(2)
    await until(lambda: bool(world.clock._sleepers))


async def test_watching_publishes_at_once_and_then_what_changes(world: World) -> None:
    world.write("rain.yaml")
    async with watching(world):
        await until(lambda: bool(world.clock._sleepers))
        assert await world.names() == ["rain"]
        world.write("snow.yaml", name="snow")
        await turn(world)
        await turn(world)
        assert await world.names() == ["rain", "snow"]


async def test_a_file_that_is_still_being_written_is_left_alone(world: World) -> None:
    whole = write_document(GOOD | {"title": "whole"})
    path = world.root / "rain.yaml"
    path.write_text(write_document(GOOD))
    async with watching(world):
        await until(lambda: bool(world.clock._sleepers))
        with path.open("w") as stream:
            for piece in (whole[:40], whole[40:150], whole[150:]):
                stream.write(piece)
                stream.flush()
                os.utime(path, ns=(stream.tell(), stream.tell()))
                await turn(world)
                assert (await world.service.status(ME, "rain")).problem == ""
        await turn(world)
        await turn(world)
        assert (await world.service.show(ME, "rain")).profile.title == "whole"
        assert await world.actions("rain") == ["published", "published"]


async def test_a_nudge_does_not_wait_for_the_turn(world: World) -> None:
    async with watching(world):
        await until(lambda: bool(world.clock._sleepers))
        world.write("rain.yaml")
        world.folder.nudge()

        async def published() -> bool:
            return await world.names() == ["rain"]

        await until(published)


async def test_watching_outlives_a_registry_that_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = world.service.files, 0

    async def away_once(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Unavailable("cannot read: the database restarts")
        return await real(*args)

    monkeypatch.setattr(world.service, "files", away_once)
    world.write("rain.yaml")
    async with watching(world):
        await turn(world)
        assert await world.names() == ["rain"]
