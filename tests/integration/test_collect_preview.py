"""A preview shows what a profile would bring, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.collect.cli import _print
from holdfast.collect.fixtures.faults import Fault
from holdfast.collect.fixtures.server import FixtureServer
from holdfast.collect.preview import Preview, first_draft, flat, preview, waiting
from holdfast.collect.settings import CollectSettings
from holdfast.kernel.errors import Denied, Invalid
from holdfast.kernel.outbound import OutboundSettings, SourceUnavailable
from holdfast.kernel.outbound.model import FetchLimits, OutboundRequest
from tests.support.program import run_command
from tests.unit.collect.helpers import profile

ROWS = [{"id": f"r{i}", "v": str(i), "t": "2020-01-01"} for i in range(30)]


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[FixtureServer]:
    files = tmp_path / "files"
    files.mkdir()
    (files / "data.json").write_bytes(msgspec.json.encode([*ROWS, {"id": "bad", "v": "many"}]))
    async with FixtureServer(files) as server:
        yield server


def settings(source: FixtureServer, spool: Path) -> CollectSettings:
    allowed = OutboundSettings(allow=frozenset({source.host_port}))
    return CollectSettings(spool_dir=spool, outbound=allowed)


async def look(source: FixtureServer, spool: Path, url: str = "", **parts: Any) -> Preview:
    told = {"key": ["dimensions.id"], "dimensions": {"id": "$.id"}, "measures": {"v": "$.v"}}
    address = {"url": f"{source.url}/data.json", "format": {"type": "json"}}
    made = profile(parts.pop("address", address), **{**told, **parts})
    return await preview(made, settings(source, spool), url=url, limit=5)


async def test_records_rejects_and_fields_are_shown(source: FixtureServer, tmp_path: Path) -> None:
    found = await look(source, tmp_path)
    assert (found.rows, found.whole, found.rejected, found.status) == (31, True, 1, 200)
    assert [record.key for record in found.records] == [[f"r{i}"] for i in range(5)]
    assert [(r.field, r.position) for r in found.rejects] == [("v", 30)]
    assert [(f.path, f.type) for f in found.fields] == [
        ("$.id", "string"),
        ("$.v", "string"),
        ("$.t", "date"),
    ]
    assert source.count() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


async def test_another_address_can_be_looked_at(source: FixtureServer, tmp_path: Path) -> None:
    (tmp_path / "files" / "other.json").write_bytes(b'[{"id": "o", "v": 1}]')
    found = await look(source, tmp_path, url=f"{source.url}/other.json")
    assert [record.key for record in found.records] == [["o"]]
    assert found.url.endswith("/other.json")


async def test_a_page_that_breaks_shows_what_came_before(
    source: FixtureServer, tmp_path: Path
) -> None:
    (tmp_path / "files" / "data.json").write_bytes(b'[{"id": "a", "v": 1}, {"id": "b"')
    found = await look(source, tmp_path)
    assert [record.key for record in found.records] == [["a"]]
    assert "cannot read JSON" in found.problem
    assert found.whole is False


async def test_a_preview_tells_what_the_source_says_of_itself(
    source: FixtureServer, tmp_path: Path
) -> None:
    (tmp_path / "files" / "data.json").write_bytes(b'{"error": {"code": 400, "message": "no x"}}')
    found = await look(
        source,
        tmp_path,
        address={"url": f"{source.url}/data.json", "format": {"type": "geojson"}},
    )
    assert "nothing at $.features" in found.problem
    assert '"message": "no x"' in found.problem
    source.faults.replace([Fault(kind="status", status=403, body="Invalid app_token specified")])
    with pytest.raises(SourceUnavailable) as failure:
        await look(source, tmp_path)
    assert failure.value.detail.endswith(
        "answered 403; the source says: Invalid app_token specified"
    )


async def test_a_preview_obeys_the_same_guard(source: FixtureServer, tmp_path: Path) -> None:
    with pytest.raises(Denied):
        await look(source, tmp_path, url="http://127.0.0.1:1/x")
    with pytest.raises(SourceUnavailable):
        await look(source, tmp_path, url=f"{source.url}/nothing.json")


async def test_the_command(source: FixtureServer, tmp_path: Path) -> None:
    file = tmp_path / "test.json"
    address = {"url": f"{source.url}/data.json", "format": {"type": "json"}}
    told = {
        "version": 1, "name": "test", "publisher": "p", "licence": "l", "source": address,
        "key": ["dimensions.id"], "dimensions": {"id": "$.id"}, "measures": {"v": "$.v"},
    }  # fmt: skip
    file.write_text(json.dumps(told))
    environment = {"HOLDFAST_COLLECT_ALLOW": source.host_port}

    async def command(*arguments: str) -> Any:
        place = ("--data-dir", str(tmp_path / "data"))
        return await asyncio.to_thread(run_command, *arguments, *place, environment=environment)

    shown = await command("profile", "preview", str(file), "--json", "--limit", "3")
    assert shown.returncode == 0, shown.stderr
    answer = json.loads(shown.stdout)
    assert (answer["rows"], len(answer["records"]), answer["rejected"]) == (31, 3, 1)
    table = await command("profile", "preview", str(file))
    assert table.returncode == 0, table.stderr
    assert "r0" in table.stdout
    assert "is not a number" in table.stdout
    assert "31 rows, 1 rejected" in table.stderr
    (tmp_path / "files" / "data.json").write_bytes(b"<html>")
    broken = await command("profile", "preview", str(file))
    assert broken.returncode == 2
    assert "cannot read JSON" in broken.stderr
    assert "hint: " in broken.stderr.splitlines()[-1]
    async with FixtureServer(tmp_path / "files") as gone:
        environment["HOLDFAST_COLLECT_ALLOW"] = gone.host_port
    away = await command("profile", "preview", str(file), "--url", f"{gone.url}/data.json")
    assert away.returncode == 6
    assert away.stderr.splitlines()[-1].startswith("hint: see that this machine reaches that host")
    assert not (tmp_path / "data").exists()


async def test_a_first_draft_of_an_address_and_of_a_file(
    source: FixtureServer, tmp_path: Path
) -> None:
    import asyncio

    environment = {"HOLDFAST_COLLECT_ALLOW": source.host_port}
    (tmp_path / "files" / "page.html").write_bytes(b"<!doctype html><html><p>no data</p></html>")
    out = tmp_path / "rain.yaml"

    async def command(*arguments: str) -> Any:
        place = ("--data-dir", str(tmp_path / "data"))
        return await asyncio.to_thread(run_command, *arguments, *place, environment=environment)

    address = f"{source.url}/data.json"
    made = await command("profile", "init", address, "--name", "rain", "--out", str(out))
    assert made.returncode == 0, made.stderr
    assert "31 records of 31 rows" in made.stderr
    assert "note: $.v: 'many' is taken for a value that is missing" in made.stderr
    assert "before it can be published: publisher, licence\n" in made.stderr
    text = out.read_text("utf-8")
    assert f"url: {address}" in text
    assert "key: [dimensions.id]" in text
    shown = await command("profile", "preview", str(out), "--json")
    assert json.loads(shown.stdout)["rejected"] == 0
    left = await command("profile", "validate", str(out))
    assert left.returncode == 2
    assert f"{out}: line 9, publisher: this is the draft's placeholder still" in left.stdout
    out.write_text(text.replace("$.id", "$.none").replace("type: integer", "type: date"))
    nothing = await command("profile", "preview", str(out))
    assert (nothing.returncode, "not one of 31 rows" in nothing.stderr) == (2, True), nothing.stderr
    none = await command("profile", "preview", str(tmp_path / "none.yaml"))
    assert (none.returncode, "hint: name a profile's file" in none.stderr) == (4, True)
    again = await command("profile", "init", address, "--out", str(out))
    assert (again.returncode, "there already" in again.stderr) == (2, True)
    printed = await command("profile", "init", str(tmp_path / "files" / "data.json"), "--out", "-")
    assert "name: data" in printed.stdout
    # Led into a file, it is the draft and nothing else; no other is written.
    led = tmp_path / "led.yaml"
    line = f'{sys.executable} -m holdfast.app.main profile init "$1" --name led > "$2"'
    made = await asyncio.to_thread(
        subprocess.run, ["sh", "-c", line, "sh", str(tmp_path / "files" / "data.json"), str(led)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (made.returncode, made.stdout) == (0, ""), made.stderr
    assert "records of 31 rows" in made.stderr
    assert "no file of its own was written (`--out led.yaml` writes one)" in made.stderr
    assert led.read_text("utf-8").startswith("# A first draft")
    assert led.read_text("utf-8") == printed.stdout.replace("data.yaml", "led.yaml").replace(
        "name: data", "name: led"
    )
    for wrong, said in (
        (f"{source.url}/page.html", "this is a web page, not data"),
        (f"{source.url}/data.json?api_key=1", "api_key is a credential"),
        ("nothing-here.csv", "neither a file nor an address"),
    ):
        refused = await command("profile", "init", wrong, "--out", str(tmp_path / "no.yaml"))
        assert refused.returncode != 0
        assert said in refused.stderr
        assert "hint: " in refused.stderr
    for name in ("Rain", "BAD_NAME!", "../evil"):
        refused = await command("profile", "init", address, "--name", name, "--out", "-")
        assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
        told, hint = refused.stderr.splitlines()
        assert told.startswith(f"error: cannot call a profile {name!r}: expected 1-64 of a-z 0-9")
        assert hint.startswith("hint: such as --name ")
    assert not (tmp_path / "no.yaml").exists()


async def test_whoever_waits_for_a_source_is_told_and_it_is_not_asked_for_long(
    source: FixtureServer, tmp_path: Path
) -> None:
    said: asyncio.Queue[str] = asyncio.Queue()
    asked = OutboundRequest(url=f"{source.url}/data.json", limits=FetchLimits(retries=1))
    async with waiting(asked, said.put_nowait, after_seconds=0, every_seconds=0):
        told = [await said.get(), await said.get()]
    assert told[0].startswith(f"waiting for {source.host_port} since 0 s: at most 2 tries, each")
    while not said.empty():
        said.get_nowait()
    await asyncio.sleep(0)
    assert said.empty()
    source.faults.replace([Fault(path="/data.json", kind="status", status=503)])
    with pytest.raises(SourceUnavailable):
        await first_draft(f"{source.url}/data.json", settings(source, tmp_path), name="rain")
    assert source.count("/data.json") == 2
    with pytest.raises(SourceUnavailable):
        await look(source, tmp_path)
    assert source.count("/data.json") == 4
    with pytest.raises(SourceUnavailable):
        await look(source, tmp_path, limits={"retries": 0})
    assert source.count("/data.json") == 5


async def test_repeated_keys_are_seen_before_a_run_fails_for_them(
    source: FixtureServer, tmp_path: Path
) -> None:
    (tmp_path / "files" / "data.json").write_bytes(
        b'[{"id": "a", "v": 1}, {"id": "b", "v": null}, {"id": "a", "v": 3}]'
    )
    found = await look(source, tmp_path)
    assert (found.repeated, found.repeated_key) == (1, ["a"])
    assert (await look(source, tmp_path, key="position")).repeated == 0


async def test_a_missing_measure_has_no_unit_beside_it(
    source: FixtureServer, tmp_path: Path
) -> None:
    (tmp_path / "files" / "data.json").write_bytes(b'[{"id": "a"}, {"id": "b", "v": 2}]')
    found = await look(source, tmp_path, measures={"v": {"path": "$.v", "unit": "mm"}})
    assert [flat(record)["v"] for record in found.records] == [None, "2 mm"]


async def test_rows_are_told_from_their_cells_and_a_run_that_would_fail_is_said(
    source: FixtureServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": "a", "2019": "1", "2020": "2"}, {"id": "Total", "2019": "x", "2020": "y"}]
    (tmp_path / "files" / "data.json").write_bytes(msgspec.json.encode(rows))
    parts = {"unpivot": {"columns": "[0-9]{4}"}, "measures": {"v": "#value"}}
    found = await look(source, tmp_path, key=["dimensions.id", "dimensions.y"],
                       dimensions={"id": "$.id", "y": "#column"}, **parts)  # fmt: skip
    assert (found.rows, found.rejected_rows, found.rejected, found.max_rejects) == (2, 1, 2, 0)
    _print(found)
    said = " ".join(capsys.readouterr().err.split())
    assert "2 rows, 1 rejected of them (2 rejects)" in said
    assert "2 rejects are more than the 0 that `max_rejects` in the profile allows" in said
    _print(msgspec.structs.replace(found, max_rejects=2))
    assert "max_rejects" not in capsys.readouterr().err


async def test_columns_without_a_value_are_shown_empty_and_said(
    source: FixtureServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": "a", "v": None, "w": 1, "note": ""}, {"id": "b", "v": None, "w": 2, "note": ""}]
    (tmp_path / "files" / "data.json").write_bytes(msgspec.json.encode(rows))
    found = await look(
        source,
        tmp_path,
        measures={"v": "$.v", "w": "$.w"},
        attributes={"note": "$.note", "gone": "$.gone"},
    )
    assert found.empty == ["v", "note", "gone"]
    _print(found)
    shown = capsys.readouterr()
    table = shown.out.splitlines()
    head = next(number for number, line in enumerate(table) if line.split()[:2] == ["id", "v"])
    assert {"v", "note", "gone"} <= {*table[head].split()}
    assert table[head + 1].split()[:3] == ["a", "–", "1"]
    said = " ".join(shown.err.split())
    assert "note: without a value in any of these records: v, note, gone" in said
    found.check()


async def test_a_preview_says_itself_what_a_run_would_come_to(
    source: FixtureServer, tmp_path: Path
) -> None:
    found = await look(source, tmp_path)
    found.check()
    assert any("1 rejects are more than the 0" in note for note in found.notes())
    none = await look(source, tmp_path, dimensions={"id": {"path": "$.id", "type": "date"}})
    with pytest.raises(Invalid, match="not one of 31 rows became a record") as refused:
        none.check()
    assert refused.value.code == "mapping"
    (tmp_path / "files" / "data.json").write_bytes(b"<html>")
    with pytest.raises(Invalid, match="cannot read JSON") as refused:
        (await look(source, tmp_path)).check()
    assert refused.value.code == "parse"
