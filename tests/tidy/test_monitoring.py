"""What operators are told: every alert has its runbook entry, every metric named is one that /metrics shows."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics.exposition import generate_latest

import command.__main__
import query.__main__
from cdc.http import add_routes
from cdc.runtime import Runtime
from cdc.settings import CdcSettings
from command.settings import CommandSettings
from query.node import NODE
from query.settings import QuerySettings
from service.credential import Credentials
from service.health import REGISTRY
from service.web import build_app
from tests.project import PROJECT

MONITORING = PROJECT / "deploy" / "monitoring"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "loyalty.json"
SUFFIXES = {"counter": ["_total"], "info": ["_info"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
SUFFIXES["unknown"] = [""]
LOGINS = {"loyalty_node", "loyalty_reader", "loyalty_projector", "loyalty_standby"}
TOPOLOGY = {
    "epoch": 1,
    "regions": {"eu": {"number": 1, "command": [], "query": []}},
    "shards": {
        "eu-1": {"region": "eu", "slots": [[0, 4095]], "servers": ["postgresql://x@y/z"], "valkey": "redis://v"}
    },
}


def rules() -> Iterator[dict[str, Any]]:
    document = yaml.safe_load((MONITORING / "rules.yml").read_text(encoding="utf-8"))
    return (rule for group in document["groups"] for rule in group["rules"])


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def asked_in_dashboard() -> list[str]:
    document = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    variables = [one["query"]["query"] for one in document["templating"]["list"]]
    notes = [one["expr"] for one in document["annotations"]["list"]]
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])] + variables + notes


def names_in(expression: str) -> set[str]:
    """Metrics that an expression reads: names of ours, of the process, and those that rules record."""
    return set(re.findall(r"\b(?:loyalty[_:]|process_)[\w:]+", expression))


@pytest.fixture
async def shown(tmp_path: Path) -> set[str]:
    """Names of all samples that nodes and projectors may show."""
    (tmp_path / "topology.json").write_text(json.dumps(TOPOLOGY))
    (tmp_path / "credentials.json").write_text("{}")
    given: dict[str, Any] = {"region": "eu", "port": 1, "topology": tmp_path / "topology.json"}
    given["credentials"] = tmp_path / "credentials.json"
    projector = CdcSettings(shard="eu-1", **given)
    app = build_app(projector, Credentials(projector.credentials))
    add_routes(app, Runtime(projector))
    asked = query.__main__.build(QuerySettings(**given))
    asked[NODE].readers.start()
    apps = [app, asked, command.__main__.build(CommandSettings(**given))]
    texts = [generate_latest(app[REGISTRY]).decode() for app in apps]
    await asked[NODE].close()
    types = [found for text in texts for found in re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE)]
    return {name + suffix for name, kind in types for suffix in SUFFIXES[kind]}


async def test_every_metric_in_rules_and_dashboard_is_one_that_is_shown(shown: set[str]) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    expressions = [rule["expr"] for rule in rules()] + asked_in_dashboard()
    named = set().union(*(names_in(one) for one in expressions))
    assert len(named) > 30
    assert named - recorded == (named - recorded) & shown


async def test_every_metric_that_operators_read_of_is_one_that_is_shown(shown: set[str]) -> None:
    """A histogram goes by its bare name there, several of a kind by what they begin with."""
    text = (PROJECT / "docs" / "operate.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(loyalty_[a-z_]+)`", text)) - LOGINS
    assert len(named) > 20
    assert {name for name in named if name not in shown and f"{name}_bucket" not in shown} == set()
    for beginning in re.findall(r"`(loyalty_[a-z_]+)\*`", text):
        assert any(name.startswith(beginning) for name in shown), beginning


def test_every_process_tells_its_build_its_own_figures_and_its_disk(shown: set[str]) -> None:
    assert {"loyalty_build_info", "process_cpu_seconds_total", "process_resident_memory_bytes"} <= shown
    assert {"loyalty_disk_free_bytes", "loyalty_server_primary", "loyalty_cdc_heartbeat_age_seconds"} <= shown


def test_every_alert_has_its_runbook_entry_and_every_entry_its_alert() -> None:
    text = (PROJECT / "docs" / "operate.md").read_text(encoding="utf-8")
    entries = re.findall(r"^#### (Loyalty\w+)$", text, re.MULTILINE)
    assert len(entries) == len(set(entries))
    assert set(entries) == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/operate.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_every_alert_is_seen_to_fire_where_promtool_can_be_had() -> None:
    document = yaml.safe_load((MONITORING / "rules_test.yml").read_text(encoding="utf-8"))
    seen = {one["alertname"] for test in document["tests"] for one in test["alert_rule_test"] if one.get("exp_alerts")}
    assert seen == {rule["alert"] for rule in alerts()}


def test_prometheus_asks_every_node_and_projector_of_the_topology() -> None:
    document = json.loads((PROJECT / "deploy" / "topology.json").read_text(encoding="utf-8"))
    known = {
        "command": {url.removeprefix("http://") for one in document["regions"].values() for url in one["command"]},
        "query": {url.removeprefix("http://") for one in document["regions"].values() for url in one["query"]},
        "cdc": {shard["cdc"].removeprefix("http://") for shard in document["shards"].values()},
    }
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    asked = {
        job["job_name"]: {target for one in job["static_configs"] for target in one["targets"]}
        for job in config["scrape_configs"]
    }
    assert asked == known


def test_panels_of_the_dashboard_have_a_place_and_a_number_each() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()]
    assert len(set(places)) == len(places)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels())


@pytest.mark.parametrize(
    "arguments",
    [["check", "config", "prometheus.yml"], ["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]],
    ids=" ".join,
)
def test_prometheus_itself_takes_the_rules(arguments: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on the PATH (Debian: apt install prometheus): the rules were only parsed")
    done = subprocess.run([promtool, *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
