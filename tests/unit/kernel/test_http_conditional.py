"""Versions in headers."""

from __future__ import annotations

import pytest

from tests.unit.kernel.http_app import browser, make_app

BODY = {"name": "a"}


@pytest.mark.parametrize(
    ("tag", "status", "code"),
    [
        ('"7"', 200, ""), ("*", 200, ""), (None, 200, ""), ('"6"', 412, "precondition-failed"),
        ('W/"7"', 400, "if-match-invalid"), ("7", 400, "if-match-invalid"),
        ('"7", "8"', 400, "if-match-invalid"), ('"', 400, "if-match-invalid"),
    ],
)  # fmt: skip
async def test_a_change_is_made_only_to_the_version_the_caller_saw(
    tag: str | None, status: int, code: str
) -> None:
    headers = {} if tag is None else {"if-match": tag}
    async with browser(make_app()) as client:
        answer = await client.put("/v1/things/a", json=BODY, headers=headers)
    assert answer.status_code == status
    if code:
        assert answer.json()["code"] == code
        assert answer.json()["kind"] in ("conflict", "invalid")


@pytest.mark.parametrize(
    ("tag", "status"),
    [('"7"', 304), ('W/"7"', 304), ("*", 304), ('"5", "7"', 304), ('"5"', 200), ("7", 200)],
)
async def test_what_the_caller_has_is_not_sent_again(tag: str, status: int) -> None:
    async with browser(make_app()) as client:
        answer = await client.get("/v1/versioned", headers={"if-none-match": tag})
    assert answer.status_code == status
    assert answer.headers["etag"] == '"7"'
    assert bool(answer.content) == (status == 200)
