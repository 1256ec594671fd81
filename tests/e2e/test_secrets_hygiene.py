"""A run with a marked secret in every place that takes one; then everything written is searched.

Searched are: what programs and commands print, the arguments of every process, ``config show``, the
metrics, the events, answers that are errors, the files of the data directory (those that are there
to hold a secret are named, and must be closed to others). A marked secret may be nowhere else. That
the search finds what is there to be found is shown on the files that hold secrets.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from holdfast.app.settings import SETTINGS
from holdfast.keyring.master import MasterKey, render_master
from tests.support.attacks import jwt, worker_key
from tests.support.postgres import PostgresServer
from tests.support.program import Program, run_command, start, wait_until
from tests.support.stack import SAMPLE, sources

PROFILE = "scripps-co2-monthly"
HOLDERS = (
    "keys/*", "operator.token", "run/join-token", "drones/*", "drones/*/*", "secrets/*",
    "keyring/*",
)  # fmt: skip
"""Files that are there to hold a secret of their own making: mode 0600."""


def marked() -> str:
    """A secret that nothing else looks like."""
    return f"MARK{secrets.token_hex(24)}"


@dataclass
class Watched:
    """Every secret of the run, and everything that was written."""

    secrets: dict[str, str] = field(default_factory=dict)
    written: dict[str, bytes] = field(default_factory=dict)

    def mark(self, name: str) -> str:
        self.secrets[name] = marked()
        return self.secrets[name]

    def note(self, where: str, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.written[where] = self.written.get(where, b"") + data

    def processes(self, program: Program) -> None:
        """The arguments of the program and of all it started."""
        root = psutil.Process(program.process.pid)
        for process in [root, *root.children(recursive=True)]:
            self.note("ps", "\0".join(process.cmdline()))

    def found(self) -> list[str]:
        """Which secret was written where, in any spelling."""
        return [
            f"{name} in {where}"
            for where, data in self.written.items()
            for name, secret in self.secrets.items()
            if any(spelling in data for spelling in spellings(secret))
        ]


def spellings(secret: str) -> list[bytes]:
    raw = secret.encode()
    return [raw, base64.b64encode(raw)[:-4], raw.hex().encode()]


def files(data_dir: Path, *, holders: bool) -> Iterator[Path]:
    held = {path for pattern in HOLDERS for path in data_dir.glob(pattern)}
    for path in sorted(data_dir.rglob("*")):
        if path.is_file() and (path in held) is holders:
            yield path


def environment_of(watched: Watched, folder: Path) -> dict[str, str]:
    """A marked secret in every secret setting that does not choose another database."""
    (folder / "webhook").write_text(watched.mark("webhook"))
    keys = {"keys": [{"name": "listed", "key": watched.mark("listed key"), "roles": ["viewer"]}]}
    (folder / "keys.json").write_text(json.dumps(keys))
    for name in ("webhook", "keys.json"):
        (folder / name).chmod(0o600)
    master = render_master([MasterKey(1, secrets.token_bytes(32))])
    lines = [line for line in master.splitlines() if line and not line.startswith("#")]
    watched.secrets["master key"] = max(re.split(r"\s+", lines[-1]), key=len)
    return {
        "HOLDFAST_DATABASE_PASSWORD": watched.mark("database password"),
        "HOLDFAST_OBJECTS_S3_ACCESS_KEY_ID": watched.mark("access key"),
        "HOLDFAST_OBJECTS_S3_SECRET_ACCESS_KEY": watched.mark("secret access key"),
        "HOLDFAST_KEYRING_PASSWORD": watched.mark("keyring password"),
        "HOLDFAST_KEYRING_MASTER_KEY": master,
        "HOLDFAST_GATEWAY_ADMIN_KEY": watched.mark("admin key"),
        "HOLDFAST_IDENTITY_TOKEN_SECRET": watched.mark("token secret"),
        "HOLDFAST_IDENTITY_GITHUB_CLIENT_ID": "holdfast",
        "HOLDFAST_IDENTITY_GITHUB_CLIENT_SECRET": watched.mark("client secret at GitHub"),
        "HOLDFAST_IDENTITY_OAUTH_PROVIDER": "google",
        "HOLDFAST_IDENTITY_OAUTH_CLIENT_ID": "holdfast",
        "HOLDFAST_IDENTITY_OAUTH_CLIENT_SECRET": watched.mark("client secret elsewhere"),
        "HOLDFAST_LEDGER_JWT_SECRET": watched.mark("ledger token secret"),
        "HOLDFAST_WATCH_WEBHOOK_URL": "http://127.0.0.1:9/hook",
        "HOLDFAST_WATCH_WEBHOOK_SECRET_FILE": str(folder / "webhook"),
        "HOLDFAST_IDENTITY_KEYS_FILE": str(folder / "keys.json"),
        "HOLDFAST_SECRET_SOURCE": watched.mark("source key"),
        "HOLDFAST_SECRET_SOURCE_HOSTS": "scrippsco2.ucsd.edu",
        "HOLDFAST_LOG_LEVEL": "debug",
    }


ELSEWHERE = {"HOLDFAST_DATABASE_URL", "HOLDFAST_KEYRING_URL"}
"""Secret settings whose value chooses where things are kept: marked in runs of their own."""


def test_every_secret_setting_is_marked_in_a_run(tmp_path: Path) -> None:
    marked_here = set(environment_of(Watched(), tmp_path)) | ELSEWHERE
    assert {setting.name for setting in SETTINGS if setting.secret} <= marked_here


def test_no_secret_is_written_but_where_secrets_are_kept(tmp_path: Path) -> None:
    watched = Watched()
    environment = environment_of(watched, tmp_path)
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    with SAMPLE.joinpath("profiles", f"{PROFILE}.yaml").open() as file:
        profile = yaml.safe_load(file)
    key = {"type": "api-key", "key": "secret://env/SOURCE", "header": "X-Key"}
    profile["source"]["auth"] = key
    (profiles / f"{PROFILE}.yaml").write_text(yaml.safe_dump(profile))
    data = tmp_path / "data"
    with sources(tmp_path) as (_, replay):
        environment |= {
            "HOLDFAST_REGISTRY_PROFILES_DIR": str(profiles),
            "HOLDFAST_COLLECT_REPLAY_FILE": str(replay),
        }
        program = start(["up", "--drones", "1", "--port", "0"], data, environment=environment)
        try:
            watched.secrets["operator token"] = program.token
            live(program, watched)
            command_lines(program, watched, environment)
            watched.processes(program)
            after = files_of(program, watched)
        finally:
            program.stop()
    watched.note("log", program.log.read_bytes())
    assert b"MARK" not in watched.written["log"]
    for path in files(data, holders=False):
        watched.note(f"file {path.relative_to(data)}", path.read_bytes())
    assert any("holdfast.db" in where for where in watched.written), "the database was searched"
    assert watched.found() == []
    kept = {path: path.stat().st_mode & 0o077 for path in files(data, holders=True)}
    open_to_others = [
        str(path) for path, mode in kept.items() if mode and "trusted" not in str(path)
    ]
    assert open_to_others == []
    assert any(program.token.encode() in path.read_bytes() for path in kept), (
        "it finds what is there"
    )
    assert after


def live(program: Program, watched: Watched) -> None:
    """Use every credential, rightly and wrongly, and keep what is answered."""
    made = program.client.post("/v1/api-keys", json={"name": "k", "roles": ["viewer"]}).json()
    watched.secrets["api key"] = made["secret"]
    join = program.client.post("/v1/workers/tokens", json={}).json()["token"]
    watched.secrets["join token"] = join
    link = program.client.post("/v1/login/links", json={}).json()["path"].partition("#")[2]
    watched.secrets["login link"] = link
    signed = httpx.post(f"{program.url}/v1/login", json={"token": link}, trust_env=False)
    watched.secrets["session"] = signed.headers["set-cookie"].partition("=")[2].partition(";")[0]
    used = httpx.post(f"{program.url}/v1/login", json={"token": link}, trust_env=False)
    watched.note("answers", used.content)
    worker = httpx.post(
        f"{program.url}/v1/workers/register", json={"name": "w", "key": worker_key()},
        headers={"holdfast-join-token": join}, trust_env=False,
    ).json()  # fmt: skip
    watched.secrets["worker credential"] = worker["credential"]
    token = jwt(watched.secrets["token secret"].encode(), {"sub": "x", "exp": 1})
    watched.secrets["bearer token"] = token
    for name, secret in list(watched.secrets.items()):
        if "\n" in secret:
            continue
        for path in ("/v1/api-keys", f"/v1/records?profile={name.replace(' ', '-')}"):
            answer = httpx.get(
                program.url + path, headers={"authorization": f"Bearer {secret}"},
                trust_env=False,
            )  # fmt: skip
            watched.note("answers", answer.content + str(answer.headers).encode())
        wrong = httpx.post(
            f"{program.url}/v1/profiles", content=b"{", headers={
                "authorization": f"Bearer {secret}", "content-type": "application/json",
            },
            trust_env=False,
        )  # fmt: skip
        watched.note("answers", wrong.content)
    wait_until(lambda: list(program.items("/v1/profiles")), what="the profile")
    program.client.post("/v1/tasks/collect", json={"profile": PROFILE})
    wait_until(
        lambda: [r["status"] for r in program.items("/v1/runs")] == ["succeeded"], what="the run"
    )


def files_of(program: Program, watched: Watched) -> bool:
    """Metrics and events; true once the events of the run are among them."""
    metrics = program.client.get("/metrics")
    watched.note("metrics", metrics.content)
    wait_until(
        lambda: "access.refused" in program.client.get("/v1/ledger/export").text,
        what="the events of the refusals",
    )
    watched.note("events", program.client.get("/v1/ledger/export").content)
    for path in (
        "/v1/overview",
        "/health/detailed",
        "/v1/workers",
        "/v1/api-keys",
        "/openapi.json",
    ):
        watched.note("answers", program.client.get(path).content)
    return b"records.ingested" in watched.written["events"]


def command_lines(program: Program, watched: Watched, environment: Mapping[str, str]) -> None:
    """What commands say, those that fail included."""
    here = ["--data-dir", str(program.data_dir)]
    for arguments in (
        ["config", "show"], ["config", "show", "--json"], ["doctor"], ["status"],
        ["audit", "--json"], ["apikey", "list"], ["worker", "list"], ["key", "list"],
    ):  # fmt: skip
        told = run_command(*arguments, *here, environment=environment)
        watched.note(" ".join(arguments), told.stdout + told.stderr)
    broken = dict(environment) | {"HOLDFAST_SERVE_IDLE_SECONDS": "long"}
    told = run_command("up", "--port", "0", *here, environment=broken)
    assert told.returncode != 0
    watched.note("a refused start", told.stdout + told.stderr)


def test_a_database_s_password_is_in_no_message(tmp_path: Path, postgres: PostgresServer) -> None:
    watched = Watched()
    password = watched.mark("database")
    keyring = watched.mark("keyring")
    jwt_secret = watched.mark("ledger token secret")
    postgres.execute("CREATE DATABASE hygiene")
    place = f"@/hygiene?host={postgres.folder}"
    environment: dict[str, Any] = {
        "HOLDFAST_DATABASE_URL": f"postgresql://postgres:{password}{place}",
        "HOLDFAST_KEYRING_URL": f"postgresql://postgres:{keyring}{place}",
        "VDB_AUTH_MODE": "both",
        "VDB_JWT_SECRET": jwt_secret,
        "HOLDFAST_LOG_LEVEL": "debug",
    }
    data = tmp_path / "data"
    program = start(["serve", "ledger", "--port", "0"], data, environment=environment)
    try:
        for token in (jwt_secret, password, jwt(jwt_secret.encode(), {"sub": "x", "exp": 1})):
            answer = httpx.get(
                f"{program.url}/v1/ledger/status", headers={"authorization": f"Bearer {token}"},
                trust_env=False,
            )  # fmt: skip
            watched.note("answers", answer.content)
        watched.note("metrics", program.client.get("/metrics").content)
        watched.processes(program)
    finally:
        program.stop()
    watched.note("log", program.log.read_bytes())
    unreachable = {
        "HOLDFAST_DATABASE_URL": f"postgresql://holdfast:{password}@127.0.0.1:9/none",
        "DB_DRIVER": "", "HOLDFAST_LOG_LEVEL": "debug",
    }  # fmt: skip
    for arguments in (["serve", "registry", "--port", "0"], ["config", "show", "--json"]):
        told = run_command(
            *arguments, "--data-dir", str(tmp_path / "other"), environment=unreachable
        )
        watched.note(" ".join(arguments), told.stdout + told.stderr)
    disagreeing = unreachable | {"DB_DRIVER": "postgres", "DB_DSN": f"postgres://u:{keyring}@h/d"}
    told = run_command(
        "up", "--port", "0", "--data-dir", str(tmp_path / "other"), environment=disagreeing
    )
    assert "disagree" in told.stderr
    watched.note("a refused start", told.stdout + told.stderr)
    for path in files(data, holders=False):
        watched.note(f"file {path.relative_to(data)}", path.read_bytes())
    assert watched.found() == []
