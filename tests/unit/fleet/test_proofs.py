"""A worker's credential is of no use to whoever lacks the key it was registered with."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.fleet import proofs
from holdfast.fleet.proofs import BEHIND_MAX, WINDOW_SECONDS, Proofs, Prover
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Unauthenticated
from holdfast.kernel.signing import SigningKey

KEY, OTHER = SigningKey.from_seed(b"k" * 32), SigningKey.from_seed(b"o" * 32)
PUBLIC = KEY.public_bytes().hex()
SECRET = "hfw_credential"
ASKED = ("POST", "/v1/workers/beat?x=%2F")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 1, 12, tzinfo=UTC))


@pytest.fixture
def door(clock: ManualClock) -> Proofs:
    made = Proofs(clock)
    clock.advance(1)
    return made


def prover(clock: ManualClock, key: SigningKey = KEY, secret: str = SECRET) -> Prover:
    return Prover(key, secret, moment=lambda: clock.now().timestamp())


def refused(door: Proofs, proof: str, *asked: str, key: str = PUBLIC, secret: str = SECRET) -> str:
    with pytest.raises(Unauthenticated) as found:
        door.check(proof, *(asked or ASKED), secret, key)  # type: ignore[arg-type]
    return found.value.code


def test_a_proof_counts_once(door: Proofs, clock: ManualClock) -> None:
    prove = prover(clock)
    first, second = prove(*ASKED), prove(*ASKED)
    assert first != second
    for proof in (second, first):  # requests overtake each other
        door.check(proof, *ASKED, SECRET, PUBLIC)
    assert refused(door, first) == refused(door, second) == "proof-replayed"
    clock.advance(WINDOW_SECONDS + 2)
    assert refused(door, first) == "proof-stale"


def test_a_proof_is_for_one_request_credential_and_key(door: Proofs, clock: ManualClock) -> None:
    proof = prover(clock)(*ASKED)
    assert refused(door, proof, "PUT", ASKED[1]) == "proof-refused"
    assert refused(door, proof, "POST", "/v1/workers/beat?x=/") == "proof-refused"
    assert refused(door, proof, secret="hfw_another") == "proof-refused"
    assert refused(door, proof, key=OTHER.public_bytes().hex()) == "proof-refused"
    assert refused(door, prover(clock, OTHER)(*ASKED)) == "proof-refused"
    assert refused(door, proof, key="") == "proof-refused"
    assert refused(door, "") == "proof-missing"
    door.check(proof, *ASKED, SECRET, PUBLIC)  # none of that used it up


def test_nobody_without_the_key_leaves_a_trace(door: Proofs, clock: ManualClock) -> None:
    for _ in range(100):
        refused(door, prover(clock, OTHER)(*ASKED))
    assert not door._seen


@pytest.mark.parametrize("shift", [-WINDOW_SECONDS - 1, 4.0, 10.0, WINDOW_SECONDS + 1])
def test_a_proof_of_another_time_is_refused_until_the_door_told_its_own(
    door: Proofs, clock: ManualClock, shift: float
) -> None:
    prove = Prover(KEY, SECRET, moment=lambda: clock.now().timestamp() + shift)
    assert refused(door, prove(*ASKED)) == "proof-stale"
    prove.told("yesterday")
    prove.told("")
    assert refused(door, prove(*ASKED)) == "proof-stale"
    prove.told(format_datetime(clock.now(), usegmt=True))
    door.check(prove(*ASKED), *ASKED, SECRET, PUBLIC)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("shift", [-2.5, 2.1, 2.9, 3.1, 3.9, 59.0])
def test_whoever_was_told_the_time_once_is_let_in(
    door: Proofs, clock: ManualClock, shift: float, fraction: float
) -> None:
    clock.advance(fraction)
    prove = Prover(KEY, SECRET, moment=lambda: clock.now().timestamp() + shift)
    prove.told(format_datetime(clock.now(), usegmt=True))
    door.check(prove(*ASKED), *ASKED, SECRET, PUBLIC)


def test_what_a_door_saw_before_it_was_started_again_does_not_count_again(
    door: Proofs, clock: ManualClock
) -> None:
    prove = prover(clock)
    proof = prove(*ASKED)
    door.check(proof, *ASKED, SECRET, PUBLIC)
    again = Proofs(clock)
    assert refused(again, proof) == "proof-stale"
    clock.advance(1)
    again.check(prove(*ASKED), *ASKED, SECRET, PUBLIC)


def test_whoever_learns_the_time_of_a_door_that_was_just_started_is_let_in(
    clock: ManualClock,
) -> None:
    clock.advance(0.9)
    door = Proofs(clock)
    clock.advance(0.05)
    prove = Prover(KEY, SECRET, moment=lambda: clock.now().timestamp() - 7200)
    prove.told(format_datetime(clock.now(), usegmt=True))
    door.check(prove(*ASKED), *ASKED, SECRET, PUBLIC)


def test_the_table_is_bounded_and_what_is_forgotten_stays_refused(
    door: Proofs, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs, "SESSIONS_MAX", 10)
    old = prover(clock)(*ASKED)
    door.check(old, *ASKED, SECRET, PUBLIC)
    for _ in range(20):
        clock.advance(0.1)
        door.check(prover(clock)(*ASKED), *ASKED, SECRET, PUBLIC)
    assert len(door._seen) == 10
    assert refused(door, old) == "proof-stale"


def test_a_number_far_behind_is_refused(door: Proofs, clock: ManualClock) -> None:
    prove = prover(clock)
    late = prove(*ASKED)
    for _ in range(BEHIND_MAX):
        newest = prove(*ASKED)
    door.check(newest, *ASKED, SECRET, PUBLIC)
    assert refused(door, late) == "proof-replayed"


@given(st.lists(st.integers(1, 40), max_size=60))
def test_each_number_counts_once_in_whatever_order(numbers: list[int]) -> None:
    clock = ManualClock(datetime(2026, 11, 1, 12, tzinfo=UTC))
    door = Proofs(clock)
    clock.advance(1)
    prove = prover(clock)
    made = [prove(*ASKED) for _ in range(40)]
    seen: set[int] = set()
    for number in numbers:
        if number in seen:
            assert refused(door, made[number - 1]) == "proof-replayed"
        else:
            door.check(made[number - 1], *ASKED, SECRET, PUBLIC)
        seen.add(number)


@given(st.text(max_size=200) | st.from_regex(r"v1\.[A-Za-z0-9_-]{22}\.[0-9]{1,20}\.[0-9]{5,20}\.x"))
def test_whatever_comes_is_refused_as_one_kind(text: str) -> None:
    door = Proofs(ManualClock(datetime(2026, 11, 1, 12, tzinfo=UTC)))
    assert refused(door, text) in ("proof-refused", "proof-missing")
