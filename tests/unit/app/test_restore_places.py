"""What a restore that was killed has left: its own half goes, what it had put aside comes back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.app.backup.restore import _aside_note, _hold, _put_in_place, _undo_killed


def folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "file").write_text(content)
    return path


def left(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


def test_what_it_had_put_aside_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, stage = folder(tmp_path / "data", "mine"), folder(tmp_path / ".data.restoring-1", "new")
    folder(tmp_path / "data.before-restore", "of another time")
    whole = Path.rename

    def dies(path: Path, to: Path) -> Path:
        if path == stage:
            raise KeyboardInterrupt
        return whole(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            _put_in_place(stage, target)
    assert not target.exists()
    _undo_killed(target)
    assert (target / "file").read_text() == "mine"
    assert left(tmp_path) == ["data", "data.before-restore"]


def test_what_others_have_put_aside_stays_aside(tmp_path: Path) -> None:
    folder(tmp_path / "data.before-restore", "of another time")
    folder(tmp_path / ".data.restoring-1", "half")
    _undo_killed(tmp_path / "data")
    assert left(tmp_path) == ["data.before-restore"]


def test_a_note_of_a_restore_that_was_done_goes(tmp_path: Path) -> None:
    folder(tmp_path / "data", "new")
    _aside_note(tmp_path / ".data.restoring-1").write_text("data.before-restore")
    _undo_killed(tmp_path / "data")
    assert left(tmp_path) == ["data"]


def test_half_a_note_goes_unless_its_restore_is_under_way(tmp_path: Path) -> None:
    target = folder(tmp_path / "data.aside", "mine")
    killed, running = (tmp_path / f".data.aside.restoring-{number}" for number in (1, 2))
    for stage in (killed, running):
        folder(stage, "new")
        (tmp_path / f".{_aside_note(stage).name}.{stage.name[-1]}.0a0b").write_text("data.bef")
    held = _hold(running)
    _undo_killed(target)
    os.close(held)
    there = ["..data.aside.restoring-2.aside.2.0a0b", ".data.aside.restoring-2", "data.aside"]
    assert left(tmp_path) == there


def test_nothing_is_left_where_nobody_dies(tmp_path: Path) -> None:
    target, stage = folder(tmp_path / "data", "mine"), folder(tmp_path / ".data.restoring-1", "new")
    _put_in_place(stage, target)
    assert (target / "file").read_text() == "new"
    assert left(tmp_path) == ["data", "data.before-restore"]


def test_what_is_put_in_place_is_durable_before_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, stage = folder(tmp_path / "data", "mine"), folder(tmp_path / ".data.restoring-1", "new")
    folder(target / "published", "41")
    folder(stage / "objects", "kept")
    flushed: list[Path] = []
    whole, named = os.fsync, Path.rename

    def flushes(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        whole(descriptor)

    def renames(path: Path, to: Path) -> Path:
        if path == stage:
            below = {*stage.rglob("*"), stage}
            assert {stage / "published" / "file", stage / "objects" / "file"} <= below
            assert below <= set(flushed)
        return named(path, to)

    monkeypatch.setattr(os, "fsync", flushes)
    monkeypatch.setattr(Path, "rename", renames)
    _put_in_place(stage, target)
    assert flushed[-1] == tmp_path
    assert (target / "published" / "file").read_text() == "41"
