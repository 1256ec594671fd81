"""What is wrong is told so, by the served program, and leaves nothing behind.

Each kind of bad input by its name, over loopback, to a program with every role and to a process
per role: a clear problem document, nothing stored by half, the process alive and ready, its memory
bounded, others served meanwhile. Then the same from the other side: sources that answer with it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import msgspec
import psutil
import pytest

from holdfast.collect.control import grant_claims
from holdfast.kernel.http import encode_cursor
from holdfast.records.model import Batch, RawResponse
from holdfast.records.wire import GRANT_HEADER, RESPONSE_HEADER, encode_response
from tests.support.memory import Peaks
from tests.support.program import Program, wait_until
from tests.support.raw_http import PIECE, Answer, connected, head, read_answer, upload
from tests.support.signing import PUBLIC_KEY, signed
from tests.support.stack import Layout, Stack, running, sources

pytestmark = pytest.mark.timeout(1200)

TWO_GB = 2 * 10**9
GROWTH_BYTES_MAX = 96 * 2**20
"""What a process may hold more than before, whatever it is sent: two bodies of the largest kind
that is kept in memory (a batch, 16 MiB), decoded, and some room."""
SENT_BYTES_MAX = 64 * 2**20
UPLOADS = 20
BOMB_BYTES = 2**30
LEVELS = 10_000
LISTS = ("tasks", "runs", "results", "rejects", "profiles", "reports")
SMALL_BYTES = 1024**2

GOOD = [{"id": "a", "v": 1}, {"id": "b", "v": 2}]
DEEP = b"[" * LEVELS + b"]" * LEVELS
SOURCES: dict[str, bytes] = {
    "deep": b'[{"id": "a", "v": 1, "x": ' + DEEP + b"}]",
    "utf8": b'[{"id": "a\xff", "v": 1}]',
    "nan": b'[{"id": "a", "v": NaN}]',
    "twice": b'[{"id": "a", "v": 1, "v": 2}]',
    "half": b'[{"id": "a", "v": 1}, {"id": "b", "v"',
    "good": json.dumps(GOOD).encode(),
    "bomb": b"[]",
    "archive": b"",
    "huge": b"[]",
}
FAULTS = (
    f"gzip-bomb@/bomb.json,size_bytes={BOMB_BYTES}",
    f"huge@/huge.json,size_bytes={3 * 2**30}",
)


@dataclass
class Worker:
    """A worker driven by hand: its credential, and what it has claimed."""

    credential: str
    task: str = ""
    run: str = ""
    fence: int = 0
    grant: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.credential}", GRANT_HEADER: self.grant}

    def batch(self, sequence: int = 1, **more: Any) -> dict[str, Any]:
        row = {
            "response": 0, "position": 0, "key": ["a"], "dimensions": {"id": "a"},
            "measures": {"v": {"value": "1"}},
        }  # fmt: skip
        batch = msgspec.convert(
            {"run": self.run, "fence": self.fence, "sequence": sequence, "records": [row]}, Batch
        )
        digests = {0: f"sha256:{hashlib.sha256(SOURCES['good']).hexdigest()}"}
        plain = msgspec.to_builtins(signed(batch, grant_claims(self.grant), digests))
        return {**plain, "records": [row], **more}


@dataclass
class World:
    """The served program, a worker in the middle of a run, and another with its own."""

    stack: Stack
    mine: Worker
    other: Worker
    reader: str
    """The secret of an API key that may read and nothing else."""
    before: dict[str, Any] = field(default_factory=dict)

    @property
    def door(self) -> Program:
        return self.stack.door

    @property
    def pids(self) -> list[int]:
        return [self.stack.process(part).pid for part in self.stack.served]

    def kept(self) -> dict[str, Any]:
        """Everything that can be read and everything that lies on the disk."""
        found: dict[str, Any] = {name: list(self.door.items(f"/v1/{name}")) for name in LISTS}
        for name in ("good", "twice"):
            found[f"records of {name}"] = list(self.door.items("/v1/records", profile=name))
        for worker in (self.mine, self.other):
            found[f"responses of {worker.run}"] = self.door.get(f"/v1/runs/{worker.run}/responses")
        found["objects"] = sorted(
            str(path.relative_to(self.stack.directory))
            for path in self.stack.directory.rglob("objects/**/*")
            if path.is_file()
        )
        return found

    def post(self, path: str, content: bytes, as_: Worker | None = None, **headers: str) -> Answer:
        """A POST of these bytes, as they are."""
        who = {"Authorization": f"Bearer {self.door.token}"} if as_ is None else as_.headers
        return self.ask(
            "POST", path, {"Content-Type": "application/json", **who, **headers}, content
        )

    def ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        content: bytes = b"",
        host: str = "",
    ) -> Answer:
        length = {"Content-Length": str(len(content))} if content else {}
        host = host or urlsplit(self.door.url).netloc
        with connected(self.door.url) as line:
            line.sendall(head(method, path, {**headers, **length}, host) + content)
            return read_answer(line)


@contextmanager
def bad_sources(base: Path) -> Iterator[tuple[Path, Path]]:
    """The sources are served; the folder of their profiles, and the replay map."""
    files, profiles = base / "files", base / "profiles"
    files.mkdir()
    profiles.mkdir()
    for name, content in SOURCES.items():
        (files / f"{name}.json").write_bytes(content or _zipped(b" "))
        (profiles / f"{name}.yaml").write_text(_profile(name))
    with sources(base, files, *FAULTS) as (url, replay):
        mapped = {f"http://{name}.source.test/": f"{url}/{name}.json" for name in SOURCES}
        replay.write_text(json.dumps(mapped))
        yield profiles, replay


@pytest.fixture(scope="module", params=["up", "split"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    layout: Layout = request.param
    base = tmp_path_factory.mktemp(f"bad-input-{layout}")
    with bad_sources(base) as (profiles, replay):
        stack = Stack(base / "stack", layout, replay, profiles, drones=0, environment=PATIENT)
        stack.directory.mkdir()
        with running(stack):
            stack.names()
            mine, other = (_with_run(stack, name) for name in ("good", "twice"))
            made = World(stack, mine, other, _reader(stack))
            _put_response(made)
            assert made.post("/v1/batches", _json(mine.batch(0)), mine).status == 200
            made.before = made.kept()
            yield made


PATIENT = {"HOLDFAST_FLEET_LEASE_SECONDS": "600", "HOLDFAST_FLEET_LOST_SECONDS": "600"}


def _zipped(byte: bytes) -> bytes:
    """An archive of one file with nothing but this byte in it, a thousandth of its size."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("file.json", byte * 2**27)
    return archive.getvalue()


