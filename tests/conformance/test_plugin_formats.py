"""A format that another package brings: held to what the built-in ones promise, whatever it does.

The package is the one of ``docs/guides/formats.md``; that it is collected with through the served
program is in ``tests/e2e/test_plugin.py``, and it is fuzzed with the others.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.collect.content import SpooledContent
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.formats import reader_of
from holdfast.collect.model import Bounds, RawRow, ReadContext
from holdfast.registry.source import PluginFormat
from tests.support.plugin import blocks, install, installed

COLUMNS = {"columns": "station:1-5,day:6-15,rain:16-22"}
LINES = [f"S{n:04}2024-03-01{n / 4:7.2f}" for n in range(2000)]

Read = Callable[..., list[RawRow]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads bytes with the guide's format, or with another module under its name."""

    def run(
        data: bytes, code: str = "", bounds: Bounds | None = None, entry: str = "", **options: str
    ) -> list[RawRow]:
        path = tmp_path / "page"
        path.write_bytes(data)
        spec = PluginFormat(name="fixed-width", options={**COLUMNS, **options})
        bounds = bounds or Bounds()
        with installed(tmp_path / "site", entry, code):
            reader = reader_of(spec)
            content = SpooledContent(path, bounds, "auto")
            return list(reader(content, spec, ReadContext(bounds=bounds)))

    return run


def test_its_rows_are_those_of_the_page(read: Read) -> None:
    head = "station day rain\n\n" + "\n".join(LINES[:3]) + "\nS9\n"
    rows = read(head.encode(), skip_lines="1")
    assert [row.position for row in rows] == [0, 1, 2, 3]
    assert rows[2].value == {"station": "S0002", "day": "2024-03-01", "rain": "0.50"}
    assert rows[3].problem == "is 2 characters short of its columns"
    again = "\r\n".join(LINES[:3]).encode("utf-16")
    assert [row.value for row in read(again)] == [row.value for row in rows[:3]]


def test_what_it_cannot_read_is_said(read: Read) -> None:
    with pytest.raises(MappingRefused, match="cannot read the columns at 'x:5-2'"):
        read(b"", columns="x:5-2")
    with pytest.raises(ParseFailed, match="not valid utf-8, near line 1"):
        read(b"\xff\xfa")


def test_its_own_bound_and_ours(read: Read) -> None:
    small = replace(Bounds(), record_bytes_max=30)
    with pytest.raises(BoundReached) as caught:
        read(b"x" * 31, bounds=small)
    assert caught.value.bound == "record"


def test_its_memory_does_not_grow_with_the_page(tmp_path: Path) -> None:
    peaks = []
    spec = PluginFormat(name="fixed-width", options=COLUMNS)
    with installed(tmp_path / "site"):
        for times in (1, 20):
            path = tmp_path / f"page-{times}"
            path.write_text("\n".join(LINES * times))
            rows = reader_of(spec)(SpooledContent(path, Bounds()), spec, ReadContext())
            next(rows)
            tracemalloc.start()
            assert sum(1 for _ in rows) == 2000 * times - 1
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5 + 50_000


ROW = "from holdfast.collect.model import RawRow\ndef read(content, spec, context):\n    "
DEEP = "value = []\n    for _ in range(100): value = [value]\n    "
BAD = {
    "raises": ("yield 1 / 0", "parse", "the format failed with ZeroDivisionError"),
    "recurses": ("return read(content, spec, context)", "parse-bound", "nested too deep"),
    "gives-no-rows": ("yield {}", "parse", "gave dict, no RawRow"),
    "leaves-a-gap": ("yield RawRow(1, {})", "parse", "row 0 has the position 1"),
    "tells-too-much": ("yield RawRow(0, {}, (1,))", "parse", "1 enclosing values where 0"),
    "gives-floats": ("yield RawRow(0, {'a': 2.1})", "parse", "holds a float"),
    "gives-objects": ("yield RawRow(0, {'a': content})", "parse", "holds a SpooledContent"),
    "names-by-number": ("yield RawRow(0, {1: 'a'})", "parse", "a name that is no text"),
    "is-large": ("yield RawRow(0, {'a': 'x' * 5_000_000})", "parse-bound", "larger than 4194304"),
    "is-wide": ("yield RawRow(0, {str(n): '' for n in range(20_000)})", "parse-bound", "16384"),
    "is-deep": (DEEP + "yield RawRow(0, value)", "parse-bound", "nested deeper than 64"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_whatever_it_does_is_a_refusal_that_names_it(read: Read, kind: str) -> None:
    body, code, said = BAD[kind]
    with pytest.raises(ParseFailed, match=said) as caught:
        read(b"x", code=ROW + body)
    assert caught.value.code == code
    assert caught.value.detail.startswith("cannot read 'fixed-width': ")


def test_what_cannot_be_loaded_or_is_not_there_is_said(read: Read, tmp_path: Path) -> None:
    with pytest.raises(MappingRefused, match=r"cannot load the format 'fixed-width'.*SyntaxError"):
        read(b"x", code="def read(:")
    with pytest.raises(MappingRefused, match="AttributeError"):
        read(b"x", entry="fixed_width:nothing")
    with pytest.raises(MappingRefused, match="has no reader for it") as caught:
        reader_of(PluginFormat(name="fixed-width"))
    assert "csv" in caught.value.hint
    other = install(tmp_path / "other", "elsewhere:read")
    (other / "holdfast_fixed_width-1.0.dist-info").rename(other / "another-1.0.dist-info")
    metadata = "Metadata-Version: 2.1\nName: another\nVersion: 1.0\n"
    (other / "another-1.0.dist-info" / "METADATA").write_text(metadata)
    with installed(tmp_path / "one"), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(other))
        with pytest.raises(MappingRefused, match="more than one package brings it"):
            reader_of(PluginFormat(name="fixed-width"))


def test_a_built_in_format_cannot_be_replaced(tmp_path: Path) -> None:
    with pytest.raises(MappingRefused, match="no reader"):
        reader_of(PluginFormat(name="csv"))


def test_the_guides_last_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rain.txt").write_text("\n".join(LINES[:5]))
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    with installed(tmp_path / "site"):
        exec(compile(blocks("python")[1], "guide", "exec"), found)
    assert isinstance(found["rows"], list)
    assert [row.value["rain"] for row in found["rows"]] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
