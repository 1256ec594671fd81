"""Secrets that workers hold, and what is kept of them."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.fleet.credentials import JOIN_PREFIX, PEPPER, WORKER_PREFIX
from holdfast.kernel.credentials import Peppers, identity_of, make_secret
from holdfast.kernel.errors import Corrupt, Unauthenticated, Unavailable

ID = "01970000-0000-7000-8000-000000000000"


def test_a_credential_has_its_documented_shape() -> None:
    secret = make_secret(WORKER_PREFIX, ID, bytes(range(32)))
    assert re.fullmatch(rf"hfw_{ID}_[A-Za-z0-9_-]{{43}}_[0-9a-f]{{8}}", secret)
    assert identity_of(secret, WORKER_PREFIX) == ID


@given(st.binary(min_size=32, max_size=32))
def test_every_secret_leads_to_its_id(random: bytes) -> None:
    assert identity_of(make_secret(JOIN_PREFIX, ID, random), JOIN_PREFIX) == ID


@given(st.integers(0, 10**6), st.sampled_from("AZaz09-_ x\u00e9"))
def test_a_typo_is_noticed(position: int, character: str) -> None:
    secret = make_secret(WORKER_PREFIX, ID, bytes(32))
    position %= len(secret)
    changed = secret[:position] + character + secret[position + 1 :]
    if changed != secret:
        with pytest.raises(Unauthenticated):
            identity_of(changed, WORKER_PREFIX)


@given(st.text(max_size=300))
def test_any_other_text_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        identity_of(text, WORKER_PREFIX)
    assert refusal.value.code == "credential-malformed"


def test_a_join_token_is_no_credential() -> None:
    with pytest.raises(Unauthenticated):
        identity_of(make_secret(JOIN_PREFIX, ID, bytes(32)), WORKER_PREFIX)


def test_only_the_same_secret_under_the_same_pepper_matches() -> None:
    peppers = Peppers({1: b"a" * 32})
    kept, version = peppers.seal("secret")
    assert peppers.matches("secret", kept, version)
    assert not peppers.matches("Secret", kept, version)
    assert not Peppers({1: b"b" * 32}).matches("secret", kept, version)
    assert not Peppers({2: b"a" * 32}).matches("secret", kept, version)
    assert b"secret" not in kept


def test_a_new_version_makes_and_the_old_one_still_verifies(tmp_path: Path) -> None:
    old = Peppers.load_or_create(tmp_path, PEPPER)
    kept, version = old.seal("secret")
    assert version == 1
    path = tmp_path / "worker-pepper.v2"
    path.write_text("ab" * 32)
    path.chmod(0o600)
    new = Peppers.load_or_create(tmp_path, PEPPER)
    assert new.newest == 2
    assert new.matches("secret", kept, version)
    assert new.seal("secret")[0] != kept
    assert new.name("somebody") == old.name("somebody")


def test_the_pepper_is_private_and_made_once(tmp_path: Path) -> None:
    Peppers.load_or_create(tmp_path, PEPPER)
    path = tmp_path / "worker-pepper.v1"
    before = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    Peppers.load_or_create(tmp_path, PEPPER)
    assert path.read_bytes() == before


def test_data_is_held_to_the_pepper_that_it_was_written_under(tmp_path: Path) -> None:
    known = Peppers({1: b"a" * 32}).check_values()
    Peppers({1: b"a" * 32, 2: b"b" * 32}).confirm(known)  # another version came
    Peppers({2: b"b" * 32}).confirm({**known, **Peppers({2: b"b" * 32}).check_values()})
    for foreign in (Peppers({1: b"b" * 32}), Peppers({2: b"a" * 32})):
        with pytest.raises(Corrupt, match="does not belong to this data"):
            foreign.confirm(known)
    Peppers({1: b"b" * 32}).confirm({})
    with pytest.raises(Unavailable, match=r"worker-pepper\.v1 is missing"):
        Peppers.load_or_create(tmp_path, PEPPER, may_create=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("content", "mode"), [("", 0o600), ("zz", 0o600), ("ab" * 32, 0o644)])
def test_a_broken_pepper_stops(tmp_path: Path, content: str, mode: int) -> None:
    path = tmp_path / "worker-pepper.v1"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(Corrupt):
        Peppers.load_or_create(tmp_path, PEPPER)
    assert path.read_text() == content
