"""Sign-in is slowed for whoever is wrong, and for nobody else."""

from __future__ import annotations

import pytest

from holdfast.identity.signin.throttle import (
    BEGINS_PER_MINUTE,
    BUCKETS_MAX,
    FAILURES_PER_MINUTE,
    Buckets,
    Throttle,
    network_of,
)
from holdfast.kernel.errors import Exhausted


class Watch:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def throttle(watch: Watch) -> Throttle:
    return Throttle(watch, b"key")


def test_an_address_begins_so_many_sign_ins_and_waits_as_long_as_it_is_told(
    throttle: Throttle, watch: Watch
) -> None:
    for _ in range(BEGINS_PER_MINUTE):
        throttle.begin("192.0.2.1", "")
    with pytest.raises(Exhausted) as refused:
        throttle.begin("192.0.2.1", "")
    throttle.begin("192.0.2.2", "")
    assert refused.value.retry_after_seconds is not None
    watch.now += refused.value.retry_after_seconds + 0.001
    throttle.begin("192.0.2.1", "")


def test_one_ipv6_network_is_one_caller() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("") == "unknown"


def test_a_browser_that_has_signed_in_is_not_held_to_what_strangers_at_its_address_do(
    throttle: Throttle,
) -> None:
    device = throttle.device(b"\x01" * 16)
    for _ in range(BEGINS_PER_MINUTE):
        throttle.begin("192.0.2.1", "")
    throttle.begin("192.0.2.1", device)
    for forged in (
        "x",
        "x.y",
        device[:-1],
        device.replace(".", ".0", 1),
        Throttle(Watch(), b"?").device(b"1"),
    ):
        with pytest.raises(Exhausted):
            throttle.begin("192.0.2.1", forged)


def test_failures_in_an_accounts_name_are_bounded_from_everywhere_together(
    throttle: Throttle,
) -> None:
    for number in range(FAILURES_PER_MINUTE):
        throttle.failed(f"192.0.2.{number}", "", "ada")
    with pytest.raises(Exhausted):
        throttle.failed("198.51.100.1", "", "ada")
    throttle.failed("198.51.100.1", "", "grace")
    # Her own browser begins as ever: only being wrong is bounded, and she is not.
    throttle.begin("203.0.113.7", "")


def test_what_is_remembered_is_bounded(watch: Watch) -> None:
    buckets = Buckets(1, watch)
    for number in range(BUCKETS_MAX + 10):
        buckets.take(str(number))
    assert len(buckets._left) == BUCKETS_MAX
    assert buckets.wait(str(BUCKETS_MAX + 9)) > 0