def _profile(name: str) -> str:
    compression = "zip" if name == "archive" else "auto"
    return f"""\
version: 1
name: {name}
publisher: A test
licence: none
source:
  url: http://{name}.source.test/
  format: {{type: json}}
  compression: {compression}
key: [dimensions.id]
dimensions: {{id: $.id}}
measures: {{v: $.v}}
limits: {{retries: 0}}
"""


def _with_run(stack: Stack, profile: str) -> Worker:
    """A new worker that has claimed and opened a run of ``profile``."""
    client = stack.door.client
    promised = client.post("/v1/tasks/collect", json={"profile": profile})
    assert promised.status_code < 300, promised.text
    token = client.post("/v1/workers/tokens", json={}).json()["token"]
    joined = httpx.post(
        f"{stack.door.url}/v1/workers/register",
        json={"name": f"by-hand-{profile}", "key": PUBLIC_KEY},
        headers={"Holdfast-Join-Token": token},
        trust_env=False,
    )
    assert joined.status_code == 201, joined.text
    worker = Worker(joined.json()["credential"])
    claimed = client.post(
        "/v1/tasks/claim", json={"wait_seconds": 20}, headers=worker.headers, timeout=40
    )
    (lease,) = claimed.json()
    task = lease["task"]
    worker.task, worker.run = task["id"], task["payload"]["run"]
    worker.fence, worker.grant = task["fence"], lease["grant"]
    opened = client.post(
        "/v1/runs", json={"run": worker.run, "fence": worker.fence}, headers=worker.headers
    )
    assert opened.status_code == 200, opened.text
    return worker


