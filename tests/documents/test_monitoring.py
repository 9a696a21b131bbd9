"""docs/observability.md names each metric and alert, and the files in deploy/monitoring name metrics that exist."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from django.test import Client

from tests.documents.reader import ROOT, Document

OBSERVABILITY = Document(ROOT / "docs" / "observability.md")
MONITORING = ROOT / "deploy" / "monitoring"
PARTS_OF_HISTOGRAMS = re.compile(r"_(bucket|sum|count)$")


@pytest.fixture
def exposed(db: None) -> set[str]:
    """The names of the metrics that /metrics serves."""
    text = Client().get("/metrics").content.decode()
    return set(re.findall(r"^# TYPE (muster_\w+)", text, re.MULTILINE))


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def table(heading: str) -> list[tuple[str, str]]:
    """The first and the last column of the table in that section, without its head."""
    section = OBSERVABILITY.text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [(row[0], row[-1]) for row in rows[2:]]


def metrics_named(text: str) -> set[str]:
    return {PARTS_OF_HISTOGRAMS.sub("", name) for name in re.findall(r"\bmuster_\w+", text)}


def test_each_metric_is_documented_and_each_documented_one_exposed(exposed: set[str]) -> None:
    documented = {name for names, _ in table("Metrics") for name in re.findall(r"`(muster_\w+)`", names)}

    assert documented == exposed


def test_each_alert_is_documented_with_what_to_do() -> None:
    documented = {name: advice for names, advice in table("Alerts") for name in names.split(", ")}

    assert sorted(documented) == sorted(rule["alert"] for rule in rules())
    assert all(len(advice) > 20 for advice in documented.values())


def test_alerts_and_the_dashboard_use_metrics_that_exist(exposed: set[str]) -> None:
    dashboard = (MONITORING / "grafana" / "dashboards" / "muster.json").read_text()
    json.loads(dashboard)

    used = metrics_named(dashboard).union(*(metrics_named(rule["expr"]) for rule in rules()))

    assert used
    assert used - exposed == set()


def test_the_query_for_keda_uses_metrics_that_exist(exposed: set[str]) -> None:
    assert metrics_named(OBSERVABILITY.text.split("**KEDA**")[1].split("##")[0]) <= exposed


def test_each_alert_has_a_severity_and_a_summary() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule
        assert rule["annotations"]["summary"], rule


def test_each_alert_is_tested_to_fire_and_not_to_fire() -> None:
    [tests] = yaml.safe_load((MONITORING / "rules.test.yml").read_text())["tests"]

    for rule in rules():
        cases = [bool(case["exp_alerts"]) for case in tests["alert_rule_test"] if case["alertname"] == rule["alert"]]
        assert set(cases) == {True, False}, rule["alert"]
