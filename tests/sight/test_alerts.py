"""Alerts: each fires when it should and not before, leads to a runbook, and is loaded by a real Prometheus."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from photon.telemetry import metric_names as names
from tests.sight.prometheus import Prometheus, program
from tests.sight.running import REMOTE, LiveRun

ROOT = Path(__file__).parents[2]
ALERTS = sorted((ROOT / "manifests" / "alerts").glob("*.yaml"))
CASES = Path(__file__).parent / "alerts"
BY_NAME = pytest.mark.parametrize("path", ALERTS, ids=lambda path: path.stem)


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def test_there_is_one_for_every_trouble() -> None:
    assert [path.stem for path in ALERTS] == [
        "bucket-failing",
        "hub-silent",
        "job-stalled",
        "loss-diverging",
        "merge-slow",
        "operator-not-reconciling",
        "participant-missing",
        "policy-refused",
        "quorum-lost",
        "session-refused",
        "updates-refused",
    ]
    assert {path.name for path in CASES.glob("*.yaml")} == {path.name for path in ALERTS}


@BY_NAME
def test_an_alert_says_what_it_is_and_leads_to_its_runbook(path: Path) -> None:
    (group,) = yaml.safe_load(path.read_text())["groups"]
    assert group["name"] == f"photon-{path.stem}"
    alert = "Photon" + path.stem.title().replace("-", "")
    for rule in group["rules"]:
        assert rule["alert"] == alert
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].strip().endswith((".", "}}."))
        runbook = rule["annotations"]["runbook_url"]
        assert runbook == f"docs/runbooks/{path.stem}.md"
        text = (ROOT / runbook).read_text()
        assert text.startswith(f"# {alert}\n")
        for heading in ("## Find the cause", "## What to do", "## Resolved when"):
            assert heading in text
    assert f"[{alert}]({path.stem}.md)" in (ROOT / "docs" / "runbooks" / "README.md").read_text()


@BY_NAME
def test_every_metric_and_label_of_an_alert_is_in_the_code(path: Path) -> None:
    declared = {name: metric for metric in names.all_metrics() for name in metric.series()}
    for rule in rules(path):
        used = set(re.findall(r"photon_\w+", rule["expr"]))
        assert used
        assert used <= declared.keys()
        for name, selector in re.findall(r"(photon_\w+)\{([^}]*)\}", rule["expr"]):
            assert set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", selector)) <= set(declared[name].labels)


def test_every_name_in_the_runbooks_is_in_the_code() -> None:
    declared = {name for metric in names.all_metrics() for name in metric.series()}
    boards = ROOT / "manifests" / "dashboards"
    panels = (boards / "job.json").read_text() + (boards / "gate.json").read_text()
    for path in (ROOT / "docs" / "runbooks").glob("*.md"):
        text = path.read_text()
        assert set(re.findall(r"\bphoton_[a-z_]+\b", text)) <= declared, path
        for line in text.splitlines():
            if "ashboard" in line:
                for title in re.findall(r"\*([A-Z][^*]+)\*", line):
                    assert title in ("Job", "Gate") or f'"title": "{title}"' in panels, (
                        f"{path}: there is no panel {title}"
                    )


@pytest.mark.sight
@pytest.mark.parametrize("case", sorted(CASES.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_fires_when_it_should_and_not_before(case: Path) -> None:
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(case)], text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tests = yaml.safe_load(case.read_text())["tests"]
    expected = [check.get("exp_alerts") for test in tests for check in test["alert_rule_test"]]
    assert any(expected), "nothing fires in this case"
    assert not all(expected), "nothing is quiet in this case"


@pytest.mark.sight
def test_promtool_has_nothing_against_the_rules() -> None:
    command = [program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", *map(str, ALERTS)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.sight
def test_a_real_prometheus_loads_every_rule_and_fires_after_a_fault(live: LiveRun, prometheus: Prometheus) -> None:
    prometheus.until(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()), "not all rules evaluated")
    loaded = prometheus.rules()
    assert len(loaded) == sum(len(rules(path)) for path in ALERTS)
    live.disturb()

    def refusals() -> list[dict[str, str]]:
        firing = [alert for rule in prometheus.rules() for alert in rule["alerts"] if alert["state"] == "firing"]
        return [a["labels"] for a in firing if a["labels"]["alertname"] == "PhotonUpdatesRefused"]

    prometheus.until(lambda: bool(refusals()), "the refusal alarmed nobody")
    (labels,) = refusals()
    assert (labels["job"], labels["participant"], labels["reason"]) == ("tiny", REMOTE, "WrongTokens")
    # It has gone, and alarms if it stays away.
    prometheus.until(
        lambda: any(
            alert["labels"].get("participant") == REMOTE and alert["state"] == "pending"
            for rule in prometheus.rules()
            if rule["name"] == "PhotonParticipantMissing"
            for alert in rule["alerts"]
        ),
        "nobody misses the participant that went",
    )
