"""What `holdfast doctor` says of what it is answered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from holdfast.app.commands.doctor import of_drones, of_ledger
from holdfast.app.door import ServiceHealth
from holdfast.console.overview import ServiceLine, service_problems
from holdfast.fleet.model import Worker, WorkerStatus
from holdfast.ledger.cli import print_status
from holdfast.ledger.errors import ClockSteppedBack
from holdfast.ledger.model import Damage, LedgerStatus

LATER = "2027-03-12T09:00:00.000000Z"


def status(*, writable: bool, damage: Damage | None = None, stopped: str = "") -> LedgerStatus:
    return LedgerStatus(
        size=1200,
        root="",
        origin="here",
        recorded="",
        writable=writable,
        published_size=0,
        damage=damage,
        stopped=stopped,
    )


@pytest.mark.parametrize(("writable", "who"), [(True, "here"), (False, "by another instance")])
def test_an_instance_that_does_not_append_is_well(writable: bool, who: str) -> None:
    found = of_ledger(status(writable=writable))
    assert (found.outcome, found.hint) == ("pass", "")
    assert f"1,200 entries, appended to {who}" in found.detail


@pytest.mark.parametrize("writable", [True, False])
def test_a_log_that_waits_for_the_clock_is_not_well_and_says_what_to_do(writable: bool) -> None:
    found = of_ledger(status(writable=writable, stopped=ClockSteppedBack(7200, LATER).said))
    assert found.outcome == "fail"
    assert found.detail == (
        f"nothing is appended: the clock is 7200 s behind the last entry ({LATER})"
    )
    assert "holdfast ledger accept-clock --reason" in found.hint


def test_ledger_status_says_that_it_is_the_clock_and_no_other_instance(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_status(status(writable=False, stopped=ClockSteppedBack(7200, LATER).said))
    told = capsys.readouterr()
    assert f"no: the clock is 7200 s behind the last entry ({LATER})" in told.out
    assert "another instance" not in told.out
    assert "hint: if the clock is wrong, set it right" in told.err
    print_status(status(writable=False))
    assert "another instance appends" in capsys.readouterr().out


async def test_health_and_so_status_and_doctor_name_the_clock() -> None:
    async def check() -> str:
        return "degraded"

    system = SimpleNamespace(roles={"ledger"}, checks={"ledger_clock": check})
    health = ServiceHealth(cast(Any, system), {}, cast(Any, None))
    (line,) = service_problems(
        [
            ServiceLine(name=name, status=state, detail=why)
            for name, (state, why) in (await health.told()).items()
        ]
    )
    assert "ledger is degraded: ledger_clock: nothing is appended, the clock is behind" in line


def drone(name: str, silent: float | None) -> Worker:
    return Worker(
        id=name,
        name=name,
        status=WorkerStatus.ALIVE,
        capabilities=[],
        labels={},
        region="",
        capacity=1,
        version="",
        registered_at="2026-11-28T07:00:00.000000Z",
        last_beat_at=None,
        silent_seconds=silent,
    )


def test_a_drone_that_has_been_silent_for_too_long_does_not_beat() -> None:
    well = of_drones([drone("a", 2.2), drone("b", 29.0)], 30.0)
    assert (well.outcome, well.detail) == ("pass", "2 of 2 beat, the last one 2 s ago")
    for silent, told in ((97.0, "a 97 s ago"), (None, "a never")):
        found = of_drones([drone("a", silent)], 30.0)
        assert found.outcome == "fail"
        assert f"no drone beats: {told}; after 30 s of silence" in found.detail
        assert found.hint
    some = of_drones([drone("a", 97.0), drone("b", 3.0)], 60.0)
    assert some.outcome == "warn"
    assert some.detail.startswith("1 of 2 beat, the last one 3 s ago; not a 97 s ago; after 60 s")
    assert of_drones([], 30.0).detail == "no drone beats"


@pytest.mark.parametrize("writable", [True, False])
def test_a_log_that_is_damaged_is_not(writable: bool) -> None:
    lost = Damage(reason="lost-tail", detail="the log ends at 1200", first=1200)
    found = of_ledger(status(writable=writable, damage=lost))
    assert found.outcome == "fail"
    assert "read-only at 1,200 entries: lost-tail: the log ends at 1200" in found.detail
    assert "ledger verify" in found.hint
