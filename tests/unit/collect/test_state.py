"""What a drone keeps on its disk."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from holdfast.collect.state import drone_name, keep_credential, load_credential, own_spool
from holdfast.fleet.model import WorkerCredential
from holdfast.kernel.errors import Conflict, Corrupt, Invalid

CREDENTIAL = WorkerCredential(
    worker="w", name="d1", credential="secret", beat_seconds=1, lost_after_seconds=3
)


def test_a_blank_name_is_made_once_and_kept(tmp_path: Path) -> None:
    name = drone_name(tmp_path / "state", "")
    assert name.startswith("drone-")
    assert drone_name(tmp_path / "state", "") == name
    assert drone_name(tmp_path / "other", "") != name
    assert drone_name(tmp_path / "state", "my-drone") == "my-drone"


@pytest.mark.parametrize("name", ["UPPER", "../x", "a b", "-a", "x" * 65])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid):
        drone_name(tmp_path, name)
    (tmp_path / "drone-id").write_text(name)
    with pytest.raises(Corrupt):
        drone_name(tmp_path, "")


def test_a_credential_is_private_and_shown_to_its_control_plane_only(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert load_credential(folder, "d1", "https://a") is None
    keep_credential(folder, "d1", "https://a", CREDENTIAL)
    [kept] = folder.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert load_credential(folder, "d1", "https://a") == CREDENTIAL
    assert load_credential(folder, "d1", "https://b") is None
    assert load_credential(folder, "d2", "https://a") is None
    kept.write_bytes(b'{"control_')
    assert load_credential(folder, "d1", "https://a") is None


def test_leftovers_of_an_earlier_life_are_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    with own_spool(tmp_path, "d1") as spool:
        (spool / "fetch-1.raw").write_text("x")
        (spool / "task").mkdir()
        (spool / "task" / "fetch-2.raw").write_text("x")
        (spool / "link").symlink_to(outside)
    with own_spool(tmp_path, "d1") as spool:
        assert [path.name for path in spool.iterdir()] == [".lock"]
    assert (outside / "kept").exists()


def test_two_drones_of_one_name_do_not_share_a_spool(tmp_path: Path) -> None:
    with (
        own_spool(tmp_path, "d1"),
        own_spool(tmp_path, "d2"),
        pytest.raises(Conflict, match="another one of that name"),
        own_spool(tmp_path, "d1"),
    ):
        pass
    with own_spool(tmp_path, "d1"):
        pass
