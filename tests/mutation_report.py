"""Write docs/mutations.md: what became of every seeded mutation of the recorded sources.

``python -m tests.mutation_report`` asks the formats, the mapping and the rules, in seconds;
``--served`` takes every one through the served program as well, and every disorder of pages, in
minutes, and writes down what was seen there. Needs HOLDFAST_RECORDED_SOURCES.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tests.support import page_mutations
from tests.support.mutations import (
    FAILED,
    REJECTED,
    RIGHT,
    UNCHANGED,
    Case,
    Verdict,
    corpus,
    outcomes,
)
from tests.support.served_mutations import Seen, take_through

PAGE = Path(__file__).parents[1] / "docs" / "mutations.md"
ORDER = (UNCHANGED, RIGHT, REJECTED, FAILED)
SERVED = "## Through the served program"
PAGES = "pages in disorder"

Tally = dict[str, Counter[str]]
"""Kind of mutation → outcome → how many."""


def results() -> list[tuple[Case, Verdict]]:
    """Every case of the corpus and what became of it."""
    found: list[tuple[Case, Verdict]] = []
    with tempfile.TemporaryDirectory() as folder:
        for document, cases in corpus():
            found += outcomes(document, cases, Path(folder) / "page")
    return found


def tally(pairs: Iterable[tuple[str, str]]) -> Tally:
    """The outcomes of each kind, counted."""
    found: Tally = {}
    for kind, outcome in pairs:
        found.setdefault(kind, Counter())[outcome] += 1
    return found


def table(counted: Tally) -> list[str]:
    """The lines of a table of outcomes."""
    lines = [
        "| mutation | cases | " + " | ".join(ORDER) + " |",
        "|---|---|" + "---|" * len(ORDER),
    ]
    for kind, counts in counted.items():
        cells = " | ".join(str(counts[outcome] or "") for outcome in ORDER)
        lines.append(f"| {kind} | {counts.total()} | {cells} |")
    every = sum(counted.values(), Counter[str]())
    cells = " | ".join(str(every[outcome]) for outcome in ORDER)
    return [*lines, f"| **all** | {every.total()} | {cells} |"]


def page(found: list[tuple[Case, Verdict]], served: str) -> str:
    """The page's text; ``served`` is the part that only a run of the program can write."""
    sources = {case.source for case, _ in found}
    lines = [
        "# What becomes of a source that changes",
        "",
        f"{len(found)} seeded mutations of {len(sources)} recorded sources, each cut to its first",
        "120 rows, read, mapped and judged by the program's own formats, rules and drift against a",
        "run of the same rows unharmed. Each ends in exactly one of four ways; none that changes",
        "what the numbers mean is published as good. Written by `python -m tests.mutation_report`.",
        "",
        *table(tally((case.kind, verdict.outcome) for case, verdict in found)),
    ]
    lines += ["", "How the breaking ones were caught:", "", "| caught by | cases |", "|---|---|"]
    causes = Counter(
        "rejected rows" if verdict.outcome == REJECTED else verdict.reason.partition(":")[0]
        for _, verdict in found
        if verdict.outcome in {REJECTED, FAILED}
    )
    lines += [f"| {cause} | {count} |" for cause, count in causes.most_common()]
    lines += [
        "",
        "What cannot be told: one series among many of one profile that changes its unit or sign",
        "(the shape of a measure is that of all its series), one number that is wrong and within",
        "its range, and the cut of a table whose length the source did not say, if enough is left.",
        "",
    ]
    return "\n".join(lines) + "\n" + served


def served_part(text: str) -> str:
    """The part of the page that a served run wrote."""
    _, heading, rest = text.partition(SERVED)
    return heading + rest


def served_tally(seen: Seen) -> Tally:
    """The outcomes that a client of the program saw."""
    pairs = [(each.case.kind, each.served.outcome) for each in seen.outcomes]
    return tally([*pairs, *((PAGES, each.served.outcome) for each in seen.pages)])


def served_page(seen: Seen, seconds: float, at: datetime) -> str:
    """The part of the page that says what was seen in the served program."""
    lines = [
        SERVED,
        "",
        f"The same {len(seen.outcomes)} and the {len(seen.pages)} disorders of pages of",
        "[page-mutations.md](page-mutations.md), a run each of `holdfast up` with two drones, the",
        "unharmed bytes published before, the outcome read over `/v1`: the run, every published",
        "record with its revision before and after it, the rejects it names. Written by",
        f"`python -m tests.mutation_report --served`, last on {at:%Y-%m-%d}, in {seconds:.0f} s.",
        "",
        *table(served_tally(seen)),
        "",
        f"{len(seen.wrong())} ended otherwise than without the program: outcome, cause, and the",
        "positions, fields and reasons of all rejects are compared. `make test` repeats a seeded",
        "sample of every kind, `make soak` all of it (`tests/e2e/test_served_mutations.py`).",
    ]
    return "\n".join(lines) + "\n"


def run_served() -> tuple[Seen, str]:
    """The whole corpus through the served program, and what to write of it."""
    books = [(one, list(page_mutations.mutations(one))) for one in page_mutations.books()]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seen = take_through(Path(folder), list(corpus()), books)
    return seen, served_page(seen, time.monotonic() - begun, datetime.now(UTC))


def main() -> int:
    """Write the page; 1 if the served program disagrees with what was to be expected of it."""
    served, wrong = served_part(PAGE.read_text("utf-8")), []
    if "--served" in sys.argv[1:]:
        seen, served = run_served()
        wrong = seen.wrong()
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        PAGE.write_text(page(results(), served), "utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
