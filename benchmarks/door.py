"""What the door costs: requests per second, delay and processor time, with it and without.

    python -m benchmarks.door [--seconds 5] [--rounds 3] [--nginx /usr/sbin/nginx]

One route (`GET /v1/profiles/NAME`, an indexed read) asked over 64 keep-alive connections:

- *alone*: the registry's own application, which asks nobody who they are;
- *in process*: `holdfast up`, the caller shows an API key;
- *proxied*: `holdfast serve gateway` before `serve registry`, such a key, a signed hop each time;
- *nginx*: nginx before the registry alone, asking `holdfast up` about each (`auth_request`).

Contenders take turns in every round. Processor time is that of all processes that serve, per
request. The load is made by this process, which takes its share of the machine: ratios count.

    python -m benchmarks.door tenants

A quiet tenant's delay alone, and beside a tenant at ten times its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvloop

from holdfast.kernel.connection import PIPELINED_MAX

PROGRAM = [sys.executable, "-m", "holdfast.app.main"]
PROFILE = "bench"
PROFILE_TEXT = """version: 1
name: bench
title: A profile to be asked for
publisher: Nobody
licence: none
source: {url: https://example.org/data.json, format: {type: json, records: "$[*]"}}
mode: snapshot
key: [dimensions.id]
dimensions: {id: {path: $.id}}
measures: {value: {path: $.value}}
"""
CONNECTIONS = 64
START_SECONDS = 90.0
TENANT_LIMIT = 200
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})")


@dataclass
class Contender:
    """Something to ask, and the processes that serve it."""

    name: str
    port: int
    headers: str
    pids: Sequence[int]
    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


class _Caller(asyncio.Protocol):
    """One keep-alive connection that asks again as soon as it is answered."""

    def __init__(self, request: bytes, delays: list[float], statuses: dict[bytes, int]) -> None:
        self._request = request
        self._delays = delays
        self._statuses = statuses
        self._data = b""
        self._began = 0.0
        self._over = False
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def stop(self) -> None:
        self._over = True
        self._transport.abort()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        place = head.lower().find(b"content-length:")
        length = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(body) < length:
            return
        self._data = b""
        status = head[9:12]
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._delays.append(time.perf_counter() - self._began)
        if not self._over:
            self._ask()


async def load(
    port: int, request: bytes, seconds: float, connections: int = CONNECTIONS
) -> tuple[list[float], dict[bytes, int]]:
    """Ask for so long over so many connections: the delays, and the statuses."""
    delays: list[float] = []
    statuses: dict[bytes, int] = {}
    loop = asyncio.get_running_loop()
    callers = []
    for _ in range(connections):
        _, caller = await loop.create_connection(
            lambda: _Caller(request, delays, statuses), "127.0.0.1", port
        )
        callers.append(caller)
    await asyncio.sleep(seconds)
    for caller in callers:
        caller.stop()
    return delays, statuses


def request_of(headers: str) -> bytes:
    """The request that is asked again and again."""
    return f"GET /v1/profiles/{PROFILE} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()


def percentile(values: list[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def cpu_of(pids: Sequence[int]) -> float:
    """Processor seconds of these processes and their children so far."""
    total = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system
    return total


def measure(contender: Contender, seconds: float) -> None:
    """One turn of a contender; every answer must be 200."""
    request = request_of(contender.headers)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(load(contender.port, request, min(1.0, seconds)))
        before = cpu_of(contender.pids)
        delays, statuses = runner.run(load(contender.port, request, seconds))
        used = cpu_of(contender.pids) - before
    if set(statuses) != {b"200"}:
        raise SystemExit(f"{contender.name}: {statuses}")
    contender.rates.append(len(delays) / seconds)
    contender.p50.append(percentile(delays, 0.5) * 1000)
    contender.p99.append(percentile(delays, 0.99) * 1000)
    contender.cpu.append(used / len(delays) * 1e6)


# --- what serves


@contextlib.contextmanager
def program(
    arguments: Sequence[str], data: Path, environment: dict[str, str] | None = None
) -> Iterator[tuple[int, int, str]]:
    """A program of ours: its pid, its port, and the operator token if it has one."""
    data.mkdir(parents=True, exist_ok=True)
    base = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
    with (data.parent / f"{data.name}.log").open("ab") as log:
        process = subprocess.Popen(
            [*PROGRAM, *arguments, "--data-dir", str(data)],
            env=base | {"HOLDFAST_LOG_LEVEL": "warning"} | (environment or {}),
            stdout=log,
            stderr=log,
        )
    try:
        url = _address(data, process)
        token = data / "operator.token"
        yield (
            process.pid,
            httpx.URL(url).port or 0,
            (token.read_text().strip() if token.exists() else ""),
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _address(data: Path, process: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError, httpx.HTTPError):
            said = json.loads((data / "holdfast.json").read_bytes())
            if said["pid"] == process.pid:
                httpx.get(f"{said['url']}/health", trust_env=False, timeout=2)
                return str(said["url"])
        if process.poll() is not None:
            raise SystemExit((data.parent / f"{data.name}.log").read_text()[-2000:])
        time.sleep(0.05)
    raise SystemExit("a program did not start in time")


def alone(data: str, port: str) -> None:
    """The registry's application with nobody at its door, for :func:`served_alone`."""
    from holdfast.app.compose import open_system
    from holdfast.app.settings import resolve
    from holdfast.kernel.http import AppSpec, create_app
    from holdfast.kernel.principal import operator
    from holdfast.kernel.serving import run, serve
    from holdfast.kernel.telemetry import configure_logging

    async def anybody(_connection: Any) -> Any:
        return operator()

    async def main() -> None:
        configure_logging("error", "console")
        settings = resolve(
            {"HOLDFAST_REGISTRY_PROFILES_DIR": f"{data}/../profiles"}, {"data_dir": data}
        )
        async with open_system(settings, ["registry"]) as system:
            app = create_app(
                AppSpec(
                    role="registry", version="0", handlers=system.handlers, authenticate=anybody
                )
            )
            loops = asyncio.create_task(system.run_loops())
            await serve(app, bind=f"127.0.0.1:{port}")
            loops.cancel()

    run(main())


@contextlib.contextmanager
def served_alone(data: Path) -> Iterator[tuple[int, int]]:
    """The pid and the port of the registry alone."""
    data.mkdir(parents=True)
    port = _free_port()
    code = f"from benchmarks.door import alone; alone({str(data)!r}, '{port}')"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        _wait(f"http://127.0.0.1:{port}/v1/profiles/{PROFILE}")
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _wait(url: str, headers: dict[str, str] | None = None) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, headers=headers, trust_env=False, timeout=2).status_code == 200:
                return
        time.sleep(0.05)
    raise SystemExit(f"{url} was not there in time")


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


