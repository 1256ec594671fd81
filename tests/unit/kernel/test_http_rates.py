"""Limits on how often one address, principal and tenant may ask."""

from __future__ import annotations

import pytest

from holdfast.kernel.errors import Exhausted
from holdfast.kernel.http.rates import CALLERS_MAX, RequestRates, network_of
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import Principal, PrincipalKind, service


class Hours:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def caller(subject: str, tenant: str = "default") -> Principal:
    return Principal(TenantId(tenant), subject, PrincipalKind.KEY, frozenset())


def granted(rates: RequestRates, who: Principal, times: int) -> int:
    count = 0
    for _ in range(times):
        try:
            rates.take(who)
        except Exhausted:
            continue
        count += 1
    return count


def test_a_second_s_worth_may_come_at_once_and_then_as_it_comes_in() -> None:
    hours = Hours()
    rates = RequestRates(principal=10, monotonic=hours)
    assert granted(rates, caller("a"), 30) == 10
    with pytest.raises(Exhausted) as refused:
        rates.take(caller("a"))
    assert refused.value.code == "rate-exceeded"
    assert refused.value.retry_after_seconds == pytest.approx(0.1)
    hours.now = 0.5
    assert granted(rates, caller("a"), 30) == 5
    hours.now = 100.0
    assert granted(rates, caller("a"), 30) == 10


def test_nobody_pays_for_another() -> None:
    rates = RequestRates(principal=10, monotonic=Hours())
    assert granted(rates, caller("loud"), 1000) == 10
    assert granted(rates, caller("quiet"), 10) == 10
    assert granted(rates, caller("loud", "other"), 10) == 10


def test_a_hundred_keys_of_a_tenant_share_what_the_tenant_has() -> None:
    rates = RequestRates(tenant=20, monotonic=Hours())
    assert sum(granted(rates, caller(f"key-{n}"), 10) for n in range(100)) == 20
    assert granted(rates, caller("key-1", "quiet"), 10) == 10


def test_roles_that_act_for_themselves_are_not_counted() -> None:
    rates = RequestRates(principal=1, tenant=1, monotonic=Hours())
    assert granted(rates, service("gateway"), 100) == 100


def test_without_a_limit_nothing_is_kept() -> None:
    rates = RequestRates(monotonic=Hours())
    assert granted(rates, caller("a"), 1000) == 1000
    rates.take_address("192.0.2.1")
    assert not any(map(len, (rates._principals, rates._tenants, rates._addresses)))


def test_a_limit_that_is_set_later_holds_from_then_on() -> None:
    rates = RequestRates(monotonic=Hours())
    rates.set(principal=3, tenant=0, address=0)
    assert granted(rates, caller("a"), 10) == 3
    rates.set(principal=0, tenant=0, address=0)
    assert granted(rates, caller("a"), 10) == 10


def test_tables_are_bounded_and_forget_the_quietest() -> None:
    rates = RequestRates(principal=2, address=2, monotonic=Hours())
    rates.take(caller("loud"))
    for number in range(CALLERS_MAX + 100):
        rates.take(caller(f"k{number}"))
        if number == 50:
            rates.take(caller("loud"))
        rates.take_address(f"2001:db8:{number:x}::1")
    assert len(rates._principals) == len(rates._addresses) == CALLERS_MAX


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::"),
        ("2001:db8::ffff:ffff:ffff:ffff", "2001:db8::"),
        ("2001:db8:0:1::1", "2001:db8:0:1::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_what_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network
