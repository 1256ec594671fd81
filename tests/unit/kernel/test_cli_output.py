"""Tables on a narrow terminal: what is there to be copied is whole, what has no room is named."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from holdfast.app.commandline import COMMANDS, app
from holdfast.kernel.cli import print_table, whole_file
from holdfast.kernel.errors import Invalid, Unavailable
from tests.support.full_disk import full_beyond

ID = "01a21cf6-d81f-7e01-a7bd-3a288cb95b0a"
COLUMNS = ["run", "profile", "started", "new", "gone", "reason"]
ROW = [ID, "noaa-two-cities-weather-daily", "2026-11-27T12:24:39", 7, 0, "x" * 30]


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def cut_off() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise Unavailable("cannot go on: the answer was cut off")

    with pytest.raises(Unavailable):
        cut_off()
    assert list(tmp_path.iterdir()) == []
    with whole_file(path) as file:
        file.write(b"whole")
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"whole"]
    with pytest.raises(Invalid, match="No such file"), whole_file(tmp_path / "none" / "out"):
        pass
    with pytest.raises(Invalid, match=r"out/x: Not a directory"), whole_file(path / "x"):
        pass


def test_a_pipe_gets_what_is_written_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with whole_file(path) as file:
            file.write(b"whole")
        assert os.read(reader, 10) == b"whole"
    finally:
        os.close(reader)
    assert [each.is_fifo() for each in tmp_path.iterdir()] == [True]
    with pytest.raises(Invalid, match="full: No space left"), whole_file(Path("/dev/full")) as file:
        file.write(b"x")
    with pytest.raises(Invalid, match="a folder"), whole_file(Path()):
        pass


def test_a_file_that_is_there_stays_and_each_failure_is_told_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"before")

    def fail(error: OSError) -> None:
        with whole_file(path, replace=True) as file, whole_file(path, replace=True):  # at once
            file.write(b"x" * 100_000)
            raise error

    with pytest.raises(BrokenPipeError):
        fail(BrokenPipeError())

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    def write() -> None:
        with whole_file(path, replace=True) as file:
            file.write(b"after")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(Invalid, match="out: no space"):
            write()
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"before"]
    with full_beyond(64), pytest.raises(Invalid, match="out: File too large"):
        fail(BrokenPipeError())
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"before"]


def test_no_file_is_written_over_also_one_that_comes_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def write() -> None:
        with whole_file(path) as file:
            path.write_bytes(b"another's")
            file.write(b"ours")

    for _ in range(2):
        with pytest.raises(Invalid, match="out: it is there already") as raised:
            write()
        assert "move that one away" in raised.value.hint
        assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"another's"]
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Invalid, match="it is there already"), whole_file(path):
        pass


OUT = {
    "key export": [],
    "ledger export": [],
    "profile init": ["https://example.org/a.csv"],
    "query": ["select 1"],
    "record export": ["--profile", "rain"],
    "record raw": [ID],
    "record receipt": [ID],
    "report chart": ["rain"],
    "report data": ["rain"],
    "report receipt": ["rain", "--column", "a"],
    "run raw": [ID],
    "worker token": [],
}
"""Every command that writes a file of a name that it is given, and what else it needs to be told.
`report run` is none of them: its folder is the report's, and is written anew."""


def test_every_out_refuses_a_file_that_is_there_before_it_asks_anybody(tmp_path: Path) -> None:
    group = get_command(app)
    context = typer.Context(group)

    def found(command: Any, name: str) -> Iterator[str]:
        if isinstance(command, TyperGroup):
            for each, inner in command.commands.items():
                yield from found(inner, f"{name} {each}")
        elif any("--out" in param.opts for param in command.params):
            yield name

    named = {
        name
        for noun in COMMANDS
        for name in found(group.get_command(context, noun), noun)  # type: ignore[attr-defined]
    }
    assert named - {"report run"} == OUT.keys()
    for command, more in OUT.items():
        file = tmp_path / "there.svg"
        file.write_text("theirs")
        args = ["--data-dir", str(tmp_path / "none"), "--control-plane", "http://127.0.0.1:9"]
        done = CliRunner().invoke(app, [*args, *command.split(), *more, "--out", str(file)])
        assert (done.exit_code, file.read_text()) == (2, "theirs"), (command, done.output)
        assert f"cannot write {file}: it is there already" in done.stderr, command
        assert "name another file, or move" in done.stderr, command
        assert [each.name for each in tmp_path.iterdir()] == [file.name], command


def test_a_title_is_not_broken_by_a_narrow_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["v"], [["1"]], title="records")
    assert capsys.readouterr().out.splitlines()[0].strip() == "records"


@pytest.mark.parametrize("width", [80, 100])
def test_identities_are_whole_and_what_is_left_out_is_named(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(COLUMNS, [ROW, ROW], spare=["reason", "started", "new", "gone"])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert all(ID in line for line in lines[1:])
    # An empty column goes first, and nobody misses it.
    assert "gone" not in lines[0]
    assert f"left out to fit {width} characters: reason" in printed.err
    assert "gone" not in printed.err


def test_nothing_is_left_out_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_table(COLUMNS, [ROW], spare=COLUMNS[1:])
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == COLUMNS
    assert printed.err == ""


def test_what_must_wrap_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    print_table(["run", "reason"], [[ID, "abcdefghij" * 4]])
    printed = capsys.readouterr().out
    assert ID in printed
    assert "…" not in printed
    assert printed.count("j") == 4


@pytest.mark.parametrize("width", [40, 60, 80])
def test_what_an_identity_is_of_stays_with_it(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(["of", "detail"], [[f"token/{ID}", f"{'wide' * 9} token {ID}, {'wide' * 9}"]])
    printed = capsys.readouterr().out
    assert f"token/{ID}" in printed
    assert f"{ID}," in printed


def test_lines_break_between_words_where_they_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    row = ["bls-employment-monthly", "failed", "2026-11-27T12:24:39", "the source is gone " * 6]
    print_table(["profile", "state", "published", "problem"], [row])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert row[0] in printed
    assert row[2] in printed
    assert {"the", "source", "gone"} <= set(printed.split())
    assert printed.split().count("source") == 6


@pytest.mark.parametrize("noun", sorted(COMMANDS))
def test_the_help_of_every_noun_is_about_it_alone(noun: str) -> None:
    shown = CliRunner().invoke(app, [noun, "--help"])
    assert shown.exit_code == 0
    assert "completion" not in shown.output
