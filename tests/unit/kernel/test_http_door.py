"""Who this process answers for, and what every exchange carries."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from litestar import Response

from holdfast.kernel import telemetry
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Unavailable
from holdfast.kernel.http import get
from holdfast.kernel.http.door import HELD_MAX, HELD_SECONDS, client_address
from holdfast.kernel.http.rates import RequestRates
from holdfast.kernel.ids import TenantId, is_id
from holdfast.kernel.principal import Permission, Principal, PrincipalKind
from holdfast.kernel.telemetry import Metrics
from tests.support.waiting import until
from tests.unit.kernel.http_app import READER, browser, make_app

THINGS = "/v1/things"
START = datetime(2026, 11, 27, tzinfo=UTC)


async def status_of(
    app: Any, headers: dict[str, str], method: str = "GET", path: str = THINGS
) -> int:
    async with browser(app) as client:
        return (await client.request(method, path, headers=headers)).status_code


# --- hosts


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST", 200), ("localhost:8090", 200), ("localhost.", 200),
        ("127.0.0.1:1", 200), ("[::1]:8090", 200), ("evil.example", 421), ("localhost.evil", 421),
        ("evil-localhost", 421), ("", 421), ("localhost:", 421), ("localhost:x", 421),
        ("localhost/x", 421), ("a@localhost", 421), ("127.0.0.1.evil", 421), ("::1", 421),
    ],
)  # fmt: skip
async def test_only_listed_hosts_are_answered_for(host: str, status: int) -> None:
    assert await status_of(make_app(), {"host": host}) == status


async def test_a_listed_host_may_name_its_port() -> None:
    app = make_app(hosts=["Control.example:8443", "other.example"])
    assert await status_of(app, {"host": "control.example:8443"}) == 200
    assert await status_of(app, {"host": "control.example"}) == 421
    assert await status_of(app, {"host": "control.example:1"}) == 421
    assert await status_of(app, {"host": "other.example:1"}) == 200
    assert await status_of(app, {"host": "localhost"}) == 421


async def test_probes_are_answered_whatever_the_host() -> None:
    app = make_app()
    for path in ("/health", "/ready"):
        assert await status_of(app, {"host": "10.1.2.3:8090"}, path=path) == 200
    for path in ("/metrics", "/health/detailed", "/openapi.json", "/nowhere"):
        assert await status_of(app, {"host": "10.1.2.3:8090"}, path=path) == 421


async def test_a_header_that_decides_may_not_be_given_twice() -> None:
    for name in ("host", "origin", "x-request-id"):
        async with browser(make_app()) as client:
            pair = [(name, "localhost"), (name, "localhost")]
            answer = await client.get("/health", headers=pair)
            assert answer.status_code == 400, name


# --- encodings


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "deflate", "identity, gzip", "x"])
async def test_an_encoded_body_is_refused_before_anybody_unpacks_it(coding: str) -> None:
    headers = {"host": "localhost", "content-encoding": coding}
    assert await status_of(make_app(), headers, "POST") == 415


async def test_a_plain_body_may_say_that_it_is_plain() -> None:
    assert await status_of(make_app(), {"host": "localhost", "content-encoding": "identity"}) == 200


# --- web pages


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:8090", True), ("https://localhost:8090", True),
        ("http://localhost", False), ("http://localhost:1", False),
        ("http://evil.example", False), ("null", False), ("", False), ("localhost:8090", False),
        ("http://localhost:8090.evil", False), ("file://localhost:8090", False),
        ("http://friend.example", True),
    ],
)  # fmt: skip
async def test_only_our_own_pages_are_served(method: str, origin: str, allowed: bool) -> None:
    app = make_app(origins=["http://friend.example"])
    async with browser(app) as client:
        answer = await client.request(
            method,
            THINGS,
            headers={"host": "localhost:8090", "origin": origin},
            json={"name": "a"} if method == "POST" else None,
        )
    assert (answer.status_code != 403) == allowed
    if not allowed:
        assert answer.json()["code"] == "origin-foreign"


async def test_the_default_port_is_the_same_as_none() -> None:
    app = make_app(hosts=["h.example"])
    assert await status_of(app, {"host": "h.example", "origin": "https://h.example"}) == 200
    assert await status_of(app, {"host": "h.example:443", "origin": "https://h.example"}) == 200
    assert await status_of(app, {"host": "h.example", "origin": "http://h.example:81"}) == 403


async def test_requests_that_the_browser_marks_as_foreign_are_refused() -> None:
    app = make_app()
    foreign = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert await status_of(app, foreign) == 403
    assert await status_of(app, {**foreign, "sec-fetch-site": "same-site"}) == 403
    assert await status_of(app, {**foreign, "sec-fetch-site": "same-origin"}) == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert await status_of(app, link) == 200
    assert await status_of(app, link, "POST") == 403


async def test_no_cross_origin_permission_is_ever_given() -> None:
    async with browser(make_app()) as client:
        asked = {"origin": "http://evil.example", "access-control-request-method": "PUT"}
        refused = await client.options(THINGS, headers=asked)
        assert refused.status_code == 403
        for answer in (refused, await client.get(THINGS)):
            assert not [name for name in answer.headers if name.startswith("access-control-")]


FRIEND = "https://app.example.org"


@pytest.mark.parametrize("listed", [FRIEND, "*"])
async def test_a_page_of_a_listed_site_may_ask_with_a_token_of_its_own(listed: str) -> None:
    async with browser(make_app(origins=[listed])) as client:
        told = await client.options(
            THINGS, headers={"origin": FRIEND, "access-control-request-method": "POST"}
        )
        assert told.status_code == 204
        assert told.headers["access-control-allow-origin"] == FRIEND
        assert "POST" in told.headers["access-control-allow-methods"]
        assert "authorization" in told.headers["access-control-allow-headers"]
        answer = await client.get(THINGS, headers={"origin": FRIEND})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == FRIEND
        assert "etag" in answer.headers["access-control-expose-headers"]
        refused = await client.get(
            THINGS, headers={"origin": FRIEND, "authorization": "Bearer nobody"}
        )
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == FRIEND
        for each in (told, answer, refused):
            assert each.headers["vary"] == "Origin"
            assert "access-control-allow-credentials" not in each.headers


async def test_a_page_of_another_site_than_those_listed_is_told_nothing() -> None:
    async with browser(make_app(origins=[FRIEND])) as client:
        for origin in ("https://app.example.org.evil", "http://app.example.org", "null"):
            asked = {"origin": origin, "access-control-request-method": "POST"}
            for answer in (
                await client.options(THINGS, headers=asked),
                await client.get(THINGS, headers={"origin": origin}),
            ):
                assert answer.status_code == 403
                assert not [n for n in answer.headers if n.startswith("access-control-")]
                assert answer.headers["vary"] == "Origin"


# --- rates


async def test_guessing_costs_the_guesser() -> None:
    app = make_app(
        rates=RequestRates(address=5, monotonic=lambda: 0.0),
        trusted_proxies=["127.0.0.1"],
        local=False,
    )

    async def ask(address: str, path: str = THINGS) -> httpx.Response:
        async with browser(app) as client:
            headers = {"authorization": "Bearer guess", "x-forwarded-for": address}
            return await client.get(path, headers=headers)

    answers = [await ask("192.0.2.1") for _ in range(20)]
    assert [answer.status_code for answer in answers[:5]] == [401] * 5
    limited = [answer for answer in answers if answer.status_code == 429]
    assert len(limited) >= 10
    assert limited[0].json()["code"] == "rate-exceeded"
    assert int(limited[0].headers["retry-after"]) >= 1
    assert (await ask("192.0.2.2")).status_code == 401, "another address"
    assert (await ask("192.0.2.1", "/health")).status_code == 200, "a probe"


async def test_who_asks_too_often_waits_to_be_told_so_while_few_do() -> None:
    clock = ManualClock(START)
    rates = RequestRates(principal=1, monotonic=lambda: 0.0)
    app = make_app(rates=rates, clock=clock)
    token = {"authorization": f"Bearer {READER}"}
    assert await status_of(app, token) == 200
    waiting = [asyncio.create_task(status_of(app, token)) for _ in range(HELD_MAX)]
    await until(lambda: len(clock._sleepers) == HELD_MAX)
    assert await status_of(app, token) == 429, "one more than wait at once"
    assert await status_of(app, {"authorization": "Bearer nobody"}) == 401, "another refusal"
    assert not any(task.done() for task in waiting)
    clock.advance(HELD_SECONDS)
    assert set(await asyncio.gather(*waiting)) == {429}
    again = asyncio.create_task(status_of(app, token))
    await until(lambda: len(clock._sleepers) == 1)
    clock.advance(HELD_SECONDS)
    assert await again == 429


async def test_every_refusal_is_counted_by_its_reason() -> None:
    metrics = Metrics()
    app = make_app(metrics=metrics)
    await status_of(app, {"host": "evil.example"})
    await status_of(app, {"authorization": "Bearer nobody"})
    await status_of(app, {"authorization": "Bearer nobody"})
    await status_of(app, {}, path="/v1/nothing")
    await status_of(app, {})
    text = metrics.render().decode()
    for code, count in {
        "host-not-listed": 1, "unauthenticated": 2, "route-not-found": 1,
    }.items():  # fmt: skip
        assert f'holdfast_http_refusals_total{{code="{code}",role="test"}} {count}.0' in text


# --- proxies


@pytest.mark.parametrize(
    "name", ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"]
)
async def test_forwarding_headers_are_refused_in_local_mode(name: str) -> None:
    assert await status_of(make_app(), {name: "for=1.2.3.4"}) == 400
    assert await status_of(make_app(local=False), {name: "for=1.2.3.4"}) == 200


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("9.9.9.9", ["1.1.1.1"], "9.9.9.9"),  # nobody we trust says so
        ("10.0.0.1", ["1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", ["6.6.6.6, 1.1.1.1"], "1.1.1.1"),  # what the caller itself wrote
        ("10.0.0.1", ["6.6.6.6", "1.1.1.1, 10.0.0.2"], "1.1.1.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("10.0.0.1", ["1.1.1.1:5000"], "1.1.1.1"),
        ("::ffff:10.0.0.1", ["1.1.1.1"], "1.1.1.1"),
    ],
)
def test_the_client_is_the_rightmost_hop_that_is_not_trusted(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert client_address(peer, forwarded, (ip_network("10.0.0.0/8"),)) == client


# --- paths


@pytest.mark.parametrize(
    "path",
    ["/v1/things/a%00b/1", "/v1/things/%ff/1", "/v1/things/a%0ab/1", "/v1/things/%ed%a0%80/1"],
)
async def test_a_path_that_is_no_text_is_refused(path: str) -> None:
    async with browser(make_app()) as client:
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (400, "path-invalid")


@pytest.mark.parametrize(
    "path",
    [
        "//v1/ids", "/v1//ids", "/v1/ids/", "/v1%2fids", "/v1%2Fids", "/v1/%2e/ids", "/v1/./ids",
        "/v1/x/%2E%2e/ids", "/health/../v1/ids", "/v1%5cids", "/v1/ids/.",
    ],
)  # fmt: skip
async def test_a_path_has_one_spelling(path: str) -> None:
    app = make_app()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": unquote(path), "raw_path": path.encode(),
        "query_string": b"", "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1),
        "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("127.0.0.1", 1),
    }  # fmt: skip
    for way, status in ((path, 404), ("/v1/ids", 200)):
        sent.clear()
        asked = {**scope, "path": unquote(way), "raw_path": way.encode()}
        await app(asked, _nothing, send)
        assert sent[0]["status"] == status, way


async def _nothing() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


# --- ids


async def test_a_sane_request_id_is_kept_and_another_replaced() -> None:
    async with browser(make_app()) as client:
        kept = await client.get("/v1/ids", headers={"x-request-id": "abc-123.x"})
        assert kept.headers["x-request-id"] == "abc-123.x"
        assert kept.json()[0] == "abc-123.x"
        for bad in ("", "a b", "x" * 129, "a\tb", "<script>", "-a", "a/b", "a+b=", "a@b.example"):
            answer = await client.get("/v1/ids", headers={"x-request-id": bad})
            assert is_id(answer.headers["x-request-id"]), bad
            assert answer.json()[0] == answer.headers["x-request-id"]


async def test_the_trace_context_is_taken_when_it_is_one() -> None:
    good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with browser(make_app()) as client:
        assert (await client.get("/v1/ids", headers={"traceparent": good})).json()[1] == good
        for bad in (
            "nonsense",
            good.replace("0af7", "zzzz"),
            "ff" + good[2:],
            f"00-{'0' * 32}-1-1",
        ):
            assert (await client.get("/v1/ids", headers={"traceparent": bad})).json()[1] == ""


async def test_requests_at_the_same_time_keep_their_ids_apart() -> None:
    async with browser(make_app()) as client:
        names = [f"request-{number}" for number in range(50)]
        answers = await asyncio.gather(
            *(client.get("/v1/ids", headers={"x-request-id": name}) for name in names)
        )
    assert [answer.json()[0] for answer in answers] == names
    assert telemetry.request_id() == ""


# --- what every answer carries


async def test_every_answer_carries_the_security_headers() -> None:
    async with browser(make_app()) as client:
        for path in (THINGS, "/nowhere", "/v1/fails/x", "/health", "/metrics"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff", path
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["cache-control"] == "no-store"
            assert "strict-transport-security" not in headers
            assert "server" not in headers
    async with browser(make_app(https=True)) as client:
        assert "strict-transport-security" in (await client.get(THINGS)).headers


async def test_a_route_s_own_header_wins() -> None:
    @get("/page", permission=Permission.PUBLIC)
    async def page() -> Response[bytes]:
        own = {"content-security-policy": "default-src 'self'", "cache-control": "max-age=9"}
        return Response(b"x", media_type="text/html", headers=own)

    async with browser(make_app(handlers=[page])) as client:
        headers = (await client.get("/page")).headers
    assert headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert headers.get_list("cache-control") == ["max-age=9"]


async def test_websockets_are_not_offered() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await make_app()({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent[0]["type"] == "websocket.close"


# --- the log and the metrics


async def test_requests_to_a_door_that_only_this_machine_reaches_are_logged_at_debug() -> None:
    written: dict[str, list[str]] = {}
    for level in ("info", "debug"):
        stream = io.StringIO()
        telemetry.configure_logging(level, "json", stream)
        try:
            async with browser(make_app()) as client:
                await client.get("/v1/things")
        finally:
            telemetry.configure_logging("info", "json")
        written[level] = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert "request" not in written["info"]
    assert written["debug"].count("request") == 1


@pytest.mark.parametrize("door", [{"local": False}, {"https": True}])
async def test_each_exchange_is_one_log_line_without_query_or_credentials(
    door: dict[str, bool],
) -> None:
    stream = io.StringIO()
    telemetry.configure_logging("info", "json", stream)
    try:
        async with browser(make_app(**door)) as client:
            await client.get(
                "/v1/things/hidden/1?token=secret-query", headers={"x-request-id": "r1"}
            )
            await client.get("/health")
    finally:
        telemetry.configure_logging("info", "json")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) == 1, "probes are not news"
    line = requests[0]
    assert line["route"] == "/v1/things/{name}/{number}"
    assert (line["status"], line["method"], line["principal"]) == (400, "GET", "writer")
    assert line["request_id"] == "r1"
    assert line["duration_ms"] >= 0
    assert "secret-query" not in stream.getvalue()
    assert "writer-token" not in stream.getvalue()


async def test_metrics_are_labelled_by_route_never_by_path() -> None:
    metrics = Metrics()
    app = make_app(metrics=metrics)
    async with browser(app) as client:
        for number in range(5):
            await client.get(f"/v1/things/name-{number}/1")
            await client.get(f"/nowhere/{number}")
            await client.request(f"M{number}", THINGS)
            await client.put(THINGS, headers={"content-type": "application/json"}, content=b"{}")
    text = metrics.render().decode()
    route = "/v1/things/{name}/{number}"
    assert (
        f'holdfast_http_requests_total{{method="GET",role="test",route="{route}",status="200"}} 5.0'
        in text
    )
    assert 'route="other",status="404"} 5.0' in text
    assert 'method="other"' in text
    assert "name-1" not in text
    assert "nowhere" not in text
    assert f'request_duration_seconds_count{{method="GET",role="test",route="{route}"}} 5.0' in text


# --- health


async def test_health_is_alive_and_readiness_tells_of_each_part() -> None:
    async def well() -> None:
        return None

    async def poorly() -> str:
        return "degraded"

    app = make_app(checks={"disk": well, "outbox": poorly})
    async with browser(app, None) as client:
        health = (await client.get("/health")).json()
        assert health.keys() == {"status", "version", "uptime_seconds"}
        assert (health["status"], health["version"]) == ("ok", "1.2.3")
        ready = await client.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    checks = ready.json()["checks"]
    assert {name: check["status"] for name, check in checks.items()} == {
        "disk": "ok", "outbox": "degraded",
    }  # fmt: skip
    assert all(check["duration_ms"] >= 0 for check in checks.values())


async def test_a_part_that_fails_or_does_not_answer_is_unhealthy_and_does_not_hold_up() -> None:
    async def refuses() -> None:
        raise Unavailable("cannot reach the disk at /secret")

    async def breaks() -> None:
        raise ZeroDivisionError

    async def hangs() -> None:
        await asyncio.sleep(600)

    app = make_app(
        checks={"refuses": refuses, "breaks": breaks, "hangs": hangs},
        check_seconds=0.1,
        metrics_permission=Permission.RUNS_READ,
    )
    async with browser(app) as client:
        ready = await client.get("/ready")
        assert ready.status_code == 503
        assert {check["status"] for check in ready.json()["checks"].values()} == {"unhealthy"}
        assert "/secret" not in ready.text, "anybody may ask; the reason is for those who may know"
        detailed = await client.get("/health/detailed")
        assert "/secret" in detailed.text
        assert "no answer in 0.1 s" in detailed.text


async def test_at_the_door_health_tells_of_the_roles_behind_it() -> None:
    async def services() -> dict[str, str]:
        return {"registry": "ok", "reporter": "unhealthy"}

    async with browser(make_app(services=services)) as client:
        health = (await client.get("/health")).json()
    assert (health["status"], health["services"]["reporter"]) == ("degraded", "unhealthy")


async def test_metrics_and_details_need_a_permission() -> None:
    async with browser(make_app(), None) as client:
        for path in ("/metrics", "/health/detailed", "/openapi.json"):
            assert (await client.get(path)).status_code == 401


async def test_metrics_and_details_are_for_whoever_sees_the_whole() -> None:
    """They name things of every tenant; everywhere viewers may see the system."""
    may = frozenset({Permission.SYSTEM_READ})
    asked = {
        ("newsroom", PrincipalKind.KEY): 403,
        ("newsroom", PrincipalKind.PERSON): 403,
        ("default", PrincipalKind.KEY): 200,
        ("newsroom", PrincipalKind.OPERATOR): 200,
    }
    for (tenant, kind), status in asked.items():
        who = Principal(TenantId(tenant), "somebody", kind, may)

        async def authenticate(_: Any, who: Principal = who) -> Principal:
            return who

        async with browser(make_app(authenticate=authenticate)) as client:
            for path in ("/metrics", "/health/detailed"):
                answer = await client.get(path)
                assert (path, answer.status_code) == (path, status), answer.text
                if status == 403:
                    assert answer.json()["code"] == "tenant-confined"
                    assert "holdfast_" not in answer.text


async def test_an_answer_that_breaks_half_way_is_cut_not_ended() -> None:
    transport = httpx.ASGITransport(app=make_app(), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        with pytest.raises(Exception, match=r"cannot go on|response started"):
            await client.get("/v1/lines", params={"count": 5000, "fail_at": 4000})
        early = await client.get("/v1/lines", params={"count": 10, "fail_at": 5})
        assert early.status_code == 409, "before the first piece it is an ordinary failure"
