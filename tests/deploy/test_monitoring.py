"""The dashboard and the alert rules in ``deploy/monitoring``, tested with a real Prometheus."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client import REGISTRY

from service.telemetry import metrics
from tests.deploy.files import MONITORING_FOLDER, ROOT, run, tool
from tests.support.documents import tables
from tests.support.embedded import free_port
from tests.support.running import StartProcess
from tests.support.service import KEY

ALERTS = MONITORING_FOLDER / "alerts.yaml"
CASES = ROOT / "tests/deploy/alerts.test.yaml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = [
    panel
    for panel in json.loads((MONITORING_FOLDER / "dashboard.json").read_text())["panels"]
    if panel["type"] != "row"
]
OTHERS = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
OTHERS |= {"process_start_time_seconds"}


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


def family(name: str) -> str:
    return re.sub(r"_(total|bucket|count|sum)$", "", name)


def queries() -> Iterator[tuple[str, str]]:
    """Yield the title and the expression of each query of the dashboard."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_every_metric_of_the_dashboard_exists_and_every_metric_is_shown() -> None:
    shown = set().union(*(named(expression) for _, expression in queries()))

    assert shown <= existing()
    assert {family(name) for name in shown} == {family(name) for name in existing()}


def test_every_metric_has_a_line_in_the_docs() -> None:
    (table,) = (t for t in tables("docs/operating.md") if t[0] == ["metric", "meaning"])
    documented = {name for row in table[1:] for name in re.findall(r"`(\w+)", row[0])}

    assert {family(name) for name in documented} - {family(name) for name in OTHERS} == {
        family(name) for name in existing()
    }


def test_every_panel_has_a_description_and_a_unit() -> None:
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all('namespace=~"$namespace"' in each["expr"] for each in panel["targets"])
        assert all('instance=~"$instance"' in each["expr"] for each in panel["targets"])


def test_panels_do_not_overlap() -> None:
    squares = [
        (x, y)
        for place in (panel["gridPos"] for panel in PANELS)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(squares) == len(set(squares))
    assert max(x for x, _ in squares) < 24


def test_prometheus_accepts_the_alert_rules() -> None:
    run(tool("promtool"), "check", "rules", ALERTS)


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    run(tool("promtool"), "test", "rules", CASES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_the_cases_notice_an_alert_that_never_fires_or_fires_too_often(
    rule: dict[str, Any], tmp_path: Path
) -> None:
    """An alert without its threshold fires in a case of its own where it should not."""
    promtool = tool("promtool")
    threshold = r" (?:[<>]|==) [\d.]+(?: \* 86400)?(?! \*)"
    relative = rule["expr"].replace("> 2 *", "> 0 *")
    loose = relative if relative != rule["expr"] else re.sub(threshold, "", rule["expr"])
    cases = yaml.safe_load(CASES.read_text())
    cases["tests"] = [
        case
        for case in cases["tests"]
        if any(each["alertname"] == rule["alert"] for each in case["alert_rule_test"])
    ]
    for case in cases["tests"]:
        wanted = [e for e in case["alert_rule_test"] if e["alertname"] == rule["alert"]]
        case["alert_rule_test"] = wanted
    path = tmp_path / "cases.yaml"
    cases["rule_files"] = ["rules.yaml"]
    path.write_text(yaml.safe_dump(cases))

    def passes(expression: str) -> bool:
        groups = [{"name": "x", "rules": [{**rule, "expr": expression}]}]
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
        command = [promtool, "test", "rules", str(path)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert loose != rule["expr"]
    assert passes(rule["expr"])
    assert not passes(loose)
    assert not passes("vector(0) > 1")


def test_every_alert_names_metrics_that_exist_and_has_a_line_in_the_runbook() -> None:
    runbook = (ROOT / "docs/operating.md").read_text()
    for rule in RULES:
        assert named(rule["expr"]) <= existing(), rule["alert"]
        assert named(rule["expr"]) or any(name in rule["expr"] for name in OTHERS)
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert rule["alert"].startswith("CareTrials")
        assert f"\n| `{rule['alert']}` |" in runbook
    alerts = set(re.findall(r"^\| `([A-Z]\w+)` \|", runbook, re.MULTILINE))
    assert alerts == {rule["alert"] for rule in RULES}


@asynccontextmanager
async def prometheus(ports: list[int], folder: Path) -> AsyncIterator[str]:
    """Run a Prometheus that scrapes these ports each second; yield its URL."""
    targets = [f"127.0.0.1:{port}" for port in ports]
    job = {
        "job_name": "care-trials",
        "static_configs": [{"targets": targets, "labels": {"namespace": "trials"}}],
    }
    content = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [job],
    }
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(content))
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            tool("prometheus"),
            f"--config.file={path}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


MAY_BE_EMPTY = (
    "care_trials_memory_limit_bytes",
    "care_trials_certificate_end",
    "care_trials_key_set_fetched",
)
"""Where the machine has no limit, and the processes have neither certificate nor key set."""


@pytest.mark.slow
async def test_every_query_of_the_dashboard_has_an_answer(
    start_process: StartProcess, tmp_path: Path
) -> None:
    tool("prometheus")
    ports = [free_port(), free_port()]
    service, _ = await start_process(management_port=ports[0])
    other, _ = await start_process(service.databases, management_port=ports[1])
    async with prometheus(ports, tmp_path) as url, aiohttp.ClientSession() as session:

        async def ask(expression: str) -> list[Any]:
            for name, value in (("$__rate_interval", "8s"), ("$namespace", "trials")):
                expression = expression.replace(name, value)
            expression = re.sub(r"\$(instance|database)", ".*", expression)
            async with session.get(f"{url}/api/v1/query", params={"query": expression}) as answer:
                content = await answer.json()
            assert content["status"] == "success", (expression, content)
            result: list[Any] = content["data"]["result"]
            return result

        async with asyncio.timeout(30):
            while True:
                try:
                    up = await ask('up{job="care-trials"} == 1')
                except aiohttp.ClientError:  # not yet there, or not yet ready
                    up = []
                if len(up) == len(ports):
                    break
                await asyncio.sleep(0.2)
        for turn in range(8):
            for each in (service, other):
                await each.put([{KEY: key} for key in range(turn * 10, turn * 10 + 10)])
                await each.put([{KEY: 1}, {KEY: 1}, {KEY: 2, "case_Key": "x"}])
                await each.put([], headers={"x-api-key": "wrong"})
            await asyncio.sleep(0.5)
        await asyncio.sleep(1)
        empty = [(title, query) for title, query in queries() if not await ask(query)]
        async with session.get(f"{url}/api/v1/rules") as answer:
            groups = (await answer.json())["data"]["groups"]

    assert [each for each in empty if not any(name in each[1] for name in MAY_BE_EMPTY)] == []
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(RULES)
    assert {rule["health"] for rule in rules} == {"ok"}
