"""Write docs/mutations.md: what became of every seeded mutation of the recorded sources.

Run as ``python -m tests.mutation_report``; needs HOLDFAST_RECORDED_SOURCES.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

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

PAGE = Path(__file__).parents[1] / "docs" / "mutations.md"
ORDER = (UNCHANGED, RIGHT, REJECTED, FAILED)


def results() -> list[tuple[Case, Verdict]]:
    """Every case of the corpus and what became of it."""
    found: list[tuple[Case, Verdict]] = []
    with tempfile.TemporaryDirectory() as folder:
        for document, cases in corpus():
            found += outcomes(document, cases, Path(folder) / "page")
    return found


def page(found: list[tuple[Case, Verdict]]) -> str:
    """The page's text."""
    kinds = list(dict.fromkeys(case.kind for case, _ in found))
    sources = {case.source for case, _ in found}
    lines = [
        "# What becomes of a source that changes",
        "",
        f"{len(found)} seeded mutations of {len(sources)} recorded sources, each cut to its first",
        "120 rows, read, mapped and judged by the program's own formats, rules and drift against a",
        "run of the same rows unharmed. Each ends in exactly one of four ways; none that changes",
        "what the numbers mean is published as good. Written by `python -m tests.mutation_report`.",
        "",
        "| mutation | cases | " + " | ".join(ORDER) + " |",
        "|---|---|" + "---|" * len(ORDER),
    ]
    for kind in kinds:
        counts = Counter(verdict.outcome for case, verdict in found if case.kind == kind)
        cells = " | ".join(str(counts[outcome] or "") for outcome in ORDER)
        lines.append(f"| {kind} | {counts.total()} | {cells} |")
    counts = Counter(verdict.outcome for _, verdict in found)
    lines.append(
        f"| **all** | {counts.total()} | " + " | ".join(str(counts[o]) for o in ORDER) + " |"
    )
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
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(results()), "utf-8")
