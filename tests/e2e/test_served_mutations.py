"""Sources that change, through the served program: each mutation ends there as it may, and as it
does where only formats, mapping and rules are asked (``tests/conformance/test_mutations.py``).

A seeded sample of every kind in ``make test``, the whole corpus and every disorder of pages in
``make soak``; ``python -m tests.mutation_report --served`` writes down what a whole run came to.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support import page_mutations, recorded
from tests.support.mutations import MUTATIONS, NAMES, Case, Document, corpus
from tests.support.served_mutations import Seen, take_through
from tests.support.soaking import scale

pytestmark = pytest.mark.timeout(1200 * scale())

SEED = int(os.environ.get("HOLDFAST_TEST_SEED", "20261127"))
SOURCES, OF_A_KIND, OF_A_BOOK = 10, 4, 6
"""In ``make test``: so many documents, cases of each kind, disorders of each source of pages."""


@pytest.mark.soak
def test_each_mutation_ends_served_as_it_may(tmp_path: Path) -> None:
    recorded.folder()
    documents, books = _whole() if scale() > 1 else _sample(random.Random(SEED))
    seen = take_through(tmp_path, documents, books)
    print(f"\nseed {SEED}: {len(seen.outcomes)} mutations, {len(seen.pages)} disorders of pages")
    assert seen.wrong() == [], "\n".join(seen.wrong())
    assert {each.case.kind for each in seen.outcomes} == set(MUTATIONS)
    assert _counted(seen) == sum(len(cases) for _, cases in [*documents, *books])


def _counted(seen: Seen) -> int:
    return len(seen.outcomes) + len(seen.pages)


def _whole() -> tuple[list[Any], list[Any]]:
    return list(corpus()), _books()


def _books() -> list[Any]:
    return [(one, list(page_mutations.mutations(one))) for one in page_mutations.books()]


def _sample(chance: random.Random) -> tuple[list[Any], list[Any]]:
    """Of some documents some cases of each kind, and some disorders of each book."""
    chosen = list(corpus(names=sorted(chance.sample(NAMES, SOURCES))))
    every = [(document, case) for document, cases in chosen for case in cases]
    kept: list[tuple[Document, Case]] = []
    for kind in MUTATIONS:
        of_kind = [pair for pair in every if pair[1].kind == kind]
        kept += chance.sample(of_kind, min(OF_A_KIND, len(of_kind)))
    of_document = [
        (document, [case for owner, case in kept if owner is document]) for document, _ in chosen
    ]
    of_book = [(one, chance.sample(cases, min(OF_A_BOOK, len(cases)))) for one, cases in _books()]
    return [pair for pair in of_document if pair[1]], of_book
