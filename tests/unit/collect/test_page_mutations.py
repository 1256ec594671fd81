"""Pages of real sources in disorder: what each comes to, and that nothing wrong counts as good.

Every page is left out, repeated, emptied, moved or swapped in turn, and totals are made wrong
(``tests/support/page_mutations.py``). The table of outcomes is in ``docs/page-mutations.md``; this
test holds it to what happens, and ``tests/e2e/test_served_mutations.py`` shows the same on the
served path.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.support.page_mutations import ROOT, books, mutations, outcome

TABLE = ROOT / "docs" / "page-mutations.md"


def test_no_page_in_disorder_is_published_as_good(tmp_path: Path) -> None:
    lines: list[str] = []
    total: Counter[str] = Counter()
    for one in books():
        found: dict[str, Counter[str]] = {}
        _, right = outcome(one, list(one.pages), tmp_path)
        assert right
        for kind, where, pages in mutations(one):
            ended, keys = outcome(one, pages, tmp_path)
            if ended == "published":
                wrong = set(keys) - set(right)
                assert not wrong, (one.name, kind, where)
                fewer = len(set(right) - set(keys))
                ended = "right records" if not fewer else "right records, fewer of them"
                # A source that names no total cannot be caught at the end: what it withholds is
                # not withdrawn either, because such a profile only appends.
                assert not fewer or one.profile.mode == "append", (one.name, kind, where)
            found.setdefault(kind, Counter())[ended] += 1
            total[ended.partition(":")[0]] += 1
        for kind, counts in found.items():
            said = ", ".join(f"{ended} ({count})" for ended, count in sorted(counts.items()))
            lines.append(f"| `{one.name}` | {kind} | {said} |")
    summary = ", ".join(f"{count} {ended}" for ended, count in sorted(total.items()))
    table = "\n".join(["| source | page | outcome |", "|---|---|---|", *lines])
    print(f"\n{sum(total.values())} mutations: {summary}")
    expected = f"{sum(total.values())} mutations: {summary}.\n\n{table}\n"
    assert expected in TABLE.read_text(encoding="utf-8"), expected
