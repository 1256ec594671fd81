"""Versions and keys in headers."""

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


async def test_an_idempotency_key_comes_with_a_digest_of_what_is_asked() -> None:
    async with browser(make_app()) as client:

        async def ask(key: str | None, body: object = BODY, query: str = "") -> list[str]:
            headers = {} if key is None else {"idempotency-key": key}
            answer = await client.post(f"/v1/once{query}", json=body, headers=headers)
            found: list[str] = answer.json()
            return found

        assert await ask(None) == []
        first = await ask("key-1")
        assert first[:2] == ["POST /v1/once", "key-1"]
        assert first[2].startswith("sha256:")
        assert await ask('"key-1"') == first
        assert (await ask("key-1", {"name": "b"}))[2] != first[2]
        assert (await ask("key-2"))[2] == first[2]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "ké"])
async def test_a_key_that_is_none_is_refused(key: str) -> None:
    async with browser(make_app()) as client:
        answer = await client.post(
            "/v1/once", json=BODY, headers={"idempotency-key": key.encode("latin-1")}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency-key-invalid")
        twice = [("idempotency-key", "a"), ("idempotency-key", "b")]
        answer = await client.post("/v1/once", json=BODY, headers=twice)
        assert answer.status_code == 400
