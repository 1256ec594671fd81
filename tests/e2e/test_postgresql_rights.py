"""PostgreSQL as most are given it: a role that owns its database and may do nothing besides."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.postgres import postgres_server
from tests.support.program import run_command, started


def test_an_ordinary_owner_is_told_what_it_lacks_and_then_serves(tmp_path: Path) -> None:
    # A server of its own: in the tests' other one the application's role is there already.
    with postgres_server() as server:
        server.execute('CREATE ROLE "an-owner" LOGIN')
        server.execute('CREATE DATABASE mine OWNER "an-owner"')
        data = tmp_path / "data"
        here = ["--data-dir", str(data)]
        environment = {
            "DB_DRIVER": "postgres",
            "DB_DSN": f"postgres://an-owner@/mine?host={server.folder}",
            "HOLDFAST_REGISTRY_PROFILES_DIR": str(tmp_path),
            "HOLDFAST_LOG_LEVEL": "warning",
        }
        up = ["up", "--port", "0", "--drones", "0"]
        refused = run_command(*up, *here, environment=environment)
        assert refused.returncode != 0
        assert "may not make the role holdfast_app" in refused.stderr
        beforehand = re.search(r"CREATE ROLE .*", refused.stderr)
        assert beforehand, refused.stderr
        server.execute(beforehand[0])

        with started(up, data, environment=environment) as program:
            assert program.get("/v1/runs")["items"] == []
            assert program.stop() == 0
        # Nothing runs and no file holds the state: the command opens the data itself.
        listed = run_command("run", "list", "--json", *here, environment=environment)
        assert listed.returncode == 0, listed.stderr
        elsewhere = run_command("run", "list", "--data-dir", str(tmp_path / "none"))
        assert "there is no data" in elsewhere.stderr

        made = run_command("backup", "create", *here, environment=environment)
        assert made.returncode == 0, made.stderr
        drilled = run_command("backup", "drill", *here, environment=environment)
        assert drilled.returncode != 0
        assert 'ALTER ROLE "an-owner" CREATEDB' in drilled.stderr
        server.execute('ALTER ROLE "an-owner" CREATEDB')
        drilled = run_command("backup", "drill", *here, environment=environment)
        assert drilled.returncode == 0, drilled.stderr
