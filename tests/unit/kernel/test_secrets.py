"""The installation's secret: made once, never over data, and the same for ever."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.kernel.errors import Corrupt, Invalid, Unavailable
from holdfast.kernel.secrets import TenantSecrets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "tenant-secrets"


def test_it_is_made_once_and_stays(path: Path) -> None:
    first = TenantSecrets.open(path, may_create=True)
    again = TenantSecrets.open(path, may_create=True)
    later = TenantSecrets.open(path, may_create=False)
    assert first.derive("t", "p") == again.derive("t", "p") == later.derive("t", "p")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_secret_stops_the_start_where_there_is_data(path: Path) -> None:
    with pytest.raises(Unavailable, match="is missing and there is data") as caught:
        TenantSecrets.open(path, may_create=False)
    assert "put the file back" in caught.value.hint
    assert not path.exists()


def test_another_secret_than_the_datas_stops_the_start(path: Path, tmp_path: Path) -> None:
    check = TenantSecrets.open(path, may_create=True).check_value
    TenantSecrets.open(path, may_create=False).confirm(check)
    other = TenantSecrets.open(tmp_path / "other", may_create=True)
    with pytest.raises(Corrupt, match="does not belong"):
        other.confirm(check)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-20],
        lambda text: text.replace('"secret":"', '"secret":"00'),
        lambda text: json.dumps({**json.loads(text), "secret": "00" * 32}),
        lambda text: json.dumps({**json.loads(text), "format": "something-else"}),
        lambda text: json.dumps({**json.loads(text), "more": 1}),
        lambda text: "{",
    ],
)
def test_a_damaged_file_is_corrupt_and_left_alone(path: Path, damage) -> None:
    TenantSecrets.open(path, may_create=True)
    damaged = damage(path.read_text())
    path.write_text(damaged)
    with pytest.raises(Corrupt, match="damaged"):
        TenantSecrets.open(path, may_create=True)
    assert path.read_text() == damaged


def test_a_file_that_others_may_read_is_refused(path: Path) -> None:
    TenantSecrets.open(path, may_create=True)
    for mode in (0o640, 0o604, 0o644):
        path.chmod(mode)
        with pytest.raises(Invalid) as caught:
            TenantSecrets.open(path, may_create=False)
        assert "chmod 600" in caught.value.hint


def test_keys_differ_by_tenant_and_purpose_and_no_two_pairs_run_together() -> None:
    secrets = TenantSecrets(b"\x01" * 32)
    pairs = [("a", "b"), ("a", "c"), ("b", "b"), ("ab", ""), ("", "ab"), ("a", "bc"), ("ab", "c")]
    assert len({secrets.derive(*pair) for pair in pairs}) == len(pairs)
    assert all(len(secrets.derive(*pair)) == 32 for pair in pairs)
    assert TenantSecrets(b"\x02" * 32).derive("a", "b") != secrets.derive("a", "b")


def test_the_derivation_is_hkdf_and_will_not_change() -> None:
    """A change here would rename every stored object: it must never happen by accident."""
    info = b"".join(
        len(part).to_bytes(4, "big") + part
        for part in (b"holdfast-tenant-secrets-1", b"default", b"object-names")
    )
    expected = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(b"\x07" * 32)
    derived = TenantSecrets(b"\x07" * 32).derive("default", "object-names")
    assert derived == expected
    assert hashlib.sha256(derived).hexdigest()[:16] == "32ce1cb181bcf694"


def test_the_file_is_made_from_the_randomness_it_is_given(path: Path) -> None:
    TenantSecrets.open(path, may_create=True, random=lambda count: b"\x05" * count)
    assert json.loads(path.read_text())["secret"] == "05" * 32


def test_the_secret_does_not_show(path: Path) -> None:
    secrets = TenantSecrets.open(path, may_create=True)
    assert json.loads(path.read_text())["secret"] not in repr(secrets) + secrets.check_value


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(Invalid):
        TenantSecrets(b"short")
