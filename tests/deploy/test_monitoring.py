"""The dashboard and the alert rules in ``deploy/monitoring`` name only metrics that exist."""

import json
import re
from typing import Any

import yaml
from prometheus_client import REGISTRY

from service.telemetry import metrics
from tests.deploy.files import MONITORING_FOLDER, run, tool


def existing() -> set[str]:
    assert metrics.REQUESTS
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}
    return {
        family.name + suffix
        for family in REGISTRY.collect()
        if family.name.startswith("care_trials_")
        for suffix in suffixes[family.type]
    }


def named(expression: str) -> set[str]:
    return set(re.findall(r"\bcare_trials_\w+", expression))


def test_every_metric_of_the_dashboard_exists_and_every_metric_is_shown() -> None:
    dashboard = json.loads((MONITORING_FOLDER / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]

    shown = set().union(*map(named, expressions))
    assert all(map(named, expressions))
    assert shown <= existing()
    families = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in shown}
    assert families == {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in existing()}


def test_prometheus_accepts_the_alert_rules() -> None:
    run(tool("promtool"), "check", "rules", MONITORING_FOLDER / "alerts.yaml")


def test_every_metric_of_the_alert_rules_exists() -> None:
    content: dict[str, Any] = yaml.safe_load((MONITORING_FOLDER / "alerts.yaml").read_text())
    rules = [rule for group in content["groups"] for rule in group["rules"]]

    for rule in rules:
        assert named(rule["expr"]), rule["alert"]
        assert named(rule["expr"]) <= existing(), rule["alert"]
        assert rule["annotations"]["summary"]
