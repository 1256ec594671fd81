"""What a drone keeps on its disk."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from holdfast.collect.state import (
    drone_name,
    keep_credential,
    load_credential,
    new_key,
    own_spool,
)
from holdfast.fleet.model import WorkerCredential
from holdfast.kernel.errors import Conflict, Corrupt, Invalid
from tests.support.full_disk import full_beyond

CREDENTIAL = WorkerCredential(
    worker="w", name="d1", credential="secret", beat_seconds=1, lost_after_seconds=3
)


def test_a_blank_name_is_made_once_and_kept(tmp_path: Path) -> None:
    name = drone_name(tmp_path / "state", "")
    assert name.startswith("drone-")
    assert drone_name(tmp_path / "state", "") == name
    assert drone_name(tmp_path / "other", "") != name
    assert drone_name(tmp_path / "state", "my-drone") == "my-drone"


def test_a_disk_that_gets_full_leaves_the_credential_that_was_there(tmp_path: Path) -> None:
    key = new_key(tmp_path, "d1")
    keep_credential(tmp_path, "d1", "http://a", CREDENTIAL, key)
    before = sorted(tmp_path.iterdir())
    with full_beyond(64), pytest.raises(OSError, match="too large"):
        keep_credential(tmp_path, "d1", "http://b", CREDENTIAL, key)
    assert sorted(tmp_path.iterdir()) == before
    assert load_credential(tmp_path, "d1", "http://a") is not None


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
    key = new_key(folder, "d1")
    keep_credential(folder, "d1", "https://a", CREDENTIAL, key)
    kept = folder / "d1.credential"
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    found = load_credential(folder, "d1", "https://a")
    assert found is not None
    assert (found[0], found[1] and found[1].kid) == (CREDENTIAL, key.kid)
    assert load_credential(folder, "d1", "https://b") is None
    assert load_credential(folder, "d2", "https://a") is None
    kept.write_bytes(b'{"control_')
    assert load_credential(folder, "d1", "https://a") is None


def test_each_registration_has_a_key_of_its_own_and_only_the_last_one_is_kept(
    tmp_path: Path,
) -> None:
    neighbour = new_key(tmp_path, "d1.x")
    keep_credential(tmp_path, "d1.x", "https://a", CREDENTIAL, neighbour)
    first = new_key(tmp_path, "d1")
    keep_credential(tmp_path, "d1", "https://a", CREDENTIAL, first)
    lost = new_key(tmp_path, "d1")
    # The registration of the second came to nothing: the first still holds after a start.
    found = load_credential(tmp_path, "d1", "https://a")
    assert found is not None
    assert found[1] is not None
    assert found[1].kid == first.kid
    last = new_key(tmp_path, "d1")
    keep_credential(tmp_path, "d1", "https://a", CREDENTIAL, last)
    assert len({first.kid, lost.kid, last.kid}) == 3
    assert len(list(tmp_path.glob("d1.*.key"))) == 2, "its own, and the neighbour's"
    assert load_credential(tmp_path, "d1.x", "https://a") is not None


def test_a_key_that_is_gone_or_damaged_is_none(tmp_path: Path) -> None:
    key = new_key(tmp_path, "d1")
    keep_credential(tmp_path, "d1", "https://a", CREDENTIAL, key)
    [path] = tmp_path.glob("d1.*.key")
    kept = path.read_bytes()
    for wrong in (b"", b"{}", kept[:-9], b"x" * len(kept)):
        path.write_bytes(wrong)
        assert load_credential(tmp_path, "d1", "https://a") == (CREDENTIAL, None)
    path.write_bytes(kept)
    found = load_credential(tmp_path, "d1", "https://a")
    assert found is not None
    assert found[1] is not None
    path.chmod(0o644)
    assert load_credential(tmp_path, "d1", "https://a") == (CREDENTIAL, None)
    path.unlink()
    assert load_credential(tmp_path, "d1", "https://a") == (CREDENTIAL, None)
    earlier = {"control_plane": "https://a", "credential": msgspec.to_builtins(CREDENTIAL)}
    (tmp_path / "d1.credential").write_bytes(msgspec.json.encode(earlier))
    found = load_credential(tmp_path, "d1", "https://a")
    assert found == (CREDENTIAL, None), "as earlier releases kept it"


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
