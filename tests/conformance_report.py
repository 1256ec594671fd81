"""Hold ``docs/conformance.md`` against what the suite really did.

A row may say *implemented* only with tests that ran and passed in this very run; the run's own
JUnit report says which did. Run by ``make test`` after pytest.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "conformance.md"
REPORT = ROOT / ".test-report.xml"
STATUSES = {"implemented", "experimental", "planned"}


@dataclass(frozen=True)
class Row:
    """One line of the table: a requirement, its status, the tests named as proof."""

    id: str
    status: str
    tests: tuple[str, ...]


def rows(text: str) -> Iterator[Row]:
    """The rows of the page."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"[GB][0-9.]+", cells[0]):
            yield Row(cells[0], cells[2], tuple(re.findall(r"`(tests/[^`]+)`", cells[3])))


def results(report: Path) -> dict[str, str]:
    """Test name (``tests/…/file.py::test``, parameters cut) → worst outcome in the run."""
    order = {"passed": 0, "skipped": 1, "failed": 2}
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.get("classname", "").replace(".", "/")
        outcome = "passed"
        for child in case:
            if child.tag in ("failure", "error"):
                outcome = "failed"
            elif child.tag == "skipped":
                outcome = "skipped"
        name = f"{module}.py::{case.get('name', '').split('[')[0]}"
        for key in (name, f"{module}.py"):
            if order[outcome] >= order[found.get(key, "passed")]:
                found[key] = outcome
    return found


def complaints(page: str, found: dict[str, str]) -> list[str]:
    """Everything the page claims that the run does not bear out."""
    listed = list(rows(page))
    wrong = [f"{r.id}: unknown status {r.status!r}" for r in listed if r.status not in STATUSES]
    for row in listed:
        if row.status != "implemented":
            continue
        if not row.tests:
            wrong.append(f"{row.id}: implemented, but no test is named")
        for test in row.tests:
            outcome = found.get(test, "not run")
            if outcome != "passed":
                wrong.append(f"{row.id}: {test} {outcome}")
    return wrong


def main() -> int:
    """Print what does not hold; exit status 1 if anything."""
    if not REPORT.exists():
        sys.stderr.write("conformance: no test report; run `make test`\n")
        return 1
    wrong = complaints(PAGE.read_text(encoding="utf-8"), results(REPORT))
    for line in wrong:
        sys.stderr.write(f"conformance: {line}\n")
    total = list(rows(PAGE.read_text(encoding="utf-8")))
    done = sum(row.status == "implemented" for row in total)
    sys.stderr.write(f"conformance: {done} of {len(total)} rows implemented, {len(wrong)} wrong\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
