"""Rows of a query on a terminal: a table where one fits, else a line for each value."""

from __future__ import annotations

import pytest

from holdfast.reports.query_cli import _print_rows


def test_few_columns_are_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _print_rows(["status", "count"], [["succeeded", "10"], ["failed", "1"]])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["status", "count"],
        ["succeeded", "10"],
        ["failed", "1"],
    ]


def test_many_columns_are_lines_and_no_value_is_broken_or_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ["record_id", "period_start", "period_end", "dimensions", "measures", "measures"]
    row = ["r" * 32, "2026-10-01", "2026-11-01", '{"region":"01"}' * 4, "x" * 90, "twice"]
    _print_rows(names, [row])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "— row 1"
    assert [line.split(maxsplit=1) for line in lines[1:]] == [
        [name, value] for name, value in zip(names, row, strict=True)
    ]


def test_no_rows_are_said_to_be_none_however_many_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _print_rows([f"a_rather_long_name_{n}" for n in range(12)], [])
    assert "no rows" in "".join(capsys.readouterr())
