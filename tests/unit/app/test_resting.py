"""What `holdfast doctor` tells of a directory on which nothing runs, one look at a time."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.app import resting
from holdfast.app.resting import (
    Ledger,
    of_clock,
    of_database,
    of_directory,
    of_flush,
    of_ledger_heads,
    of_port,
    of_profiles,
    of_settings,
)
from holdfast.app.settings import examine, without_effect
from holdfast.ledger.head import Head, HeadFile
from holdfast.ledger.store import Origin

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("recorded", "now", "outcome"),
    [
        ("", NOW, "pass"),
        ("2026-11-28T11:59:59.000000Z", NOW, "pass"),
        ("2026-11-28T12:00:00.500000Z", NOW, "pass"),
        ("2026-11-28T12:00:10.000000Z", NOW, "warn"),
        ("2026-11-28T13:30:00.000000Z", NOW, "fail"),
        ("", datetime(1970, 1, 1, tzinfo=UTC), "fail"),
    ],
)
def test_a_clock_behind_what_was_recorded_is_told(
    recorded: str, now: datetime, outcome: str
) -> None:
    found = of_clock(recorded, now)
    assert (found.outcome, bool(found.hint)) == (outcome, outcome != "pass")


def test_slips_in_settings_are_named_with_what_was_meant() -> None:
    found = of_settings(*examine({"HOLDFAST_GATEWAY_BINDS": "x", "HOLDFAST_LOG_LEVEL": "loud"}))
    assert found.outcome == "fail"
    assert "did you mean HOLDFAST_GATEWAY_BIND?" in found.detail
    assert "HOLDFAST_LOG_LEVEL" in found.detail
    assert of_settings(*examine({"HOLDFAST_LOG_LEVEL": "error"})).outcome == "pass"
    slip = {"DB_DSNN": "x", "PROFILE_DIR": "y", "HOME": "/root", "DB_DSN": "", "DATABASE_URL": "z"}
    found = of_settings(*examine({}), without_effect(slip))
    assert (found.outcome, without_effect({"PATH": "", "DRONE_ID": "d"})) == ("warn", [])
    assert "DB_DSNN is taken for another program's: did you mean DB_DSN?" in found.detail
    assert "PROFILE_DIR is" in found.detail
    assert "DATABASE_URL" not in found.detail


def test_of_profiles_the_file_and_the_line_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    assert of_profiles(folder, tmp_path / "data", deep=False).outcome == "warn"
    folder.mkdir()
    assert of_profiles(folder, tmp_path / "data", deep=False).outcome == "warn"
    sources = sorted(Path("profiles/government").glob("*.yaml"))
    (folder / "good.yaml").write_bytes(sources[0].read_bytes())
    assert of_profiles(folder, tmp_path / "data", deep=False).outcome == "pass"
    (folder / "bad.yaml").write_text("version: 1\nname: bad\nsorce: {}\n")
    found = of_profiles(folder, tmp_path / "data", deep=False)
    assert found.outcome == "fail"
    assert "of 2 files" in found.detail
    assert "bad.yaml:" in found.detail


def test_an_address_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = of_port("port", address)
        assert (found.outcome, "another program" in found.hint) == ("fail", True)
    assert of_port("port", "127.0.0.1:0").outcome == "pass"
    assert of_port("port", "nonsense").outcome == "fail"


def test_a_log_is_held_against_its_head(tmp_path: Path) -> None:
    file = HeadFile(tmp_path / "default.head")
    file.write(Head(5, b"r" * 32))
    file.close()

    def outcome(size: int, root: bytes = b"r" * 32, damage: str = "") -> str:
        return of_ledger_heads(tmp_path, (Ledger("default", size, root, damage),)).outcome

    assert outcome(5) == "pass"
    assert outcome(5, b"s" * 32) == "fail"
    assert outcome(4) == "fail"
    assert outcome(6, b"s" * 32) == "warn", "it died before it told the head"
    assert outcome(5, damage="lost-tail") == "fail"
    assert of_ledger_heads(tmp_path, ()).outcome == "fail", "a head without its log"
    file.write(Head(5, b"r" * 32, "here/1"))
    file.close()

    def origin(name: str, size: int = 0, **cites: Any) -> Origin:
        return Origin(0, name, size, "", "", json.dumps(cites) if cites else "")

    for size, origins, told in (
        (5, [origin("here/1")], "pass"),
        (5, [origin("here")], "fail"),
        (4, [origin("here/1"), origin("here/2", 3)], "warn"),
        (4, [origin("here/1"), origin("here/2", 3, known_size=5)], "warn"),
        (4, [origin("here/1"), origin("here/2", 3, known_size=4)], "fail"),
        (9, [origin("here/1"), origin("here/2", 3, known_size=4)], "fail"),
        (8, [origin("here/1"), origin("here/2", 7)], "warn"),
        (4, [origin("here/1"), origin("here/2", 7)], "fail"),
    ):
        log = Ledger("default", size, b"r" * 32, origins=tuple(origins))
        assert of_ledger_heads(tmp_path, (log,)).outcome == told, origins
    cut = origin("here/2", 3, known_size=4)
    for head, told in (("here/1", "warn"), ("here", "fail"), ("here/2", "fail")):
        later = origin("here/3", 4, known_size=4, head_origin=head, head_size=5)
        log = Ledger(
            "default", 9, b"s" * 32, origins=(origin("here"), origin("here/1"), cut, later)
        )
        assert of_ledger_heads(tmp_path, (log,)).outcome == told, head
    assert of_ledger_heads(tmp_path / "none", ()).outcome == "pass"


def test_what_others_may_read_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "keys").mkdir(parents=True, mode=0o700)
    (folder / "operator.token").write_text("x")
    (folder / "operator.token").chmod(0o644)
    folder.chmod(0o700)
    assert of_directory(folder).outcome == "pass", "nobody gets there"
    folder.chmod(0o755)
    found = of_directory(folder)
    assert (found.outcome, "operator.token" in found.detail) == ("warn", True)
    (folder / "operator.token").chmod(0o600)
    assert of_directory(folder).outcome == "pass"
    folder.chmod(0o777)
    assert of_directory(folder).outcome == "fail"


def test_a_flush_leaves_nothing_and_a_slow_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert of_flush(tmp_path).outcome == "pass"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(resting, "FLUSH_SECONDS", -1.0)
    assert of_flush(tmp_path).outcome == "warn"
    assert of_flush(tmp_path / "none").outcome == "fail"


def test_what_is_no_database_is_told_and_none_is_made(tmp_path: Path) -> None:
    path, keyring = tmp_path / "holdfast.db", tmp_path / "keyring.db"
    found, told = of_database(path, "aggregator", beside=[keyring], deep=False)
    assert (found.outcome, told) == ("skip", None)
    keyring.touch()
    found, told = of_database(path, "aggregator", beside=[keyring], deep=False)
    assert (found.outcome, told) == ("fail", None)
    assert "holdfast.db is gone" in found.detail
    path.write_bytes(b"")
    found, told = of_database(path, "aggregator", beside=[keyring], deep=False)
    assert (found.outcome, told) == ("fail", None)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["holdfast.db", "keyring.db"]
