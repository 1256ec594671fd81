"""Hundreds of ways in which a source can change: each ends in one of four ways, and none that
breaks the meaning of its numbers is published as good."""

from __future__ import annotations

from functools import cache

import pytest

from tests import mutation_report
from tests.support import recorded
from tests.support.mutations import FAILED, MUTATIONS, REJECTED, RIGHT, UNCHANGED, Case, Verdict


@cache
def results() -> list[tuple[Case, Verdict]]:
    recorded.folder()
    return mutation_report.results()


def test_there_are_enough_of_each_kind() -> None:
    found = results()
    assert len(found) >= 500
    assert {case.kind for case, _ in found} == set(MUTATIONS)


@pytest.mark.parametrize("kind", sorted(MUTATIONS))
def test_each_mutation_ends_as_it_may(kind: str) -> None:
    wrong = [
        f"{case.source}: {case.detail}: {verdict.outcome} ({verdict.reason})"
        for case, verdict in results()
        if case.kind == kind and verdict.outcome not in case.allowed
    ]
    assert wrong == []


def test_every_outcome_is_one_of_four_and_names_its_reason() -> None:
    for _, verdict in results():
        assert verdict.outcome in {UNCHANGED, RIGHT, REJECTED, FAILED}
        assert verdict.reason or verdict.outcome in {UNCHANGED, RIGHT}


def test_the_page_in_the_documentation_is_what_was_seen() -> None:
    written = mutation_report.PAGE.read_text("utf-8")
    served = mutation_report.served_part(written)
    assert written == mutation_report.page(results(), served), (
        "python -m tests.mutation_report writes it"
    )


def test_as_many_were_seen_to_end_so_in_the_served_program() -> None:
    served = mutation_report.served_part(mutation_report.PAGE.read_text("utf-8"))
    counted = mutation_report.tally((case.kind, verdict.outcome) for case, verdict in results())
    missing = [line for line in mutation_report.table(counted)[:-1] if line not in served]
    assert missing == [], "python -m tests.mutation_report --served writes it"
