"""One set of metric names in code, page, dashboard and alerts; alerts that fire, and clear."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from holdfast.app.compose import open_system
from holdfast.app.settings import resolve
from holdfast.kernel.serving import CONNECTIONS_MEANING

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "craton-rules.yaml"
RULES_TEST = ROOT / "deploy" / "prometheus" / "craton-rules-test.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "craton-dashboard.json"
PAGE = ROOT / "docs" / "operating" / "ledger.md"
NAME = re.compile(r"\b(?:vdb|holdfast)_[a-z_]+\b")
OURS = re.compile(r"vdb_.*|holdfast_(?:ledger|relay)_.*")
GUIDE = {
    "vdb_requests_total",
    "vdb_request_duration_seconds",
    "vdb_connections_active",
    "vdb_connections_total",
    "vdb_storage_bytes_written_total",
    "vdb_storage_records_total",
    "vdb_storage_checkpoints_total",
    "vdb_replication_lag_records",
    "vdb_replication_view_number",
}


@pytest.fixture
async def in_code(tmp_path: Path) -> set[str]:
    """What the program would show, by the names that it is asked for."""
    settings = resolve({}, {"data_dir": str(tmp_path), "log_level": "error"})
    async with open_system(settings, ["ledger"]) as system:
        system.metrics.gauge("vdb_connections_active", CONNECTIONS_MEANING)
        system.metrics.counter("vdb_connections_total", "shown by the server itself")
        found = {
            family.name + ("_total" if family.type == "counter" else "")
            for family in system.metrics.registry.collect()
        }
    return {name for name in found if OURS.fullmatch(name)}


def used(text: str) -> set[str]:
    names = (name.removesuffix("_bucket") for name in NAME.findall(text))
    return {name for name in names if OURS.fullmatch(name)}


async def test_code_page_dashboard_and_alerts_agree(in_code: set[str]) -> None:
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", PAGE.read_text(), re.MULTILINE))
    listed = {name for name in listed if OURS.fullmatch(name)}
    assert listed == in_code
    assert in_code >= GUIDE
    expressions = [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel["targets"]
    ]
    assert used(" ".join(expressions)) == in_code
    rules = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    assert used(" ".join(rule["expr"] for rule in rules)) <= in_code
    assert {"CratonHighLatency", "CratonReplicationLag"} <= {rule["alert"] for rule in rules}


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: the alerts are not tried")
    return found


def test_promtool_accepts_the_rules() -> None:
    checked = subprocess.run(
        [promtool(), "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_fires_and_clears() -> None:
    tried = subprocess.run(
        [promtool(), "test", "rules", RULES_TEST.name],
        capture_output=True,
        text=True,
        check=False,
        cwd=RULES_TEST.parent,
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
    rules = yaml.safe_load(RULES.read_text())["groups"]
    alerts = {rule["alert"] for group in rules for rule in group["rules"]}
    cases = [
        case
        for t in yaml.safe_load(RULES_TEST.read_text())["tests"]
        for case in t["alert_rule_test"]
    ]
    assert {c["alertname"] for c in cases if c["exp_alerts"]} == alerts
    assert {c["alertname"] for c in cases if not c["exp_alerts"]} == alerts
