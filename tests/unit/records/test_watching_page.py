"""The page and the alerts about watching name the metrics, events and notices that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from holdfast.kernel.telemetry import Metrics
from holdfast.records.metrics import RecordsMetrics
from holdfast.records.webhook import NOTICE_TYPES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "operating" / "watching.md").read_text("utf-8")
RULES = ROOT / "deploy" / "prometheus" / "holdfast-watching-rules.yaml"
RULES_TEST = RULES.with_name("holdfast-watching-rules-test.yaml")


def in_code() -> set[str]:
    metrics = Metrics()
    RecordsMetrics(metrics)
    return set(re.findall(r"^# HELP (\S+)", metrics.render().decode(), re.MULTILINE))


def named(text: str) -> set[str]:
    return set(re.findall(r"\bholdfast_[a-z_]+\b", text))


def test_the_page_and_the_alerts_name_metrics_that_there_are() -> None:
    assert named(PAGE) <= in_code()
    assert named(RULES.read_text()) <= named(PAGE)
    watched = {name for name in in_code() if name.startswith("holdfast_profile_")}
    assert watched <= named(PAGE), "every gauge of a profile is explained"


def test_the_page_names_every_notice() -> None:
    assert all(f"`{kind}`" in PAGE for kind in NOTICE_TYPES)


def test_every_alert_fires_and_clears() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: the alerts are not tried")
    tried = subprocess.run(
        [promtool, "test", "rules", RULES_TEST.name],
        capture_output=True,
        text=True,
        check=False,
        cwd=RULES_TEST.parent,
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
    alerts = {
        rule["alert"] for g in yaml.safe_load(RULES.read_text())["groups"] for rule in g["rules"]
    }
    cases = [
        case
        for test in yaml.safe_load(RULES_TEST.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts
