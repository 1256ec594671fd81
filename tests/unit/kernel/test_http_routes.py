"""Arguments, bodies, permissions: what reaches a handler and what does not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from litestar import WebSocket, asgi, route, websocket
from litestar import get as litestar_get
from litestar.response import Stream

from holdfast.kernel.http import get, post, routes_of
from holdfast.kernel.principal import Permission
from tests.unit.kernel.http_app import READER, browser, make_app

JSON = {"content-type": "application/json"}


async def refused(answer: Any, status: int, code: str) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["code"]) == (status, code), found
    return found


async def test_query_parameters_are_read_into_their_types() -> None:
    async with browser(make_app()) as client:
        answer = await client.get(
            "/v1/things",
            params={
                "limit": "3",
                "colour": "red",
                "tag": ["a", "b"],
                "since": "2026-01-02T03:04:05Z",
                "deep": "true",
            },
        )
    item = answer.json()["items"][0]
    assert item["count"] == 3
    assert item["tags"] == ["a", "b"]
    assert item["name"] == "writer red 2026-01-02T03:04:05+00:00 True"


async def test_all_mistakes_in_the_arguments_are_named_at_once() -> None:
    async with browser(make_app()) as client:
        answer = await client.get(
            "/v1/things?limit=101&colour=green&since=now&nonsense=1&deep=a&deep=b&tag=%00"
        )
    found = await refused(answer, 400, "request-invalid")
    assert {problem["path"] for problem in found["problems"]} == {
        "query limit", "query colour", "query since", "query nonsense", "query deep", "query tag",
    }  # fmt: skip


@pytest.mark.parametrize("query", ["limit=%ff", "%ff=1", "&".join("a=1" for _ in range(200))])
async def test_a_query_that_cannot_be_read_is_invalid(query: str) -> None:
    async with browser(make_app()) as client:
        await refused(await client.get(f"/v1/things?{query}"), 400, "request-invalid")


async def test_path_parameters_are_read_into_their_types() -> None:
    async with browser(make_app()) as client:
        answer = await client.get("/v1/things/a%20b/12")
        assert answer.json()["name"] == "a b"
        await refused(await client.get("/v1/things/a/twelve"), 404, "route-not-found")


async def test_headers_are_read_by_their_name() -> None:
    async with browser(make_app()) as client:
        assert (await client.get("/v1/header")).json() == "None"
        answer = await client.get("/v1/header", headers={"holdfast-grant": "abc"})
        assert answer.json() == "'abc'"
        twice = await client.get(
            "/v1/header", headers=[("holdfast-grant", "a"), ("holdfast-grant", "b")]
        )
        await refused(twice, 400, "request-invalid")


async def test_a_body_is_read_strictly_and_all_its_mistakes_are_named() -> None:
    async with browser(make_app()) as client:
        answer = await client.post(
            "/v1/things", json={"name": "", "count": "4", "tags": [1, "b"], "other": 1}
        )
        found = await refused(answer, 400, "body-invalid")
        assert {problem["path"] for problem in found["problems"]} >= {
            "$.name", "$.count", "$.tags[0]",
        }  # fmt: skip
        assert any("other" in problem["message"] for problem in found["problems"])
        good = await client.post("/v1/things", json={"name": "a", "count": 4})
        assert good.status_code == 201
        assert good.json() == {"name": "a", "count": 4, "tags": []}


async def test_what_was_sent_is_not_echoed_in_problems() -> None:
    async with browser(make_app()) as client:
        answer = await client.post("/v1/things", json={"name": 1, "count": "my-password"})
        assert "my-password" not in answer.text


async def test_a_missing_body_is_invalid_unless_it_has_a_default() -> None:
    async with browser(make_app()) as client:
        await refused(await client.post("/v1/things", headers=JSON), 400, "json-invalid")
        answer = await client.patch("/v1/things/x", headers=JSON)
        assert answer.json()["name"] == "x"


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "application/jsonp", "text/plain; application/json"],
)  # fmt: skip
async def test_writes_need_the_json_content_type(content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    async with browser(make_app()) as client:
        for method in ("POST", "PUT", "PATCH"):
            path = "/v1/things" if method == "POST" else "/v1/things/a"
            answer = await client.request(method, path, content=b'{"name":"a"}', headers=headers)
            found = await refused(answer, 415, "content-type-unsupported")
            assert "application/json" in found["hint"]


async def test_a_charset_in_the_content_type_is_fine() -> None:
    async with browser(make_app()) as client:
        headers = {"content-type": "Application/JSON; charset=utf-8"}
        answer = await client.post("/v1/things", content=b'{"name":"a"}', headers=headers)
        assert answer.status_code == 201


async def test_routes_may_take_other_bodies_when_they_say_so() -> None:
    async with browser(make_app()) as client:
        raw = await client.post("/v1/raw", content=b"\x00\xff")
        assert raw.json() == {"size": 2}
        headers = {"content-type": "application/yaml"}
        yaml = await client.post("/v1/yaml", content=b"a: b", headers=headers)
        assert yaml.json() == "a: b"
        wrong = await client.post("/v1/yaml", content=b"a: b", headers=JSON)
        await refused(wrong, 415, "content-type-unsupported")


async def test_a_body_over_the_route_s_limit_is_refused_by_what_arrives() -> None:
    async def pieces() -> Any:
        for _ in range(30):
            yield b" " * 10

    async with browser(make_app()) as client:
        for content in (b" " * 101, pieces()):
            answer = await client.post("/v1/things/count", content=content, headers=JSON)
            found = await refused(answer, 413, "body-too-large")
            assert "100 bytes" in found["detail"]
        assert (await client.post("/v1/things/count", json=[])).status_code == 201


async def test_who_asks_and_whether_they_may_comes_before_what_they_ask() -> None:
    app = make_app()
    async with browser(app, None) as client:
        answer = await client.post("/v1/things", json={"nonsense": 1})
        await refused(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
    async with browser(app, READER) as client:
        answer = await client.post("/v1/things", json={"nonsense": 1})
        found = await refused(answer, 403, "permission-missing")
        assert "runs:write" in found["detail"]
        assert (await client.get("/v1/things")).status_code == 200


async def test_routes_that_need_nobody_are_served_to_anybody() -> None:
    async with browser(make_app(), None) as client:
        assert (await client.get("/v1/ids")).status_code == 200


async def test_the_routes_can_be_listed_with_their_permission() -> None:
    found = {(info.method, info.path): info for info in routes_of(make_app())}
    assert found["GET", "/v1/things"].permission is Permission.RUNS_READ
    assert found["DELETE", "/v1/things/{name:str}"].permission is Permission.RUNS_WRITE
    assert found["GET", "/health"].permission is Permission.PUBLIC
    assert found["GET", "/metrics"].permission is Permission.SYSTEM_READ
    assert found["POST", "/v1/trees"].operation_id == "grow_tree"


def test_a_route_without_a_permission_cannot_be_served() -> None:
    @litestar_get("/open")
    async def open_door() -> None: ...

    with pytest.raises(ValueError, match="declares no permission"):
        make_app(handlers=[open_door])


def test_nothing_else_that_answers_can_be_served_without_a_permission() -> None:
    @websocket("/open")
    async def socket(socket: WebSocket[Any, Any, Any]) -> None: ...

    @asgi("/open", is_mount=True, copy_scope=True)
    async def mounted(scope: Any, receive: Any, send: Any) -> None: ...

    @route("/open", http_method=["OPTIONS"])
    async def options() -> None: ...

    @litestar_get("/open")
    async def stream() -> Stream:
        return Stream(iter([b"x"]))

    for handler in (socket, mounted, options, stream):
        with pytest.raises(ValueError, match="declares no permission"):
            make_app(handlers=[handler])


def test_two_routes_with_one_operation_id_cannot_be_served() -> None:
    @get("/v1/a", permission=Permission.PUBLIC, operation_id="same")
    async def first() -> None: ...

    @get("/v1/b", permission=Permission.PUBLIC, operation_id="same")
    async def second() -> None: ...

    with pytest.raises(ValueError, match="operation id same"):
        make_app(handlers=[first, second])


async def test_answers_without_content_are_204_and_made_ones_201() -> None:
    async with browser(make_app()) as client:
        answer = await client.delete("/v1/things/a")
        assert (answer.status_code, answer.content) == (204, b"")
        assert (await client.post("/v1/things", json={"name": "a"})).status_code == 201
        assert (await client.post("/v1/trees", json={})).status_code == 200


async def test_a_method_that_is_not_offered_is_405_with_what_is() -> None:
    async with browser(make_app()) as client:
        answer = await client.delete("/v1/things")
        found = await refused(answer, 405, "method-not-allowed")
        assert found["kind"] == "unsupported"
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
        options = await client.options("/v1/things")
        assert options.status_code == 204


async def test_head_is_get_without_the_body() -> None:
    async with browser(make_app()) as client:
        answer = await client.head("/v1/things")
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) > 0


def test_a_default_answer_may_be_any_data() -> None:
    @post("/v1/x", permission=Permission.PUBLIC)
    async def undocumented(data: dict[str, int]):  # type: ignore[no-untyped-def]
        return msgspec.UNSET

    assert make_app(handlers=[undocumented]) is not None
