"""What `holdfast doctor` says of what it is answered."""

from __future__ import annotations

import pytest

from holdfast.app.commands.doctor import of_ledger
from holdfast.ledger.model import Damage, LedgerStatus


def status(*, writable: bool, damage: Damage | None = None) -> LedgerStatus:
    return LedgerStatus(
        size=1200,
        root="",
        origin="here",
        recorded="",
        writable=writable,
        published_size=0,
        damage=damage,
    )


@pytest.mark.parametrize(("writable", "who"), [(True, "here"), (False, "by another instance")])
def test_an_instance_that_does_not_append_is_well(writable: bool, who: str) -> None:
    found = of_ledger(status(writable=writable))
    assert (found.outcome, found.hint) == ("pass", "")
    assert f"1,200 entries, appended to {who}" in found.detail


@pytest.mark.parametrize("writable", [True, False])
def test_a_log_that_is_damaged_is_not(writable: bool) -> None:
    lost = Damage(reason="lost-tail", detail="the log ends at 1200", first=1200)
    found = of_ledger(status(writable=writable, damage=lost))
    assert found.outcome == "fail"
    assert "read-only at 1,200 entries: lost-tail: the log ends at 1200" in found.detail
    assert "ledger verify" in found.hint
