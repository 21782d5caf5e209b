"""A machine that sleeps in the middle of a job: it costs time and nothing else."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.whole_runs import Run, prepare_data, step_of, write_job

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1500)]

# More than the deadline of a round, than the time after which participants count as absent, and than the deadline of
# the whole job has left when it falls asleep.
ASLEEP_SECONDS = 20.0


def test_all_processes_of_a_run_are_stopped_for_longer_than_every_deadline(tmp_path: Path) -> None:
    participation = {"roundDeadlineSeconds": 10}
    job = write_job(tmp_path / "job.yaml", prepare_data(tmp_path), steps=120, participation=participation)
    undisturbed = Run(job, tmp_path / "undisturbed").finish(seconds=600)
    run = Run(job, tmp_path / "runs")
    try:
        run.wait_until(lambda status: status["round"] in (2, 3) and step_of(status, "south") >= 5)
        everybody = [psutil.Process(run.process.pid), *run.children()]
        assert len(everybody) >= 5, "the run, its store, its aggregator and two workers"
        for process in everybody:
            process.send_signal(signal.SIGSTOP)
        time.sleep(ASLEEP_SECONDS)
        for process in everybody:
            process.send_signal(signal.SIGCONT)
        assert run.finish(seconds=600)["last_commit"] == undisturbed["last_commit"]
    finally:
        run.stop()
    assert "died" not in run.output