def _reader(stack: Stack) -> str:
    made = stack.door.client.post("/v1/api-keys", json={"name": "reader", "roles": ["viewer"]})
    assert made.status_code == 201, made.text
    return str(made.json()["secret"])


def _account(sequence: int, content: bytes, size_bytes: int | None = None) -> dict[str, str]:
    response = RawResponse(
        sequence=sequence,
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        size_bytes=len(content) if size_bytes is None else size_bytes,
        url="http://good.source.test/",
        address="192.0.2.1:80",
        status=200,
        fetched_at="2026-11-27T00:00:00Z",
    )
    return {RESPONSE_HEADER: encode_response(response)}


def _put_response(world: World) -> None:
    content = SOURCES["good"]
    path = f"/v1/runs/{world.mine.run}/responses/0"
    answer = world.ask("PUT", path, {**world.mine.headers, **_account(0, content)}, content)
    assert answer.status == 200, answer


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(autouse=True)
def _nothing_is_left_of_it(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test of a world everything is as it was, alive and ready."""
    if "world" not in request.fixturenames:
        yield
        return
    world: World = request.getfixturevalue("world")
    pids = world.pids
    yield
    assert world.pids == pids
    assert all(psutil.pid_exists(pid) for pid in pids)
    for program in world.stack.running.values():
        assert program.process.poll() is None, program.tail()
    ready = world.door.client.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok"), ready.text
    after = world.kept()
    assert {name for name in after if after[name] != world.before[name]} == set()


def refused(answer: Answer, status: int, code: str) -> Any:
    """The problem document, which must be this one and say something."""
    assert answer.status == status, answer
    problem = answer.problem
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["detail"].startswith("cannot ")
    assert problem["title"]
    assert problem["request_id"]
    return problem


# --- a 2 GB body ----------------------------------------------------------------------------------

ROUTES = {
    "POST /v1/tasks": SMALL_BYTES,
    "POST /v1/tasks/batch": 8 * 2**20,
    "POST /v1/batches": 16 * 2**20,
    "POST /v1/profiles": 256 * 1024,
    "POST /v1/reports": SMALL_BYTES,
    "POST /v1/workers/register": SMALL_BYTES,
    "POST /v1/runs": SMALL_BYTES,
}


@pytest.mark.parametrize("announced", [TWO_GB, None], ids=["content-length", "chunked"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_2_gb_body_is_refused_before_it_is_there(
    world: World, route: str, announced: int | None
) -> None:
    method, path = route.split()
    kind = "application/yaml" if path == "/v1/profiles" else "application/json"
    headers = {"Content-Type": kind, "Authorization": f"Bearer {world.door.token}"}
    headers |= {GRANT_HEADER: world.mine.grant, "Holdfast-Join-Token": "hfj_none"}
    peaks = Peaks(world.pids)
    answer = upload(
        world.door.url, method, path, headers, announced=announced, bytes_max=SENT_BYTES_MAX
    )
    problem = refused(answer, 413, "body-too-large")
    assert str(ROUTES[route]) in problem["detail"]
    assert max(peaks.grown().values()) < GROWTH_BYTES_MAX


@pytest.mark.parametrize("announced", [TWO_GB, None], ids=["content-length", "chunked"])
@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/batches", "/v1/runs/{run}/responses/7"])
def test_nobody_sends_a_body_without_a_credential(
    world: World, path: str, announced: int | None
) -> None:
    method = "PUT" if "responses" in path else "POST"
    headers = {"Content-Type": "application/json"} | _account(7, b"", TWO_GB)
    peaks = Peaks(world.pids)
    answer = upload(
        world.door.url, method, path.format(run=world.mine.run), headers,
        announced=announced, bytes_max=SENT_BYTES_MAX,
    )  # fmt: skip
    refused(answer, 401, "unauthenticated")
    assert max(peaks.grown().values()) < GROWTH_BYTES_MAX


@pytest.mark.parametrize("announced", [TWO_GB, None], ids=["content-length", "chunked"])
@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        ("a key that may only read", 403, "permission-missing"),
        ("a worker without a grant", 401, "grant-missing"),
        ("a worker with something else", 401, "token-invalid"),
        ("another worker", 403, "grant-mismatch"),
        ("another's grant", 403, "grant-mismatch"),
        ("the operator", 401, "grant-missing"),
    ],
)
def test_nobody_sends_the_bytes_of_a_run_that_is_not_theirs(
    world: World, who: str, status: int, code: str, announced: int | None
) -> None:
    """The bytes of a page may be many; who may not send these is told before they are taken."""
    mine, other = world.mine.headers, world.other.headers
    headers = {
        "a key that may only read": {"Authorization": f"Bearer {world.reader}"},
        "a worker without a grant": {"Authorization": mine["Authorization"]},
        "a worker with something else": {**mine, GRANT_HEADER: "x.y.z"},
        "another worker": other,
        "another's grant": {**other, GRANT_HEADER: world.mine.grant},
        "the operator": {"Authorization": f"Bearer {world.door.token}"},
    }[who]
    answer = upload(
        world.door.url,
        "PUT",
        f"/v1/runs/{world.mine.run}/responses/7",
        headers | _account(7, b"", TWO_GB),
        announced=announced,
        bytes_max=SENT_BYTES_MAX,
    )
    refused(answer, status, code)


def test_a_body_longer_than_its_account_is_given_up(world: World) -> None:
    path = f"/v1/runs/{world.mine.run}/responses/7"
    headers = world.mine.headers | _account(7, b"short")
    answer = world.ask("PUT", path, headers, b"0" * 2**20)
    refused(answer, 400, "digest-mismatch")


def test_while_2_gb_bodies_arrive_others_are_served_and_memory_stays_bounded(
    world: World,
) -> None:
    """Uploads that the route allows, of a worker that may: each sends on and on, then goes away."""
    peaks = Peaks(world.pids)
    url, run = world.door.url, world.mine.run
    with ExitStack() as stack:
        lines = []
        for number in range(UPLOADS):
            line = stack.enter_context(connected(url))
            headers = world.mine.headers | _account(100 + number, b"", TWO_GB)
            headers["Content-Length"] = str(TWO_GB)
            line.sendall(head("PUT", f"/v1/runs/{run}/responses/{100 + number}", headers))
            lines.append(line)
        for _ in range(2**22 // len(PIECE)):
            for line in lines:
                line.sendall(PIECE)
            assert world.door.client.get("/ready").status_code == 200
        arriving = world.kept()
        arriving["objects"] = [name for name in arriving["objects"] if "/.incoming/" not in name]
        assert arriving == world.before
    assert max(peaks.grown().values()) < GROWTH_BYTES_MAX
    wait_until(lambda: world.kept() == world.before, what="what had arrived to be dropped")


# --- a zip bomb -----------------------------------------------------------------------------------


def test_a_zip_bomb_is_not_unpacked(world: World) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = bytes(2**20)
    packed = b"".join(packer.compress(piece) for _ in range(256)) + packer.flush()
    peaks = Peaks(world.pids)
    coded = world.post("/v1/tasks", packed, **{"Content-Encoding": "gzip"})
    refused(coded, 415, "content-encoding-unsupported")
    zipped = world.post("/v1/tasks", _zipped(bytes(1)), **{"Content-Type": "application/zip"})
    refused(zipped, 415, "content-type-unsupported")
    assert max(peaks.grown().values()) < GROWTH_BYTES_MAX


def test_a_yaml_that_expands_is_not_expanded(world: World) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for n in range(1, 10):
        lines.append(f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]")
    peaks = Peaks(world.pids)
    text = "\n".join(lines).encode()
    answer = world.post("/v1/profiles", text, **{"Content-Type": "application/yaml"})
    refused(answer, 400, "profile-invalid")
    assert max(peaks.grown().values()) < GROWTH_BYTES_MAX


# --- JSON that is none, or too much of it ---------------------------------------------------------

TEXTS = {
    "10,000 levels": b'{"kind": "x", "payload": {"a": ' + DEEP + b"}}",
    "invalid UTF-8": b'{"kind": "x", "payload": {"a": "\xff"}}',
    "a lone surrogate": b'{"kind": "x", "payload": {"a": "\\ud800"}}',
    "NaN": b'{"kind": "x", "payload": {"a": NaN}}',
    "Infinity": b'{"kind": "x", "payload": {"a": -Infinity}}',
    "duplicate keys": b'{"kind": "x", "payload": {"a": 1, "a": 2}}',
    "a duplicate member": b'{"kind": "x", "kind": "y"}',
    "half a text": b'{"kind": "x", "payload": {"a": ',
    "two texts": b'{"kind": "x"} {"kind": "y"}',
    "nothing": b"",
}


@pytest.mark.parametrize("name", TEXTS)
def test_json_that_is_none_is_refused(world: World, name: str) -> None:
    refused(world.post("/v1/tasks", TEXTS[name]), 400, "json-invalid")


@pytest.mark.parametrize("name", ["10,000 levels", "invalid UTF-8", "NaN", "duplicate keys"])
def test_a_batch_that_is_no_json_is_refused(world: World, name: str) -> None:
    wrong = {
        "10,000 levels": DEEP,
        "invalid UTF-8": b'{"id": "\xff"}',
        "NaN": b'{"id": NaN}',
        "duplicate keys": b'{"id": "a", "id": "b"}',
    }[name]
    good = _json(world.mine.batch())
    bad = good.replace(b'{"id": "a"}', wrong)
    assert bad != good
    answer = world.post("/v1/batches", bad, world.mine)
    problem = answer.problem
    assert answer.status == 400, problem
    assert problem["code"] in ("json-invalid", "body-invalid"), problem


@pytest.mark.parametrize("where", ["profile", "report"])
def test_10_000_levels_are_refused_wherever_they_are_read(world: World, where: str) -> None:
    if where == "profile":
        kind = {"Content-Type": "application/yaml"}
        answer = world.post("/v1/profiles", b"version: 1\nname: " + DEEP, **kind)
        refused(answer, 400, "profile-invalid")
    else:
        refused(world.post("/v1/reports", DEEP), 400, "report-invalid")


@pytest.mark.parametrize("path", ["/v1/profiles/%ff", "/v1/records?profile=%ff", "/v1/tasks?%ff=1"])
def test_invalid_utf_8_in_an_address_is_refused(world: World, path: str) -> None:
    answer = world.ask("GET", path, {"Authorization": f"Bearer {world.door.token}"})
    assert answer.status == 400
    assert answer.problem["code"] in ("path-invalid", "request-invalid"), answer.problem


# --- requests that are well-formed and wrong ------------------------------------------------------


def test_a_wrong_profile_is_refused_with_everything_that_is_wrong(world: World) -> None:
    text = b"version: 1\nname: Wrong Name\nsource: {url: 'ftp://x/'}\nmesures: {}\n"
    answer = world.post("/v1/profiles", text, **{"Content-Type": "application/yaml"})
    problem = refused(answer, 400, "profile-invalid")
    told = json.dumps(problem["problems"])
    assert all(word in told for word in ("name", "source.url", "mesures"))
    for text in (b"\xff\xfe", b"- just\n- a list\n", b"banana", b"a: 1\na: 2\n"):
        answer = world.post("/v1/profiles", text, **{"Content-Type": "application/yaml"})
        refused(answer, 400, "profile-invalid")


def test_a_batch_for_a_run_that_is_not_yours_is_refused(world: World) -> None:
    batch = _json(world.mine.batch())
    stranger = Worker(world.other.credential, grant=world.other.grant)
    refused(world.post("/v1/batches", batch, stranger), 403, "grant-mismatch")
    thief = Worker(world.other.credential, grant=world.mine.grant)
    refused(world.post("/v1/batches", batch, thief), 403, "grant-mismatch")
    refused(world.post("/v1/batches", batch, Worker(world.other.credential)), 401, "grant-missing")
    later = _json(world.mine.batch(fence=world.mine.fence + 1))
    refused(world.post("/v1/batches", later, world.mine), 403, "grant-mismatch")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tasks", {"kind": "x", "banana": 1}),
        ("/v1/tasks/collect", {"profile": "good", "banana": 1}),
        ("/v1/batches", {"banana": 1}),
    ],
)
def test_an_unknown_field_is_refused_by_its_name(
    world: World, path: str, body: dict[str, Any]
) -> None:
    as_ = None
    if path == "/v1/batches":
        body, as_ = world.mine.batch(**body), world.mine
    problem = refused(world.post(path, _json(body), as_), 400, "body-invalid")
    assert "banana" in json.dumps(problem)


LISTED = (
    "/v1/tasks", "/v1/runs", "/v1/results", "/v1/rejects", "/v1/notices", "/v1/workers",
    "/v1/profiles", "/v1/reports", "/v1/records?profile=good", "/v1/profiles/good/versions",
    "/v1/profiles/good/history", "/v1/api-keys", "/v1/people", "/v1/invitations", "/v1/sessions",
    "/v1/ledger/entries", "/v1/ledger/streams",
)  # fmt: skip


def test_wrong_limits_and_unknown_parameters_are_refused_by_every_list(
    world: World,
) -> None:
    who = {"Authorization": f"Bearer {world.door.token}"}
    for path in LISTED:
        glue = "&" if "?" in path else "?"
        for wrong in ("limit=-1", "limit=0", "limit=1001", "limit=ten", "limit=1&limit=2"):
            answer = world.ask("GET", f"{path}{glue}{wrong}", who)
            assert answer.status == 400, (path, wrong, answer)
            assert "limit" in json.dumps(answer.problem)
        problem = refused(world.ask("GET", f"{path}{glue}banana=1", who), 400, "request-invalid")
        assert "banana" in json.dumps(problem)


def test_a_cursor_from_elsewhere_is_refused_by_every_list(world: World) -> None:
    """One of another list, one that is none, and ones of the right list with a wrong position."""
    who = {"Authorization": f"Bearer {world.door.token}"}
    positions: list[list[Any]] = [
        [], [None], ["x"], [-1], [1.5], [2**70], [[]], [{}], [True], ["\x00"], [1, 2, 3], ["x", "y"]
    ]  # fmt: skip
    told = 0
    for path in LISTED:
        glue = "&" if "?" in path else "?"
        kind = _kind(world, f"{path}{glue}limit=1")
        told += bool(kind)
        wrong = ["x", "%00", "W10", "é", "A" * 3000, encode_cursor("elsewhere", [1])]
        wrong += [encode_cursor(kind, position) for position in positions]
        for cursor in wrong:
            answer = world.ask("GET", f"{path}{glue}cursor={quote(cursor, safe='%')}", who)
            # A position that no row has is the end of the list, not an error.
            assert answer.status in (200, 400), (path, cursor, answer)
            if answer.status == 400:
                assert answer.problem["code"] in ("cursor-invalid", "request-invalid"), path
        foreign = encode_cursor("elsewhere", [1])
        refused(world.ask("GET", f"{path}{glue}cursor={foreign}", who), 400, "cursor-invalid")
    assert told >= 4, "hardly any list is long enough for a cursor of its own"


def _kind(world: World, target: str) -> str:
    """What cursors of this list are called; empty for a list too short to have one."""
    cursor = world.door.client.get(target).json()["next"]
    return str(json.loads(base64.urlsafe_b64decode(cursor + "==="))[1]) if cursor else ""


def test_a_foreign_host_is_misdirected(world: World) -> None:
    who = {"Authorization": f"Bearer {world.door.token}", "Content-Type": "application/json"}
    body = _json({"kind": "x"})
    for host in ("evil.test", "127.0.0.1.evil.test", "127.0.0.1@evil.test", "[::1"):
        answer = world.ask("POST", "/v1/tasks", who, body, host=host)
        refused(answer, 421, "host-not-listed")


def test_a_foreign_origin_is_denied(world: World) -> None:
    who = {"Authorization": f"Bearer {world.door.token}", "Content-Type": "application/json"}
    body = _json({"kind": "x"})
    for origin in (
        "http://evil.test",
        "null",
        "https://127.0.0.1",
        "http://127.0.0.1:1",
        "file://",
    ):
        for method, path in (("POST", "/v1/tasks"), ("GET", "/v1/tasks")):
            answer = world.ask(method, path, {**who, "Origin": origin}, body)
            refused(answer, 403, "origin-foreign")
    site = {"Sec-Fetch-Site": "cross-site"}
    refused(world.ask("POST", "/v1/tasks", who | site, body), 403, "origin-foreign")


# --- sources that answer with it ------------------------------------------------------------------

TOLD = {
    "deep": ("parse-bound", "levels"),
    "utf8": ("parse", "not valid utf-8"),
    "nan": ("parse", "NaN"),
    "twice": ("parse", "repeats the key 'v'"),
    "half": ("parse", "ends"),
    "bomb": ("too-large", "ratio_max"),
    "archive": ("parse-bound", "more than 200 times its size"),
    "huge": ("too-large", "size_bytes_max"),
}
"""What is said of a run whose source answered so: its code, and a word of the reason."""


@dataclass
class Collected:
    """What came of collecting every bad source, and of the good one after them."""

    stack: Stack
    runs: dict[str, Any]
    grown: dict[int, int]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collected]:
    base = tmp_path_factory.mktemp("bad-sources")
    with bad_sources(base) as (profiles, replay):
        stack = Stack(base / "stack", "up", replay, profiles, drones=1)
        stack.directory.mkdir()
        with running(stack):
            pids = [stack.process(part).pid for part in stack.parts]
            stack.names()
            wait_until(lambda: list(stack.door.items("/v1/workers")), what="the drone")
            peaks = Peaks(pids)
            stack.collect_all(list(TOLD))
            stack.settle()
            stack.collect_all(["good"])
            stack.settle()
            assert [stack.process(part).pid for part in stack.parts] == pids
            assert all(stack.process(part).poll() is None for part in stack.parts)
            runs = {run["profile"]: run for run in stack.door.items("/v1/runs")}
            yield Collected(stack, runs, peaks.grown())


@pytest.mark.parametrize("name", TOLD)
def test_a_source_that_answers_with_it_fails_its_run_with_the_reason(
    collected: Collected, name: str
) -> None:
    run, (code, word) = collected.runs[name], TOLD[name]
    assert (run["status"], run["code"]) == ("failed", code), run
    assert word in run["reason"]
    assert (run["new"], run["publication"]) == (0, None)
    assert list(collected.stack.door.items("/v1/records", profile=name)) == []


def test_after_bad_sources_the_drone_collects_the_good_one(collected: Collected) -> None:
    good = collected.runs["good"]
    assert (good["status"], good["new"]) == ("succeeded", len(GOOD))
    print(f"\ngrown by {[grown >> 20 for grown in collected.grown.values()]} MiB")
    assert max(collected.grown.values()) < GROWTH_BYTES_MAX
    assert list(collected.stack.directory.glob("drone-*/spool/*/fetch-*")) == []
    assert collected.stack.door.get("/ready")["status"] == "ok"