NGINX = """worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
daemon off;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000000;
  upstream service {{ server 127.0.0.1:{service}; keepalive 64; keepalive_requests 1000000000; }}
  upstream door {{ server 127.0.0.1:{door}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      auth_request /auth;
      proxy_pass http://service;
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host localhost;
    }}
    location = /auth {{
      internal;
      proxy_pass http://door/v1/whoami;
      proxy_pass_request_body off; proxy_set_header Content-Length "";
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host localhost;
    }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(binary: str, folder: Path, service: int, door: int) -> Iterator[tuple[int, int]]:
    """The pid and the port of an nginx that asks the door about each request."""
    folder.mkdir()
    port = _free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, service=service, door=door, port=port))
    process = subprocess.Popen(
        [binary, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")],
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=2)
                break
            if process.poll() is not None:
                raise SystemExit((folder / "error.log").read_text())
            time.sleep(0.05)
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(timeout=20)


def _key(port: int, token: str) -> str:
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v1/api-keys",
        json={"name": "bench", "roles": ["viewer"]},
        headers={"authorization": f"Bearer {token}"},
        trust_env=False,
    )
    answer.raise_for_status()
    return str(answer.json()["secret"])


def compare(folder: Path, seconds: float, rounds: int, nginx_binary: str) -> list[Contender]:
    """All contenders, by turns."""
    profiles = folder / "profiles"
    profiles.mkdir(parents=True)
    (profiles / f"{PROFILE}.yaml").write_text(PROFILE_TEXT)
    watched = {"HOLDFAST_REGISTRY_PROFILES_DIR": str(profiles)}
    found: list[Contender] = []
    with contextlib.ExitStack() as stack:
        bare_pid, bare_port = stack.enter_context(served_alone(folder / "alone"))
        found.append(Contender("alone", bare_port, "", [bare_pid]))
        pid, port, token = stack.enter_context(
            program(["up", "--drones", "0", "--port", "0"], folder / "up", watched)
        )
        header = f"Authorization: Bearer {_key(port, token)}\r\n"
        found.append(Contender("in process", port, header, [pid]))
        found.append(_proxied(stack, folder, watched))
        if nginx_binary:
            nginx_pid, nginx_port = stack.enter_context(
                nginx(nginx_binary, folder / "nginx", bare_port, port)
            )
            pids = [nginx_pid, bare_pid, pid]
            found.append(Contender("nginx", nginx_port, header, pids))
        for each in found:
            name, _, value = each.headers.strip().partition(": ")
            headers = {name: value} if name else None
            _wait(f"http://127.0.0.1:{each.port}/v1/profiles/{PROFILE}", headers)
        for _ in range(rounds):
            for each in found:
                measure(each, seconds)
    return found


def _proxied(stack: contextlib.ExitStack, folder: Path, watched: dict[str, str]) -> Contender:
    split = watched | {"HOLDFAST_TRUST_DIR": str(folder / "trusted")}
    roles = {}
    for role in ("identity", "registry"):
        pid, port, _ = stack.enter_context(
            program(["serve", role, "--port", "0"], folder / role, split)
        )
        roles[role] = (pid, port)
    split["HOLDFAST_IDENTITY_URL"] = f"http://127.0.0.1:{roles['identity'][1]}"
    split["HOLDFAST_REGISTRY_URL"] = f"http://127.0.0.1:{roles['registry'][1]}"
    pid, port, token = stack.enter_context(
        program(["serve", "gateway", "--port", "0"], folder / "gateway", split)
    )
    header = f"Authorization: Bearer {_key(port, token)}\r\n"
    return Contender("proxied", port, header, [pid, *(pid for pid, _ in roles.values())])


def tell(found: Sequence[Contender]) -> None:
    """A table of medians."""
    first = statistics.median(found[0].rates)
    print("| | requests/s | of alone | p50 | p99 | processor time per request |")
    print("|---|---|---|---|---|---|")
    for each in found:
        rate = statistics.median(each.rates)
        print(
            f"| {each.name} | {rate:,.0f} | {rate / first:.0%} "
            f"| {statistics.median(each.p50):.1f} ms | {statistics.median(each.p99):.1f} ms "
            f"| {statistics.median(each.cpu):.0f} µs |"
        )


# --- a quiet tenant beside a loud one


def _token(secret: bytes, tenant: str) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"sub": tenant, "tenant": tenant, "roles": "viewer", "exp": int(time.time()) + 3600}
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


async def paced(port: int, request: bytes, per_second: float, seconds: float) -> list[float]:
    """Ask at a steady pace over one connection that is kept; the delays of what was answered."""
    delays: list[float] = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    loop = asyncio.get_running_loop()
    began = loop.time()
    number = 0
    while loop.time() - began < seconds:
        await asyncio.sleep(max(0.0, began + number / per_second - loop.time()))
        number += 1
        started = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        delays.append(time.perf_counter() - started)
    writer.close()
    return delays


@contextlib.contextmanager
def loud_one(port: int, request: bytes, rate: int, seconds: float) -> Iterator[dict[str, int]]:
    """A tenant that asks so often, from a process of its own: its asking is not to hold up the
    clock of the quiet one. What it sent, and how it was answered, is in what is given, afterwards.
    """
    told: dict[str, int] = {}
    if not rate:
        yield told
        return
    code = "import sys; from benchmarks.door import loud; loud(*sys.argv[1:])"
    arguments = [str(port), request.hex(), str(rate), str(seconds)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()  # it has begun
        yield told
        told.update(json.loads(process.stdout.readline()))
    finally:
        process.wait(timeout=60 + seconds)
        process.stdout.close()


class _Shouter(asyncio.Protocol):
    """Sends without waiting for answers, as far as a connection may, and counts those by their
    status."""

    def __init__(self, told: dict[str, int]) -> None:
        self._told = told
        self._rest = b""
        self.waiting = 0
        self.paused = False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        end = 0
        for match in _STATUS.finditer(data):
            status, end = match[1].decode(), match.end()
            self._told[status] = self._told.get(status, 0) + 1
            self.waiting -= 1
        self._rest = data[max(end, len(data) - 11) :]


def loud(port: str, request: str, rate: str, seconds: str) -> None:
    """What :func:`loud_one` runs: eight connections take turns, whatever they were answered."""
    asked = bytes.fromhex(request)

    async def shout() -> None:
        told: dict[str, int] = {"sent": 0, "unsent": 0}
        loop = asyncio.get_running_loop()
        lanes = []
        for _ in range(8):
            transport, lane = await loop.create_connection(
                lambda: _Shouter(told), "127.0.0.1", int(port)
            )
            transport.set_write_buffer_limits(high=64 * 1024)
            lanes.append((transport, lane))
        print("begun", flush=True)
        began = loop.time()
        number = 0
        while loop.time() - began < float(seconds):
            await asyncio.sleep(max(0.0, began + number / int(rate) - loop.time()))
            transport, lane = lanes[number % len(lanes)]
            number += 1
            if lane.paused or lane.waiting >= PIPELINED_MAX or transport.is_closing():
                told["unsent"] += 1
                continue
            lane.waiting += 1
            transport.write(asked)
            told["sent"] += 1
        for transport, _ in lanes:
            transport.abort()
        print(json.dumps(told), flush=True)

    uvloop.run(shout())


def tenants(folder: Path, seconds: float, rounds: int) -> None:
    """A quiet tenant's delay: alone, beside a tenant at its limit, and at ten times its limit."""
    secret = secrets.token_hex(32).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "secret").write_bytes(secret)
    environment = {
        "HOLDFAST_IDENTITY_JWT_SECRET_FILE": str(folder / "secret"),
        "HOLDFAST_SERVE_TENANT_REQUESTS_PER_SECOND": str(TENANT_LIMIT),
    }
    with program(["up", "--drones", "0", "--port", "0"], folder / "up", environment) as (
        _,
        port,
        _t,
    ):
        requests = {}
        for tenant in ("quiet", "loud"):
            _wait_tenant(port, _token(secret, tenant))
            head = f"Host: localhost\r\nAuthorization: Bearer {_token(secret, tenant)}\r\n\r\n"
            requests[tenant] = f"GET /v1/whoami HTTP/1.1\r\n{head}".encode()
        rates = {"alone": 0, "beside one at its limit": TENANT_LIMIT,
                 "beside one at ten times its limit": 10 * TENANT_LIMIT}  # fmt: skip
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in rates}
        answered: dict[str, dict[str, int]] = {}
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for _ in range(rounds):
                for name, rate in rates.items():
                    with loud_one(port, requests["loud"], rate, seconds + 1) as told:
                        found = runner.run(paced(port, requests["quiet"], 50, seconds))
                    rows[name].append((percentile(found, 0.5), percentile(found, 0.99)))
                    answered[name] = told
    print("| the quiet tenant | p50 | p99 | of p99 alone | the loud one, last round |")
    print("|---|---|---|---|---|")
    first = statistics.median(p99 for _, p99 in rows["alone"])
    for name, measured in rows.items():
        p50, p99 = (statistics.median(column) for column in zip(*measured, strict=True))
        loudly = ", ".join(f"{count} {what}" for what, count in sorted(answered[name].items()))
        print(
            f"| {name} | {p50 * 1000:.2f} ms | {p99 * 1000:.2f} ms | {p99 / first:.0%} | {loudly} |"
        )


def _wait_tenant(port: int, token: str) -> None:
    _wait(f"http://127.0.0.1:{port}/v1/whoami", {"authorization": f"Bearer {token}"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("what", nargs="?", choices=["compare", "tenants"], default="compare")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nginx", default=shutil.which("nginx") or "")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} before")
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "tenants":
            tenants(Path(folder), options.seconds, options.rounds)
        else:
            tell(compare(Path(folder), options.seconds, options.rounds, options.nginx))
    print(f"load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
