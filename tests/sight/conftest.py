"""What the tests of sight share: one real run that goes on while they look at it, and a Prometheus that scrapes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.whole_runs import Run, prepare_data, write_job
from tests.sight.collector import Collector
from tests.sight.prometheus import Prometheus, Target, scraping
from tests.sight.running import REMOTE, LiveRun, TrackedRun


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    """``photon run`` of a tiny job of far more rounds than any test waits for, past its third round.

    north and south train here; ``east`` is a remote participant that does not exist until a test plays it, so each
    round is closed a second after it has its quorum.
    """
    folder = tmp_path_factory.mktemp("sight")
    data = prepare_data(folder / "data")
    here = [{"name": name, "worker": {"data": {"uri": str(path)}}} for name, path in data.items()]
    job = write_job(
        folder / "tiny.yaml",
        data,
        rounds=1000,
        participation={"quorum": 2, "graceSeconds": 1, "roundDeadlineSeconds": 600},
        participants=[*here, {"name": REMOTE, "remote": {}}],
    )
    run = Run(job, folder / "runs")
    try:
        run.wait_until(lambda status: status["committedRounds"] >= 3)
        yield LiveRun(run)
    finally:
        run.stop()


@pytest.fixture(scope="session")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> TrackedRun:
    """A finished run of two rounds with everything that is off by default: trackers, and traces to a collector."""
    folder = tmp_path_factory.mktemp("tracked")
    data = prepare_data(folder / "data")
    job = write_job(folder / "tiny.yaml", data, rounds=2, evaluation={"everyRounds": 1, "batchSize": 16})
    with Collector() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHOTON_TRACKERS", "tensorboard,wandb")
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        run = Run(job, folder / "runs")
        try:
            run.finish()
        finally:
            run.stop()
        spans = collector.spans()
    return TrackedRun(run=run, spans=spans)


@pytest.fixture(scope="session")
def prometheus(live: LiveRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus with all of manifests/alerts that scrapes the run's aggregator each second."""
    folder = tmp_path_factory.mktemp("prometheus")
    rules = sorted((Path(__file__).parents[2] / "manifests" / "alerts").glob("*.yaml"))
    with Prometheus(folder, scraping([Target(name="aggregators", url=live.url)], rules=rules)) as running:
        yield running
