"""Reading the past is replaying it: for any sequence of snapshots, every moment shows its own."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import create_schema, open_database
from holdfast.records.model import RecordFilter
from tests.support.postgres import run_apart
from tests.unit.records.helpers import OPERATOR, Bench, bench_on, profile, record

SNAPSHOT = st.dictionaries(st.sampled_from("ABCDE"), st.sampled_from(["1", "2", "3"]), max_size=5)
STORY = st.lists(st.tuples(SNAPSHOT, st.sampled_from([0, 0.000001, 1])), min_size=1, max_size=6)


@pytest.mark.parametrize("mode", ["snapshot", "append"])
@given(story=STORY)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_moment_shows_what_was_published_then(
    tmp_path_factory: pytest.TempPathFactory, mode: str, story: list[tuple[dict[str, str], float]]
) -> None:
    folder = tmp_path_factory.mktemp("past")

    async def body() -> None:
        url = f"sqlite:///{folder / 'past.db'}"
        async with open_database(url, clock=SystemClock()) as database:
            await create_schema(database)
            async with bench_on(database, folder, profile(mode=mode)) as bench:
                await replayed(bench, mode, story)

    run_apart(body)


async def replayed(bench: Bench, mode: str, story: list[tuple[dict[str, str], float]]) -> None:
    shown: dict[str, str] = {}
    expected: list[tuple[str, dict[str, str]]] = []
    for fence, (snapshot, pause) in enumerate(story, 1):
        run = await bench.collect([record(k, v) for k, v in snapshot.items()], fence=fence)
        shown = dict(snapshot) if mode == "snapshot" else {**shown, **snapshot}
        recorded = await _recorded(bench, run.publication)
        if recorded:
            expected = [one for one in expected if one[0] != recorded]
            expected.append((recorded, shown))
        bench.clock.advance(pause)
    assert len({moment for moment, _ in expected}) == len(expected)
    for moment, state in expected:
        assert await _seen(bench, moment) == state
    assert await _seen(bench, "2025-12-31T23:59:59Z") == {}


async def _recorded(bench: Bench, publication: int | None) -> str:
    from holdfast.records import store

    if publication is None:
        return ""
    row = await bench.db.read(
        OPERATOR,
        lambda conn: store.find(
            conn, store.publications, OPERATOR.tenant, profile="rates", publication=publication
        ),
    )
    assert row is not None
    return str(row.recorded_at)


async def _seen(bench: Bench, moment: str) -> dict[str, str]:
    page = await bench.service.records(
        OPERATOR, RecordFilter(profile="rates", as_of=moment), limit=1000
    )
    return {str(one.key[0]): str(one.measures["rate"].value) for one in page.items}
