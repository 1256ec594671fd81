"""Whatever is asked of a served application, the answer is one that its document tells of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from holdfast.kernel.connection import ServeLimits
from holdfast.kernel.http import openapi_document
from holdfast.kernel.http.problems import CONTENT_TYPE
from tests.e2e.serving_program import Running
from tests.unit.kernel.http_app import WRITER, make_app

APP = make_app()
# These answer for ever, or on purpose with a defect of ours, or from files that are not here.
LEFT_OUT = ("/v1/endless", "/v1/events", "/v1/file", "/v1/fails/{how}", "/v1/lines")
OPERATIONS = [
    operation
    for result in schemathesis.openapi.from_dict(
        json.loads(openapi_document(APP))
    ).get_all_operations()
    if (operation := result.ok()).path not in LEFT_OUT
]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running(ServeLimits(), app=APP) as running:
        yield running


def content_type(answer: Any) -> str:
    found = answer.headers.get("content-type", "")
    return found[0] if isinstance(found, list) else str(found)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_requests_by_the_document_get_documented_answers(operation: Any, server: Running) -> None:
    @settings(
        max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy())
    def asked(case: Any) -> None:
        answer = case.call(base_url=server.bound.url, headers={"Authorization": f"Bearer {WRITER}"})
        documented = operation.definition.raw["responses"]
        assert answer.status_code < 500, case.as_curl_command()
        if answer.status_code >= 400:
            assert content_type(answer) == CONTENT_TYPE, case.as_curl_command()
            assert answer.json()["status"] == answer.status_code
        else:
            assert str(answer.status_code) in documented, case.as_curl_command()

    asked()
