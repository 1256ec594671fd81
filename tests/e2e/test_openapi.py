"""Whatever the OpenAPI document admits, and much that it does not: never a 5xx, always in form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.support.program import Program, started

DOCUMENT = Path(__file__).parents[2] / "api" / "openapi.json"
# A subscription never ends by itself, and lines of JSON cannot be made from the document: tests of
# their own follow and pipeline.
schema = schemathesis.openapi.from_path(DOCUMENT).exclude(
    path=["/v1/ledger/follow", "/v1/ledger/pipeline"]
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    path = tmp_path_factory.mktemp("openapi") / "data"
    quiet = {"HOLDFAST_LOG_LEVEL": "error", "HOLDFAST_REPORTS_SECONDS": "5"}
    with started(["up", "--drones", "0", "--port", "0"], path, environment=quiet) as running:
        yield running


@schema.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_no_input_makes_the_program_fail(case: schemathesis.Case, program: Program) -> None:
    case.call_and_validate(
        base_url=program.url,
        headers={"Authorization": f"Bearer {program.token}"},
        checks=[not_a_server_error, status_code_conformance, content_type_conformance],
        timeout=60,
    )
    assert program.process.poll() is None
