"""Failures look the same wherever they come from, and come back as what they were."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.kernel import telemetry
from holdfast.kernel.errors import BY_KIND, HTTP_STATUS, HoldfastError, Kind, Problem
from holdfast.kernel.http import problems
from tests.unit.kernel.http_app import browser, make_app

MEMBERS = {
    "type", "title", "status", "code", "kind", "detail", "instance", "request_id", "problems",
    "hint", "retry_after_seconds",
}  # fmt: skip


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    telemetry.configure_logging("debug", "json", stream)
    yield stream
    telemetry.configure_logging("info", "json")


async def test_a_failure_is_a_problem_document_with_every_member() -> None:
    async with browser(make_app()) as client:
        answer = await client.get("/v1/fails/conflict")
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:holdfast:problem:thing-late",
        "title": "The current state does not admit this",
        "status": 409,
        "code": "thing-late",
        "kind": "conflict",
        "detail": "cannot do it: too late",
        "instance": "/v1/fails/conflict",
        "request_id": answer.headers["x-request-id"],
        "problems": [{"path": "$.a", "message": "is late", "hint": "now", "line": 3}],
        "hint": "be earlier",
        "retry_after_seconds": None,
    }


async def test_when_waiting_helps_the_header_says_how_long() -> None:
    async with browser(make_app()) as client:
        answer = await client.get("/v1/fails/exhausted")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.json()["retry_after_seconds"] == 2.2


@pytest.mark.parametrize("how", ["unknown", "internal"])
async def test_a_defect_leaks_nothing_and_is_logged_whole(how: str, logged: io.StringIO) -> None:
    async with browser(make_app()) as client:
        answer = await client.get(f"/v1/fails/{how}")
    assert answer.status_code == 500
    assert "is 42" not in answer.text  # an id may hold the number
    assert "secret" not in answer.text
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    failed = next(line for line in lines if line["event"] == "request failed")
    assert failed["request_id"] == answer.headers["x-request-id"]
    assert "the secret is 42" in failed["exception"]
    assert "Traceback" in failed["exception"]


async def test_corrupt_data_is_told_and_where_it_lies_is_not(logged: io.StringIO) -> None:
    async with browser(make_app()) as client:
        answer = await client.get("/v1/fails/corrupt")
    assert (answer.status_code, answer.json()["kind"]) == (500, "corrupt")
    assert "/secret/path" not in answer.text
    assert "/secret/path" in logged.getvalue()


async def test_text_that_is_not_unicode_does_not_break_the_answer() -> None:
    async with browser(make_app()) as client:
        answer = await client.get("/v1/fails/surrogate")
    assert (answer.status_code, answer.json()["kind"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "route-not-found"),
        ("GET", "/v1/things/", 404, "route-not-found"),
        ("PUT", "/v1/things", 405, "method-not-allowed"),
        ("GET", "/v1/things?limit=x", 400, "request-invalid"),
        ("TRACE", "/v1/things", 405, "method-unknown"),
    ],
)
async def test_failures_of_routing_have_the_same_form(
    method: str, path: str, status: int, code: str
) -> None:
    async with browser(make_app()) as client:
        answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["code"] == code
    assert answer.json().keys() == MEMBERS


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@given(
    st.sampled_from([kind for kind in Kind if kind is not Kind.INTERNAL]),
    text,
    text,
    st.lists(st.builds(Problem, text, text, text, st.integers(0, 9)), max_size=3),
    st.none() | st.floats(0, 1e6),
)
def test_what_was_raised_is_raised_again_on_the_other_side(
    kind: Kind, detail: str, hint: str, found: list[Problem], wait: float | None
) -> None:
    error = BY_KIND[kind](
        detail, code="a-code", hint=hint, problems=found, retry_after_seconds=wait
    )
    document = problems.document(error, instance="/x", request_id="r")
    back = problems.error_from(
        document.status, "application/problem+json; charset=utf-8", problems.encode(document)
    )
    assert type(back) is type(error)
    assert (back.detail, back.code, back.hint) == (detail, "a-code", hint)
    assert (back.problems, back.retry_after_seconds) == (tuple(found), wait)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 409, 413, 418, 429, 500, 502,
                                    503, 504, 599])  # fmt: skip
def test_an_answer_that_does_not_say_why_is_judged_by_its_status(status: int) -> None:
    for content_type, body in (
        ("text/html", b"<h1>Bad gateway</h1>"),
        ("application/problem+json", b"{"),
        ("application/problem+json", b'{"kind":"no-such-kind"}'),
    ):
        error = problems.error_from(status, content_type, body, "7")
        assert isinstance(error, HoldfastError)
        assert error.kind is not Kind.CORRUPT
        assert error.retry_after_seconds == 7
    if status in HTTP_STATUS.values() and status not in (500, 503):
        assert HTTP_STATUS[error.kind] == status


def test_a_gateway_that_lost_the_answer_does_not_say_that_nothing_happened() -> None:
    assert problems.error_from(502, "text/html", b"").kind is Kind.OUTCOME_UNKNOWN
    assert problems.error_from(504, "text/html", b"").kind is Kind.OUTCOME_UNKNOWN
