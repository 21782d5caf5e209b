"""The metrics of a real run, as Prometheus' own tools judge them."""

from __future__ import annotations

import subprocess

import pytest

from photon.telemetry import metric_names as names
from tests.aggregator.test_metrics import series
from tests.sight.prometheus import program
from tests.sight.running import LiveRun

pytestmark = pytest.mark.sight


def test_promtool_finds_nothing_to_say_about_a_live_scrape(live: LiveRun) -> None:
    text = live.get("/metrics").text
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, text=True, capture_output=True, timeout=60
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_every_series_of_a_real_run_is_declared_with_its_labels(live: LiveRun) -> None:
    declared = {name: set(metric.labels) | {"le"} for metric in names.all_metrics() for name in metric.series()}
    found = series(live.get("/metrics").text)
    assert found
    for name, labels in found:
        assert name in declared
        assert {label for label, _ in labels} <= declared[name], name


def test_workers_figures_arrive(live: LiveRun) -> None:
    """What only real workers report: none of it is missing, and its unit is right."""
    found = series(live.get("/metrics").text)
    north = (("job", "tiny"), ("participant", "north"))
    assert found[names.PARTICIPANT_TOKENS_PER_SECOND, north] > 100
    assert found[names.PARTICIPANT_MEMORY, north] > 50e6
    assert 0 < found[names.PARTICIPANT_LEARNING_RATE, north] <= 3e-3
    for phase in ("pull", "train", "encode", "push"):
        assert found[names.PARTICIPANT_PHASE_SECONDS, (*north, ("phase", phase))] > 0, phase
    for phase in ("train", "merge", "commit", "wait"):
        assert found[names.PHASE_SECONDS, (("job", "tiny"), ("phase", phase))] > 0, phase
    updates = found[names.COMPRESSION, (("direction", "up"), ("job", "tiny"))]
    assert updates == pytest.approx(1.0, rel=0.05), "DenseFP32 is not compressed"
