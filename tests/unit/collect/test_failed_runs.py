"""What kind of failure a run's code is: each code that collecting can end with has a kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast.collect
import holdfast.kernel.outbound
from holdfast.kernel import failed_runs
from holdfast.kernel.errors import Kind
from holdfast.records import rules

OTHERWISE = {
    "address-invalid": "of an operator's setting, before anything runs",
    "status": "told as http-status",
}


def sources() -> Iterator[Path]:
    yield Path(rules.__file__)
    for package in (holdfast.collect, holdfast.kernel.outbound):
        (folder,) = package.__path__
        yield from Path(folder).rglob("*.py")


def test_each_code_that_collecting_can_end_with_is_told_apart() -> None:
    said = re.compile(r"code ?= ?\"([a-z-]+)\"|return \(\s*\"([a-z]+(?:-[a-z]+)+)\",")
    found = {
        first or second
        for path in sources()
        for first, second in said.findall(path.read_text(encoding="utf-8"))
    }
    assert {"parse-bound", "duplicate-keys", "unreachable"} <= found
    assert found - failed_runs.KNOWN - OTHERWISE.keys() == set()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("unreachable", Kind.UNAVAILABLE),
        ("schema-drift", Kind.CONFLICT),
        ("internal", Kind.INTERNAL),
        ("of-a-version-to-come", Kind.CONFLICT),
    ],
)
def test_a_failed_run_is_an_error_of_its_kind_and_ends_the_command_with_one(
    code: str, kind: Kind
) -> None:
    error = failed_runs.failed_run("it failed", code=code, hint="")
    assert (error.kind, error.code, error.exit_status) == (kind, code, 1)
